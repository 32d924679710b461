# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits, measured against senders that send more.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
└───────────┘      └───────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests import frames
from tests.firewall import policy
from tests.wire import Wire
from xdpfw.kernel.state import boot_ns

SECONDS = 2
SECOND_NS = 1_000_000_000
BATCH = 20


def rule(limit: str) -> str:
    return f"{{name: it, match: {{proto: udp, dport: 53}}, action: pass, limit: {limit}}}"


def datagram(source: int = frames.SRC_V4, payload: int = 18) -> bytes:
    return frames.v4_frame(frames.udp(1, 53) + bytes(payload), 17, src=source)


def passed(wire: Wire) -> tuple[int, int]:
    """Packets and bytes that the rule has let through."""
    row = next(row for row in wire.firewall.stats()["rules"] if row["name"] == "it")
    return row["packets"] - row["exceeded"]["packets"], row["bytes"] - row["exceeded"]["bytes"]


def send_for(wire: Wire, seconds: float, frame: bytes) -> tuple[int, int]:
    """Sends some thousand a second. Returns how many, and the ns from before the first to behind all."""
    begun, sent = boot_ns(), 0
    while boot_ns() < begun + seconds * SECOND_NS:
        wire.send([frame] * BATCH)
        sent += BATCH
        time.sleep(0.002)
    wire.firewall.wait_for_rule("it", sent)
    return sent, boot_ns() - begun


@pytest.mark.parametrize("per", ["rule", "src", "flow"])
def test_a_sender_gets_the_burst_and_the_rate(make_wire: Callable[..., Wire], per: str, mode: str) -> None:
    wire = make_wire("fw0")
    wire.firewall.apply(policy(rule(f"{{rate: 500/s, burst: 500, per: {per}}}"), mode=mode))
    sent, took_ns = send_for(wire, SECONDS, datagram())
    packets, _ = passed(wire)
    assert sent > 500 + 500 * took_ns / SECOND_NS, "it has to send more than it may"
    assert 500 + 500 * SECONDS * 0.99 - BATCH <= packets <= 500 + 500 * (took_ns / SECOND_NS + 0.01) + 1


def test_bytes(make_wire: Callable[..., Wire], mode: str) -> None:
    wire = make_wire("fw0")
    wire.firewall.apply(policy(rule("{rate: 500k/s, burst: 500k, per: rule, bytes: true}"), mode=mode))
    _, took_ns = send_for(wire, SECONDS, datagram(payload=1400))
    _, octets = passed(wire)
    assert 500_000 * (1 + SECONDS * 0.99) - BATCH * 1442 <= octets <= 500_000 * (1 + took_ns / SECOND_NS + 0.01) + 1442


def test_a_flood_of_made_up_sources_leaves_a_known_one_its_rate(make_wire: Callable[..., Wire], mode: str) -> None:
    wire = make_wire("fw0")
    wire.firewall.apply(policy(rule("{rate: 1/h, burst: 5, per: src}"), mode=mode))
    wire.send([datagram()] * 3)
    wire.send(datagram(frames.SRC_V4 + 1 + number) for number in range(2000))
    wire.send([datagram()] * 7)
    wire.firewall.wait_for_rule("it", 2010)
    assert passed(wire)[0] == 2005


def test_an_apply_gives_no_source_a_fresh_bucket(wire: Wire) -> None:
    limit = rule("{rate: 1/h, burst: 5, per: src}")
    wire.firewall.apply(policy(limit))
    wire.send([datagram()] * 10)
    wire.firewall.wait_for_rule("it", 10)
    wire.firewall.apply(policy(limit, "{name: more, match: {proto: tcp}, action: drop}"))
    wire.send([datagram()] * 10)
    wire.firewall.wait_for_rule("it", 20)
    row = wire.firewall.stats()["rules"][0]
    assert (row["packets"], row["exceeded"]["packets"]) == (20, 15), "and the counters go on"
    assert "exceeded" in wire.firewall.command("stats").stdout
