# SPDX-License-Identifier: GPL-2.0-or-later
"""Every reason for which a frame is invalid: frames that just are, frames that just are not."""

from __future__ import annotations

import dataclasses

import pytest

from tests.frames import AH, FRAGMENT, HOP_BY_HOP, IPV4, ROUTING, VLAN, ethernet, extended, ipv4, tcp, v6_frame
from tests.kernel.agreement import agreement
from tests.kernel.odd_frames import INVALID, V4, V6, VALID
from tests.policies import written
from xdpfw.compiler.ir import Verdict
from xdpfw.packet.decode import INVALID_REASONS

pytestmark = pytest.mark.needs("privileges", "data plane")


def test_each_reason_has_frames() -> None:
    assert [f"invalid.{name}" for name in INVALID] == list(INVALID_REASONS)


@pytest.mark.parametrize("verdict", ["drop", "pass"])
@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str, verdict: str) -> None:
    """No rule, and no default, gets to see it."""
    policy = written("{name: it, action: tx}", invalid=verdict, allow="arp ndp dhcp icmp_errors")
    with agreement(policy) as both:
        for frame in INVALID[name]:
            decision = both.run(frame)
            assert (decision.reason, decision.verdict) == (f"invalid.{name}", verdict), frame.hex()


def test_valid() -> None:
    policy = dataclasses.replace(written("{name: it, action: tx}"), invalid=Verdict.PASS)
    with agreement(policy) as both:
        for frame in VALID:
            assert both.run(frame).rule == "it", frame.hex()


@pytest.mark.parametrize(
    "whole", [V4, V6, v6_frame(*extended([HOP_BY_HOP, AH, FRAGMENT], tcp()))], ids=["v4", "v6", "ext"]
)
def test_every_length_of_a_cut_frame(whole: bytes) -> None:
    with agreement(written("{name: it, action: pass}", default="drop")) as both:
        for length in range(len(whole)):
            assert both.run(whole[:length]).kind == "invalid", length
        assert both.run(whole).rule == "it"


def test_every_value_of_every_byte() -> None:
    """Whatever stands in a header: both agree on what it means."""
    rules = [
        "{name: ssh, match: {proto: tcp, dport: 22, tcp_flags: 'syn,!ack'}, action: tx}",
        "{name: v4, match: {family: ipv4}, action: drop}",
    ]
    frames = [
        ethernet(IPV4, ipv4(tcp(), options=bytes(4)), tags=[(VLAN, 1)]),
        v6_frame(*extended([HOP_BY_HOP, AH, FRAGMENT, ROUTING], tcp())),
    ]
    with agreement(written(*rules, allow="arp ndp dhcp icmp_errors")) as both:
        for frame in frames:
            for at in range(12, len(frame)):
                for value in range(256) if at < 60 else (0, 1, 6, 44, 51, 60, 0x50, 0x60, 0xFF):
                    both.run(frame[:at] + bytes((value,)) + frame[at + 1 :])
