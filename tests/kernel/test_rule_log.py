# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of rules that log: one for each match, or for one in so many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import frames
from tests.kernel.agreement import FIRST_IFINDEX, agreement
from tests.knocking import S, knock, packet_of
from tests.policies import INTERFACES, one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import Action, ActionKind, Match
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane")

ACTIONS = (
    Action(ActionKind.PASS),
    Action(ActionKind.DROP),
    Action(ActionKind.TX),
    Action(ActionKind.REDIRECT, "b"),
)
FIRST_PORT = 100


def logging(sample: int = 1) -> tuple[ir.Rule, ...]:
    """A rule of each action that logs, by destination port, behind one that does not."""
    found = [rule(0, Match(dport=one(80)), ActionKind.PASS)]
    for number, action in enumerate(ACTIONS):
        match = Match(dport=one(FIRST_PORT + number))
        found.append(ir.Rule(f"log-{action.kind}", match, action, log_sample=sample))
    return (*found, ir.Rule("others", Match(family=one(0)), Action(ActionKind.PASS), log_sample=sample))


@pytest.mark.parametrize("interface", [0, 2, None])
def test_each_match_is_told_with_its_packet(interface: int | None) -> None:
    """All members of the events are compared at the end."""
    with agreement(policy(*logging())) as both:
        for port in (80, *range(FIRST_PORT, FIRST_PORT + len(ACTIONS)), 9):
            for src in ("198.51.100.7", "2001:db8::7"):
                for protocol in ("tcp", "udp"):
                    both.run(packet_of(f"{port}/{protocol}", src), interface)
                    both.run(packet_of(f"{port}/{protocol}", src, options="vlan=7"), interface)
        both.run("arp 192.0.2.1 > 192.0.2.2", interface)
        both.run(frames.ethernet(0x88CC, bytes(46)), interface)
        assert len(both.told.records) == 4 * 2 * 2 * 2 + 2


def test_knocks_beside() -> None:
    """The rules' numbers do not count those of knocks; a drop that is told breaks a sequence, which is told behind."""
    ssh = knock("ssh", "7000/tcp 9000/udp", "22/tcp")
    with agreement(replace(policy(*logging()), knocks=(ssh,))) as both:
        for step in ("7000/tcp", f"{FIRST_PORT + 1}/tcp", "7000/tcp", f"{FIRST_PORT}/tcp", "9000/udp", "22/tcp"):
            both.run(packet_of(step))
        kinds = [abi.EventKind(record.kind).name for record in both.told.records]
        assert kinds == [
            *("EVENT_STEP", "EVENT_RULE", "EVENT_RESET", "EVENT_STEP", "EVENT_RULE", "EVENT_STEP", "EVENT_GRANT")
        ]


def test_more_than_are_told_in_a_second_are_counted() -> None:
    with agreement(policy(*logging())) as both:
        for _ in range(abi.Limit.EVENTS_PER_SECOND + 50):
            both.run(packet_of(f"{FIRST_PORT}/tcp"))
        assert both.told.suppressed() == {int(abi.EventKind.EVENT_RULE): 50}
        both.check_knocks()
        both.wait(2 * S)
        both.run(packet_of(f"{FIRST_PORT}/tcp"))
        assert both.told.records[-1].suppressed == 50


def test_a_ring_that_has_gone_round() -> None:
    with agreement(policy(*logging())) as both:
        for _ in range(abi.Limit.EVENT_SLOTS // abi.Limit.EVENTS_PER_SECOND + 1):
            for _ in range(abi.Limit.EVENTS_PER_SECOND):
                both.run(packet_of(f"{FIRST_PORT}/udp"))
            both.wait(2 * S)
        assert len(both.told.records) > abi.Limit.EVENT_SLOTS


def test_a_sample_is_one_in_so_many() -> None:
    """Of 20,000 matches, one in 100: between 100 and 320 events but once in 10^12 runs."""
    image = compile_policy(policy(*logging(sample=100)))
    ifindexes = [FIRST_IFINDEX + number for number in range(len(INTERFACES))]
    with Generation.load(image, interfaces=ifindexes, targets=[LOOPBACK], trace=True) as generation:
        state = generation.state
        assert state is not None
        frame = parse_packet(packet_of(f"{FIRST_PORT}/tcp"))
        for number in range(20_000):
            generation.run(frame, boot_ns=number * S)
        with state.kernel_ring() as ring:
            assert 100 < ring.head < 320
