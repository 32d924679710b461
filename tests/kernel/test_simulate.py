# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions of the program in the kernel are told as the reference interpreter tells its own."""

from __future__ import annotations

import pytest

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.simulate.decider import ReferenceDecider, in_kernel

pytestmark = pytest.mark.needs("privileges", "data plane")

POLICY = """\
version: 1
interfaces: {eth0: {}, eth1: {}}
default: drop
rules:
  - {name: seen, action: count}
  - {name: web, match: {proto: tcp, dport: 80}, action: pass}
  - {name: back, match: {proto: tcp, dport: 81}, action: tx}
  - {name: out, match: {interface: eth1, proto: udp}, action: {redirect: nowhere}}
"""

PACKETS = (
    "tcp 198.51.100.7:40000 > 203.0.113.1:80",
    "tcp 198.51.100.7:40000 > 203.0.113.1:81",
    "tcp 198.51.100.7:40000 > 203.0.113.1:22",
    "udp 198.51.100.7:40000 > 203.0.113.1:22",
    "arp 192.0.2.1 > 192.0.2.2",
    "00112233",
    "ff ff ff ff ff ff 02 00 00 00 00 01 08 00 45",
)


@pytest.fixture(scope="module")
def policy() -> ir.Policy:
    return lower(load("p.yaml", Sources.from_bundle({"p.yaml": POLICY})))


def test_both_deciders_answer_alike(policy: ir.Policy) -> None:
    reference = ReferenceDecider(policy)
    with in_kernel(policy) as kernel:
        for interface in (0, 1, None):
            for packet in PACKETS:
                frame = parse_packet(packet)
                ours, theirs = kernel.decide(frame, interface), reference.decide(frame, interface)
                assert (ours.verdict, ours.reason, ours.rule, ours.target) == (
                    theirs.verdict,
                    theirs.reason,
                    theirs.rule,
                    theirs.target,
                ), (packet, interface)
        assert kernel.counted() == reference.counted() == {"seen": 12}


def test_frames_longer_than_a_test_run_are_decided_all_the_same(policy: ir.Policy) -> None:
    longest = parse_packet("tcp [2001:db8::1]:1 > [2001:db8::2]:80 vlan=1 inner_vlan=2 length=65575")
    reference = ReferenceDecider(policy)
    with in_kernel(policy) as kernel:
        for frame in (longest[:-1], longest, longest + bytes(20_000), b"\0" * 200_000):
            ours, theirs = kernel.decide(frame), reference.decide(frame)
            assert (ours.verdict, ours.reason, ours.rule) == (theirs.verdict, theirs.reason, theirs.rule)
