# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks by sequences, in virtual time: what opens, and what must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.knocking import (
    KNOCKER,
    KNOCKER6,
    MS,
    PASSED,
    SHUT,
    STEP,
    Firewall,
    S,
    knock,
    packet_of,
    sequence,
)
from tests.policies import NOTHING_ALLOWED, one, rule
from xdpfw.compiler import ir
from xdpfw.compiler.ir import ActionKind, Match, Verdict
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import evaluate
from xdpfw.reference.memory import EventKind

SSH = knock("ssh", "7000/tcp 9000/udp 8000/tcp")
STEPS = "7000/tcp 9000/udp 8000/tcp"
SYN_22 = packet_of("22/tcp")


def opens(packets: list[str], knocks: tuple[ir.Knock, ...] = (SSH,), rules: tuple[ir.Rule, ...] = ()) -> bool:
    """Whether the packets open port 22 to their source."""
    firewall = Firewall(knocks, rules)
    for packet in packets:
        firewall.send(packet)
    return firewall.opened()


def test_the_sequence_opens_for_its_source_alone() -> None:
    firewall = Firewall([SSH])
    assert firewall.send(SYN_22) == SHUT
    firewall.knock(STEPS)
    assert firewall.send(SYN_22) == PASSED
    assert firewall.send(f"{SYN_22} A") == PASSED
    assert not firewall.opened(src="198.51.100.8")
    assert firewall.send(packet_of("22/udp")) == "default"
    assert firewall.send(packet_of("23/tcp")) == "default"


def test_a_grant_ends_at_its_time() -> None:
    firewall = Firewall([SSH])
    firewall.knock(STEPS)
    firewall.wait(30 * S - 1)
    assert firewall.opened()
    firewall.wait(1)
    assert not firewall.opened()


@pytest.mark.parametrize(
    "steps",
    [
        "9000/udp 7000/tcp 8000/tcp",
        "7000/tcp 8000/tcp 9000/udp",
        "8000/tcp 9000/udp 7000/tcp",
        "7000/tcp 8000/tcp",
        "7000/tcp 9000/udp",
        "9000/udp 8000/tcp",
        "7000/udp 9000/udp 8000/tcp",
        "7000/tcp 9000/tcp 8000/tcp",
        "7000/tcp 9000/udp 8000/udp",
        "7000/tcp 23/tcp 9000/udp 8000/tcp",
        "7000/tcp 9000/udp 23/tcp 8000/tcp",
        "7000/tcp 22/tcp 9000/udp 8000/tcp",
        "7000/tcp 9000/udp 7000/tcp 8000/tcp",
        "7000/tcp 9000/udp 7000/tcp 9000/udp 7000/tcp 8000/tcp",
        "7000/tcp 9000/udp 9999/udp 8000/tcp",
    ],
)
def test_what_does_not_open(steps: str) -> None:
    assert not opens([packet_of(step) for step in steps.split()])


@pytest.mark.parametrize(
    "steps",
    [
        STEPS,
        "7000/tcp 7000/tcp 7000/tcp 9000/udp 9000/udp 8000/tcp",
        "7000/tcp 9000/udp 7000/tcp 9000/udp 8000/tcp",
        "8000/tcp 9000/udp 7000/tcp 9000/udp 8000/tcp",
        "23/tcp 7000/tcp 9000/udp 8000/tcp 23/tcp",
        "7000/tcp 9000/udp 8000/tcp 8000/tcp",
    ],
)
def test_what_opens(steps: str) -> None:
    assert opens([packet_of(step) for step in steps.split()])


def test_packets_of_others_do_not_matter() -> None:
    others = [packet_of(step, src) for step in ("7000/tcp", "23/tcp", "8000/tcp") for src in ("198.51.100.8", KNOCKER6)]
    assert opens([packet for step in STEPS.split() for packet in (packet_of(step), *others)])


def test_steps_of_two_sources_open_for_none() -> None:
    firewall = Firewall([SSH])
    firewall.knock("7000/tcp")
    firewall.knock("9000/udp", "198.51.100.8")
    firewall.knock("8000/tcp")
    assert not firewall.opened()
    assert not firewall.opened(src="198.51.100.8")


def test_in_ipv6_too() -> None:
    firewall = Firewall([SSH])
    firewall.knock(STEPS, KNOCKER6)
    assert firewall.opened(src=KNOCKER6)
    assert not firewall.opened()


@pytest.mark.parametrize("options", ["vlan=7", "vlan=7 inner_vlan=8", "options", "ttl=1 dscp=46"])
@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_tags_and_options_do_not_matter(src: str, options: str) -> None:
    firewall = Firewall([SSH])
    for step in STEPS.split():
        assert firewall.send(packet_of(step, src, options=options)) == STEP
    assert firewall.opened(src=src)


# Time


@pytest.mark.parametrize(
    ("gaps", "opened"),
    [
        ((5 * S, 5 * S), True),
        ((5 * S + MS, 0), False),
        ((0, 5 * S + MS), False),
        ((5 * S, 3 * S), True),
        ((3 * S, 5 * S), True),
    ],
)
def test_each_gap_has_a_bound(gaps: tuple[int, int], opened: bool) -> None:
    firewall = Firewall([knock("ssh", sequence(STEPS, within=10 * S, step=5 * S))])
    first, second, third = STEPS.split()
    firewall.knock(first)
    firewall.wait(gaps[0])
    firewall.knock(second)
    firewall.wait(gaps[1])
    firewall.knock(third)
    assert firewall.opened() == opened


@pytest.mark.parametrize(("more", "opened"), [(0, True), (MS, False)])
def test_so_has_the_whole(more: int, opened: bool) -> None:
    firewall = Firewall([knock("ssh", sequence(STEPS, within=8 * S, step=5 * S))])
    firewall.knock("7000/tcp")
    firewall.wait(4 * S)
    firewall.knock("9000/udp")
    firewall.wait(4 * S + more)
    firewall.knock("8000/tcp")
    assert firewall.opened() == opened


def test_a_repeat_gains_no_time() -> None:
    firewall = Firewall([knock("ssh", sequence(STEPS, within=10 * S, step=5 * S))])
    firewall.knock("7000/tcp")
    firewall.wait(3 * S)
    firewall.knock("7000/tcp")
    firewall.wait(2 * S + MS)
    firewall.knock("9000/udp 8000/tcp")
    assert not firewall.opened()


def test_the_first_step_begins_anew_once_its_time_is_over() -> None:
    firewall = Firewall([knock("ssh", sequence(STEPS, within=10 * S, step=5 * S))])
    firewall.knock("7000/tcp")
    firewall.wait(5 * S + MS)
    firewall.knock("7000/tcp")
    firewall.wait(5 * S)
    firewall.knock("9000/udp 8000/tcp")
    assert firewall.opened()


def test_a_late_step_is_no_reset_to_tell_of() -> None:
    firewall = Firewall([SSH])
    firewall.knock("7000/tcp")
    firewall.wait(10 * S + MS)
    firewall.knock("9000/udp")
    assert firewall.kinds() == [(EventKind.STEP, "ssh", 1)]


# What is a step


@pytest.mark.parametrize("flags", ["S", "SE", "SW", "SEW"])
def test_a_syn_with_ecn_is_bare(flags: str) -> None:
    assert opens([packet_of("7000/tcp", options=flags), packet_of("9000/udp"), packet_of("8000/tcp", options=flags)])


@pytest.mark.parametrize("flags", ["none", "A", "F", "R", "FPU", "SA", "SF", "SR", "SP", "SU", "FSRPAUEC"])
def test_other_segments_are_no_steps_and_break_the_sequence(flags: str) -> None:
    firewall = Firewall([SSH])
    assert firewall.send(packet_of("7000/tcp", options=flags)) == "default"
    firewall.knock("7000/tcp")
    assert firewall.send(packet_of("7000/tcp", options=flags)) == "default"
    assert firewall.kinds() == [(EventKind.STEP, "ssh", 1), (EventKind.RESET, "ssh", 1)]


@pytest.mark.parametrize("step", ["7000/tcp", "8000/tcp"])
def test_a_syn_with_data_is_dropped_like_a_step_and_breaks_the_sequence(step: str) -> None:
    firewall = Firewall([SSH], [rule(0, Match(), ActionKind.PASS)])
    firewall.knock("7000/tcp 9000/udp")
    assert firewall.send(packet_of(step, options="S payload=00")) == STEP
    firewall.knock("8000/tcp")
    assert not firewall.opened()


def test_padding_is_no_data() -> None:
    frames = [parse_packet(packet_of(step)) + bytes(6) for step in STEPS.split()]
    firewall = Firewall([SSH])
    assert [firewall.send(frame) for frame in frames] == [STEP] * 3
    assert firewall.opened()


def test_a_datagram_may_have_data() -> None:
    assert opens([packet_of("7000/tcp"), packet_of("9000/udp", options="payload=6162"), packet_of("8000/tcp")])


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_a_fragment_is_no_step(src: str) -> None:
    firewall = Firewall([SSH])
    assert firewall.send(packet_of("7000/tcp", src, options="frag=first")) == "default"
    assert firewall.kinds() == []
    assert firewall.send(packet_of("7000/tcp", src, options="frag=later")) == "default"


ICMP = "icmp 198.51.100.7 > 203.0.113.1"
ICMPV6 = "icmpv6 2001:db8::7 > 2001:db8::1"


@pytest.mark.parametrize(
    ("step", "yes", "no"),
    [
        (
            "8/icmp",
            [f"{ICMP} type 8", f"{ICMP} type 8 code 9", f"{ICMPV6} type 128", f"{ICMPV6} type 128 code 1"],
            [f"{ICMP} type 0", f"{ICMPV6} type 8", f"{ICMPV6} type 129", f"{ICMP} type 8 frag=first"],
        ),
        ("0/icmp", [f"{ICMP} type 0", f"{ICMPV6} type 129"], [f"{ICMP} type 8", f"{ICMPV6} type 0"]),
        ("8.3/icmp", [f"{ICMP} type 8 code 3", f"{ICMPV6} type 128 code 3"], [f"{ICMP} type 8", f"{ICMPV6} type 128"]),
        ("13/icmp", [f"{ICMP} type 13"], [f"{ICMPV6} type 13", f"{ICMP} type 14"]),
        ("128/icmp", [f"{ICMP} type 128"], [f"{ICMPV6} type 128"]),
        ("128/icmpv6", [f"{ICMPV6} type 128", f"{ICMPV6} type 128 code 7"], [f"{ICMP} type 128", f"{ICMP} type 8"]),
        ("200.1/icmpv6", [f"{ICMPV6} type 200 code 1"], [f"{ICMPV6} type 200", f"{ICMP} type 200 code 1"]),
    ],
)
def test_icmp(step: str, yes: list[str], no: list[str]) -> None:
    firewall = Firewall([knock("ssh", f"{step} 9000/udp")])
    assert [packet for packet in yes if firewall.send(packet) != STEP] == []
    assert [packet for packet in no if firewall.send(packet) == STEP] == []


def test_other_protocols_are_not_tcp_and_udp() -> None:
    firewall = Firewall([SSH])
    for name in ("sctp", "dccp", "udplite"):
        assert firewall.send(f"{name} 198.51.100.7:1 > 203.0.113.1:9000") == "default"
        assert firewall.send(f"{name} 198.51.100.7:1 > 203.0.113.1:22") == "default"


def test_a_sequence_of_one_step() -> None:
    firewall = Firewall([knock("ssh", "7000/tcp")])
    firewall.knock("7000/tcp")
    assert firewall.opened()
    firewall.wait(20 * S)
    firewall.knock("7000/tcp")
    firewall.wait(20 * S)
    assert firewall.opened()


def test_a_port_may_come_again() -> None:
    there_and_back = knock("ssh", "7000/tcp 9000/udp 7000/tcp 8000/tcp")
    steps = ["7000/tcp", "9000/udp", "7000/tcp", "7000/tcp", "8000/tcp"]
    assert opens([packet_of(step) for step in steps], (there_and_back,))
    assert not opens([packet_of(step) for step in ("7000/tcp", "7000/tcp", "8000/tcp")], (there_and_back,))


# What breaks a sequence


PASS_WEB = rule(1, Match(proto=one(6), dport=one(80)), ActionKind.PASS)
BREAKERS = {
    "rule drops": ((rule(1, Match(proto=one(6), dport=one(80)), ActionKind.DROP),), True),
    "rule passes": ((PASS_WEB,), False),
    "rule sends back": ((rule(1, Match(proto=one(6), dport=one(80)), ActionKind.TX),), False),
    "rule redirects": ((ir.Rule("r1", Match(dport=one(80)), ir.Action(ActionKind.REDIRECT, "b")),), False),
    "rule counts": ((rule(1, Match(), ActionKind.COUNT),), True),
    "none": ((), True),
}


@pytest.mark.parametrize("name", BREAKERS)
@pytest.mark.parametrize("default", [Verdict.DROP, Verdict.PASS])
def test_what_no_rule_passes_breaks_the_sequence(name: str, default: Verdict) -> None:
    rules, breaks = BREAKERS[name]
    firewall = Firewall([SSH], rules, default)
    firewall.knock("7000/tcp 9000/udp")
    firewall.send(packet_of("80/tcp"))
    firewall.knock("8000/tcp")
    assert firewall.opened() != breaks
    assert ((EventKind.RESET, "ssh", 2) in firewall.kinds()) == breaks


def test_any_ip_packet_does() -> None:
    for packet in ("gre 198.51.100.7 > 203.0.113.1", "tcp 198.51.100.7 > 203.0.113.1 frag=later", f"{ICMP} type 8"):
        assert not opens([packet_of("7000/tcp"), packet_of("9000/udp"), packet, packet_of("8000/tcp")]), packet


def test_arp_allowances_and_invalid_packets_do_not() -> None:
    allow = replace(NOTHING_ALLOWED, icmp_errors=True)
    firewall = Firewall([SSH], allow=allow)
    truncated = parse_packet(packet_of("80/tcp"))[:40]
    assert firewall.send(truncated) == "invalid.ipv4_length"
    for step in STEPS.split():
        firewall.knock(step)
        assert firewall.send(truncated) == "invalid.ipv4_length"
        assert firewall.send(f"{ICMP} type 3") == "allow.icmp_errors"
        assert firewall.send("arp 198.51.100.7 > 203.0.113.1") == "default"
    assert firewall.opened()


def test_a_closed_port_does_and_an_open_one_does_not() -> None:
    firewall = Firewall([SSH])
    firewall.knock("7000/tcp 9000/udp")
    assert firewall.send(SYN_22) == SHUT
    firewall.knock("8000/tcp")
    assert firewall.send(SYN_22) == SHUT
    firewall.knock(STEPS)
    firewall.knock("7000/tcp 9000/udp")
    assert firewall.send(SYN_22) == PASSED
    firewall.knock("8000/tcp")
    assert firewall.kinds()[-1] == (EventKind.GRANT, "ssh", 0)


@pytest.mark.parametrize("group", ["224.0.0.251", "239.255.255.255", "255.255.255.255", "ff02::fb"])
def test_announcements_to_a_group_neither_knock_nor_break(group: str) -> None:
    src = KNOCKER6 if ":" in group else KNOCKER
    firewall = Firewall([SSH])
    for step in STEPS.split():
        assert firewall.send(packet_of("9000/udp", src, group)) == STEP
        assert firewall.send(packet_of("7000/tcp", src, group, "S payload=00")) == STEP
        assert firewall.send(packet_of("5353/udp", src, group)) == "default"
        assert firewall.send(packet_of("22/tcp", src, group)) == SHUT
        firewall.knock(step, src)
    assert firewall.opened(src=src)
    firewall = Firewall([SSH])
    firewall.knock(STEPS, src, group)
    assert not firewall.opened(src=src)


@pytest.mark.parametrize("dst", ["223.255.255.255", "240.0.0.0", "255.255.255.254", "fe80::1"])
def test_their_neighbours_do(dst: str) -> None:
    src = KNOCKER6 if ":" in dst else KNOCKER
    firewall = Firewall([SSH])
    firewall.knock("7000/tcp", src)
    firewall.send(packet_of("5353/udp", src, dst))
    assert (EventKind.RESET, "ssh", 1) in firewall.kinds()


# Several knocks


def test_a_step_of_one_knock_breaks_another() -> None:
    other = knock("other", "1000/tcp 2000/tcp", "80/tcp")
    firewall = Firewall([SSH, other])
    firewall.knock("7000/tcp 9000/udp 1000/tcp 8000/tcp")
    assert not firewall.opened()


def test_knocks_may_share_steps() -> None:
    longer = knock("longer", "7000/tcp 9000/udp 8000/tcp 6000/tcp", "80/tcp")
    firewall = Firewall([SSH, longer])
    firewall.knock(STEPS)
    assert firewall.opened("22/tcp")
    assert not firewall.opened("80/tcp")
    firewall.knock("6000/tcp")
    assert firewall.opened("80/tcp")


def test_a_port_that_two_knocks_open_needs_one_of_them() -> None:
    other = knock("other", "1000/tcp 2000/tcp", "22/tcp 80/tcp", lasts=5 * S)
    firewall = Firewall([SSH, other])
    firewall.knock("1000/tcp 2000/tcp")
    assert firewall.opened("22/tcp")
    assert firewall.opened("80/tcp")
    firewall.knock(STEPS)
    firewall.wait(5 * S)
    assert firewall.opened("22/tcp")
    assert not firewall.opened("80/tcp")


# Events


def test_events_of_a_knock() -> None:
    firewall = Firewall([knock("ssh", STEPS, close="9000/tcp 7000/tcp")])
    firewall.knock(STEPS)
    assert [(event.kind, event.step, event.steps, event.closes) for event in firewall.events] == [
        (EventKind.STEP, 1, 3, False),
        (EventKind.STEP, 2, 3, False),
        (EventKind.STEP, 3, 3, False),
        (EventKind.GRANT, 0, 0, False),
    ]
    assert firewall.events[-1].duration_ns == 30 * S
    firewall.events.clear()
    firewall.knock("9000/tcp 9000/tcp 7000/tcp")
    assert [(event.kind, event.step, event.steps, event.closes) for event in firewall.events] == [
        (EventKind.STEP, 1, 2, True),
        (EventKind.STEP, 1, 3, False),
        (EventKind.STEP, 2, 2, True),
        (EventKind.GRANT_END, 0, 0, False),
    ]


def test_without_memory_nothing_has_come_before() -> None:
    firewall = Firewall([SSH])
    firewall.knock("7000/tcp 9000/udp")
    decision = evaluate(firewall.policy, parse_packet(packet_of("8000/tcp")))
    assert (decision.reason, decision.events) == (STEP, ())
