# SPDX-License-Identifier: GPL-2.0-or-later
"""200,000 SPA messages that are forged, or sent again, beside one that is right: see tests/knock_host.py.

They have the address of the one who knocks, the number of his key and a time that fits: nothing but the tag is wrong.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import frames
from tests.firewall import policy
from tests.flood import Frames, copies, flood, send, with_sources
from tests.knock_host import ADMIN, CLIENT_V4, SPA_KNOCK, SPA_PORT, V4, KnockHost, make_key
from tests.topology import wait_for
from xdpfw.knock.keys import parse_client_half
from xdpfw.knock.spa import TAG_BYTES, Message, source_bytes

COUNT = 200_000
AHEAD_NS = 50 * 10**9
"""Later than the real message, and within the window: these messages come to be looked at as a whole."""

CLIENT, HOST = 0xC0000202, 0xC0000201


def carried(payload: bytes) -> bytes:
    segment = frames.udp(dport=SPA_PORT, length=8 + len(payload)) + payload
    return frames.v4_frame(segment, frames.UDP, src=CLIENT, dst=HOST)


def forged(number: int) -> Frames:
    """Tags that are drawn."""
    payload = Message(number, time.time_ns() + AHEAD_NS, 1, source_bytes(CLIENT_V4)).signed(bytes(32))
    made = copies(carried(payload), COUNT)
    made[:, -TAG_BYTES:] = np.random.default_rng(5).integers(0, 256, (COUNT, TAG_BYTES), np.uint8)
    return made


@pytest.fixture
def laptop(knock_host: KnockHost) -> Path:
    client_file = make_key(knock_host.firewall, "laptop")
    knock_host.firewall.apply(ADMIN)
    return client_file


@contextlib.contextmanager
def under_way(knock_host: KnockHost, flooding: Frames, reason: str) -> Iterator[None]:
    """Sends these, and goes on in the context once a part has arrived. At its end as many as they are have been met."""
    goal = knock_host.firewall.reason(reason) + len(flooding) // 10
    with knock_host.client.raw("eth0") as sender:
        sending = threading.Thread(target=send, args=(sender, flooding))
        sending.start()
        try:
            wait_for(lambda: knock_host.firewall.reason(reason) >= goal, "the flood to begin")
            yield
        finally:
            sending.join()


def test_forged_messages_beside_a_right_one(knock_host: KnockHost, laptop: Path) -> None:
    number = parse_client_half(laptop.read_text(encoding="utf-8"), "laptop").number
    flooding = forged(number)
    with knock_host.client.raw("eth0") as sender:
        flood(sender, knock_host.firewall, flooding, "knock.spa_forged")
    assert knock_host.grants() == []
    with under_way(knock_host, flooding, "knock.spa_forged"):
        knock_host.xdpfw_knock(V4, "--spa", laptop, "--verify", "22", "--tries", "10")
    assert [(grant["source"], grant["key"]) for grant in knock_host.grants()] == [(CLIENT_V4, "laptop")]
    assert knock_host.opened()
    reasons = knock_host.firewall.reasons()
    assert reasons["knock.spa_forged"] >= COUNT
    assert 1 <= reasons["knock.spa_accepted"] <= 10
    (worst,) = knock_host.firewall.status()["knocking"]["spa_failures"]
    assert worst["prefix"] == "192.0.2.0/24"
    assert worst["packets"] == sum(
        packets for name, packets in reasons.items() if name.startswith("knock.spa_") and name != "knock.spa_accepted"
    )


def test_a_message_that_is_sent_again_so_often(knock_host: KnockHost, laptop: Path) -> None:
    half = parse_client_half(laptop.read_text(encoding="utf-8"), "laptop")
    payload = Message(half.number, time.time_ns(), 1, source_bytes(CLIENT_V4)).signed(half.bound)
    with knock_host.client.raw("eth0") as sender:
        flood(sender, knock_host.firewall, copies(carried(payload), 1), "knock.spa_accepted")
        knock_host.firewall.command("grants", "revoke", "--all")
        flood(sender, knock_host.firewall, copies(carried(payload), COUNT), "knock.spa_replayed")
        others = with_sources(carried(payload), COUNT, 0x0B000000)
        flood(sender, knock_host.firewall, others, "knock.spa_replayed")
    assert knock_host.firewall.reason("knock.spa_accepted") == 1
    assert knock_host.grants() == []
    assert not knock_host.opened()
    knock_host.xdpfw_knock(V4, "--spa", laptop, "--verify", "22")


def test_the_same_message_on_all_cpus_at_once(knock_host: KnockHost, laptop: Path) -> None:
    """It is accepted once, whichever of its copies comes first.

    Generic XDP runs where the sender does, so that two CPUs have it at once.
    """
    knock_host.firewall.detach()
    knock_host.firewall.apply(policy(mode="generic", extra=SPA_KNOCK))
    half = parse_client_half(laptop.read_text(encoding="utf-8"), "laptop")
    for times in range(1, 21):
        payload = Message(half.number, time.time_ns(), 1, source_bytes(CLIENT_V4)).signed(half.bound)
        batch = copies(carried(payload), 50)
        with contextlib.ExitStack() as opened:
            senders = [opened.enter_context(knock_host.client.raw("eth0")) for _ in range(4)]
            sending = [threading.Thread(target=send, args=(sender, batch)) for sender in senders]
            for thread in sending:
                thread.start()
            for thread in sending:
                thread.join()

        def decided() -> int:
            return sum(packets for name, packets in knock_host.firewall.reasons().items() if "spa" in name)

        goal = times * 4 * len(batch)
        wait_for(lambda goal=goal: decided() >= goal, "all of them to be decided on")
        assert knock_host.firewall.reason("knock.spa_accepted") == times
