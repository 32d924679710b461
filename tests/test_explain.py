# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace: each step with its outcome, and the same decision as evaluate()'s."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.knock_strategies import Sent, conversations
from tests.knocking import Firewall, S, knock, message, packet_of, prefixes, spa_packet, udp_packet
from xdpfw.compiler import ir
from xdpfw.compiler.ir import (
    Action,
    ActionKind,
    AddressRanges,
    Allow,
    IcmpMessage,
    Interface,
    MacMask,
    Match,
    Policy,
    Range,
    Rule,
    TcpFlags,
    Verdict,
)
from xdpfw.explain import SPA_TEXTS, explain
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.addresses import parse_addresses
from xdpfw.policy.entries import Entries
from xdpfw.reference.interpreter import evaluate
from xdpfw.reference.memory import START, Memory

ALLOW = Allow(arp=True, ndp=False, dhcp=True, icmp_errors=False, established=True, fragments=True)
TCP = "tcp 198.51.100.7:40000 > 203.0.113.1:22 SA"
ARP = "arp 1.1.1.1 > 1.1.1.2"


def policy(*rules: Rule) -> Policy:
    interfaces = (Interface("eth0"), Interface("eth1"), Interface("eth2"))
    return Policy(interfaces=interfaces, default=Verdict.DROP, invalid=Verdict.DROP, allow=ALLOW, rules=rules)


def rule(name: str, match: Match, action: ActionKind = ActionKind.PASS, unless: Match | None = None) -> Rule:
    return Rule(name, match, Action(action), unless)


ONE_OF_EACH = policy(
    rule("dns", Match(dport=(Range(53, 53), Range(8000, 8099)))),
    rule("all", Match(), ActionKind.COUNT),
    rule("near", Match(), unless=Match(ttl=(Range(64, 64),))),
    rule("pings", Match(icmp=(IcmpMessage(1, Range(8, 8), Range(0, 255)),))),
    rule("ssh", Match(dport=(Range(22, 22),))),
    rule("late", Match()),
)


def listed(name: str) -> ir.AddressSet:
    return ir.AddressSet(name, Entries.of([parse_addresses("192.0.2.0/24")]).table, 1, f"{name}.txt")


def lines(packet: str, rules: Policy, interface: int | None = 0) -> list[str]:
    return [str(entry) for entry in explain(rules, parse_packet(packet), interface)[1]]


def test_up_to_the_rule_that_decides() -> None:
    assert lines(TCP, ONE_OF_EACH) == [
        "parse: tcp 198.51.100.7:40000 > 203.0.113.1:22 SA ttl=64 length=40",
        "allow arp: no match",
        "allow dhcp: no match",
        "allow established: no match: not a packet of a flow that is known",
        "rule dns: no match, dport is 22; wanted: 53, 8000-8099",
        "rule all: counts, and goes on",
        "rule near: no match, its except holds",
        "rule pings: no match, the packet has no icmp; wanted: icmp type 8",
        "rule ssh: match",
    ]


def test_up_to_the_allowance_that_decides() -> None:
    assert lines(ARP, ONE_OF_EACH) == ["parse: arp 1.1.1.1 > 1.1.1.2", "allow arp: match"]


def test_up_to_the_default() -> None:
    assert lines(TCP, policy()) == [
        "parse: tcp 198.51.100.7:40000 > 203.0.113.1:22 SA ttl=64 length=40",
        "allow arp: no match",
        "allow dhcp: no match",
        "allow established: no match: not a packet of a flow that is known",
        "default: match",
    ]


def test_invalid_packets_get_no_further() -> None:
    assert lines("ff", ONE_OF_EACH) == ["parse: invalid.ethernet"]


def test_json() -> None:
    _, trace = explain(ONE_OF_EACH, parse_packet(TCP))
    assert [entry.to_json() for entry in trace][2:] == [
        {"step": "allow", "outcome": "unmet", "name": "dhcp"},
        {
            "step": "allow",
            "outcome": "unmet",
            "name": "established",
            "found": "not a packet of a flow that is known",
        },
        {
            "step": "rule",
            "outcome": "unmet",
            "name": "dns",
            "field": "dport",
            "found": "22",
            "wanted": "53, 8000-8099",
        },
        {"step": "rule", "outcome": "counted", "name": "all"},
        {"step": "rule", "outcome": "excepted", "name": "near"},
        {"step": "rule", "outcome": "unmet", "name": "pings", "field": "icmp", "wanted": "icmp type 8"},
        {"step": "rule", "outcome": "matched", "name": "ssh"},
    ]


@pytest.mark.parametrize(
    ("match", "packet", "line"),
    [
        (Match(interface=(Range(1, 2),)), TCP, "interface is eth0; wanted: eth1, eth2"),
        (Match(family=(Range(0, 0), Range(2, 2))), TCP, "family is ipv4; wanted: other, ipv6"),
        (
            Match(ethertype=(Range(0x0806, 0x0806), Range(0x88C0, 0x88CC))),
            TCP,
            "ethertype is 0x0800; wanted: 0x0806, 0x88c0-0x88cc",
        ),
        (Match(vlan=(Range(0, 4095),)), TCP, "vlan is none; wanted: any"),
        (Match(vlan=(Range(-1, -1),)), f"{TCP} vlan=7", "vlan is 7; wanted: none"),
        (Match(inner_vlan=(Range(100, 199),)), TCP, "inner_vlan is none; wanted: 100-199"),
        (
            Match(src_mac=(MacMask(1, 0xFFFFFFFFFFFF), MacMask(0x10000000000, 0x10000000000))),
            TCP,
            "src_mac is 02:00:00:00:00:01; wanted: 00:00:00:00:00:01, 01:00:00:00:00:00/01:00:00:00:00:00",
        ),
        (
            Match(src=AddressRanges((Range(0x0A000000, 0x0AFFFFFF), Range(0x0B000001, 0x0B000003)), (Range(1, 1),))),
            TCP,
            "src is 198.51.100.7; wanted: 10.0.0.0/8, 11.0.0.1-11.0.0.3, ::1",
        ),
        (
            Match(src=AddressRanges((Range(0x0A000000, 0x0AFFFFFF),), sets=(listed("bad"), listed("worse")))),
            TCP,
            "src is 198.51.100.7; wanted: @bad, @worse, 10.0.0.0/8",
        ),
        (Match(dst=AddressRanges((Range(1, 1),))), "gre ::1 > ::2", "dst is ::2; wanted: 0.0.0.1"),
        (Match(proto=(Range(17, 17), Range(50, 60))), TCP, "proto is tcp; wanted: udp, 50-60"),
        (
            Match(sport=tuple(Range(n, n) for n in range(1, 20, 2))),
            TCP,
            "sport is 40000; wanted: 1, 3, 5, 7 and 6 more",
        ),
        (Match(tcp_flags=(TcpFlags(2, 16), TcpFlags(0, 255))), TCP, "tcp_flags is syn,ack; wanted: syn,!ack, none"),
        (Match(tcp_flags=(TcpFlags(255, 0),)), "tcp 1.1.1.1:1 > 2.2.2.2:2 none", "tcp_flags is none; wanted: fin,syn,"),
        (
            Match(icmp=(IcmpMessage(58, Range(1, 4), Range(3, 3)),)),
            "icmp 1.1.1.1 > 2.2.2.2",
            "icmp is icmp type 8 code 0; wanted: icmpv6 type 1-4 code 3",
        ),
        (Match(fragment=(Range(1, 2),)), TCP, "fragment is none; wanted: first, later"),
        (Match(length=(Range(1000, 65575),)), TCP, "length is 40; wanted: 1000-65575"),
        (Match(ip_options=(Range(1, 1),)), TCP, "ip_options is false; wanted: true"),
        (Match(ttl=(Range(1, 1),)), "ethertype 0x88cc", "the packet has no ttl; wanted: 1"),
    ],
)
def test_conditions(match: Match, packet: str, line: str) -> None:
    assert f"rule it: no match, {line}" in "\n".join(lines(packet, policy(rule("it", match))))


def test_interface_that_the_policy_does_not_name() -> None:
    rules = policy(rule("it", Match(interface=(Range(0, 0),))))
    assert "rule it: no match, interface is none of the policy's; wanted: eth0" in lines(TCP, rules, interface=None)


@given(st.binary(max_size=80))
def test_decision_is_that_of_evaluate(frame: bytes) -> None:
    decision, trace = explain(ONE_OF_EACH, frame)
    assert decision == evaluate(ONE_OF_EACH, frame)
    last = trace[-1]
    assert (last.step == "rule") == (decision.rule is not None)
    assert last.step == {"invalid": "parse"}.get(decision.kind, decision.kind)


SSH = knock("ssh", "7000/tcp 9000/udp 7000/tcp", close="9000/udp 7000/tcp")
ADMIN = knock("admin", ir.Spa(62201, (ir.SpaKey(1, "laptop", bytes(32)),), S), "22/tcp 443/tcp")
HOME = knock("home", ir.Rotation(bytes(32), 30 * S, Range(10000, 10000), 2, S, S), "8443/tcp")


def knock_lines(*packets: str, knocks: Sequence[ir.Knock] = (SSH, ADMIN, HOME)) -> list[str]:
    """Of the last packet, behind the step of parsing."""
    firewall = Firewall(knocks, [rule("held", Match(knocked=("ssh", "admin")))])
    for packet in packets[:-1]:
        firewall.send(packet)
    decision, trace = explain(firewall.policy, parse_packet(packets[-1]), memory=firewall.memory, now=firewall.now)
    assert trace[-1].step == decision.kind
    return [str(entry) for entry in trace[1:]]


def test_a_step_of_a_knock() -> None:
    first, second = packet_of("7000/tcp"), packet_of("9000/udp")
    assert knock_lines(first) == [
        "knock ssh: step 1 of 3, accepted; step 2 of 2 of its close, out of turn: the next is step 1"
    ]
    assert knock_lines(first, first)[0].startswith("knock ssh: step 1 of 3, again; ")
    assert (
        knock_lines(first, second, first)[0] == "knock ssh: step 3 of 3, accepted; step 2 of 2 of its close, accepted"
    )
    assert knock_lines(second)[0].startswith("knock ssh: step 2 of 3, out of turn: the next is step 1; ")
    assert knock_lines(f"{first} S payload=00")[0].startswith("knock ssh: step 1 of 3, with payload, so that it ends")
    assert "to a multicast address" in knock_lines(packet_of("9000/udp", dst="224.0.0.1"))[0]
    longer = (knock("ssh", "7000/tcp 8/icmp 9000/udp"),)
    begun = knock_lines(first, packet_of("8/icmp"), first, knocks=longer)
    assert begun == ["knock ssh: step 1 of 3, accepted, and the sequence begins anew"]


def test_a_step_of_a_rotation() -> None:
    assert knock_lines(packet_of("10000/tcp")) == [
        "knock ssh: no match",
        "knock admin: no match",
        "knock home: step 1 of 2 in the last window, accepted; step 1 of 2 in the present window, accepted; "
        "step 1 of 2 in the next window, accepted",
    ]


def test_a_port_that_knocks_open() -> None:
    closed = [
        "knock ssh: opens 22/tcp, and the source holds no grant; with one it would pass",
        "knock admin: opens 22/tcp, and the source holds no grant; with one it would pass",
    ]
    assert knock_lines(packet_of("22/tcp")) == closed
    assert knock_lines(packet_of("443/tcp")) == [
        "knock ssh: no match",
        "knock admin: opens 443/tcp, and the source holds no grant; with one it would pass",
    ]
    steps = [packet_of(step) for step in ("7000/tcp", "9000/udp", "7000/tcp")]
    other = knock("ssh", "7000/tcp 9000/udp 7000/tcp")
    granted = "knock ssh: opens 22/tcp, and the source holds a grant"
    assert knock_lines(*steps, packet_of("22/tcp"), knocks=(other, ADMIN)) == [granted]
    assert knock_lines(*steps, packet_of("22/tcp"), knocks=(ADMIN, other)) == [closed[1], granted]
    assert knock_lines(*steps, packet_of("23/tcp"), knocks=(other, ADMIN)) == [
        "knock ssh: no match",
        "knock admin: no match",
        "rule held: match",
    ]


def test_whom_a_knock_is_not_about() -> None:
    exempt = replace(SSH, unless=Match(ttl=(Range(64, 64),)), to=prefixes("203.0.113.1"))
    held = "rule held: no match, knocked is none; wanted: ssh, admin"
    assert knock_lines(packet_of("22/tcp"), knocks=(exempt,)) == [
        "knock ssh: no match, its except holds",
        held,
        "default: match",
    ]
    assert knock_lines(packet_of("22/tcp", dst="203.0.113.2"), knocks=(exempt,)) == [
        "knock ssh: no match, dst is 203.0.113.2; wanted: 203.0.113.1",
        held,
        "default: match",
    ]


def test_an_spa_message() -> None:
    assert knock_lines(udp_packet(b"")) == [
        "knock ssh: no match",
        "knock admin: no SPA message: its length, version or flags are wrong, or it is a fragment",
    ]
    assert knock_lines(spa_packet(message(START), bytes(32)))[-1] == "knock admin: an SPA message, accepted"


def test_each_answer_to_a_message_has_a_text() -> None:
    names = re.findall(r"XDPFW_REASON_KNOCK_(SPA_\w+),", (Path(__file__).parents[1] / "bpf" / "abi.h").read_text())
    assert {f"knock.{name.lower()}" for name in names} == set(SPA_TEXTS)


@given(conversations())
def test_decisions_on_knocks_are_those_of_evaluate(drawn: tuple[Policy, list[Sent]]) -> None:
    rules, sent = drawn
    memory, explained = Memory(), Memory()
    for frame, interface, now in sent:
        decision, trace = explain(rules, frame, interface, memory=explained, now=now)
        assert decision == evaluate(rules, frame, interface, memory=memory, now=now)
        assert trace[-1].step == {"invalid": "parse"}.get(decision.kind, decision.kind)
        assert all(str(entry) and entry.to_json() for entry in trace)
    assert explained == memory
