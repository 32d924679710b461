# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace: each step with its outcome, and the same decision as evaluate()'s."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from xdpfw.explain import explain
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import evaluate

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


def lines(packet: str, rules: Policy, interface: int | None = 0) -> list[str]:
    return [str(entry) for entry in explain(rules, parse_packet(packet), interface)[1]]


def test_up_to_the_rule_that_decides() -> None:
    assert lines(TCP, ONE_OF_EACH) == [
        "parse: tcp 198.51.100.7:40000 > 203.0.113.1:22 SA ttl=64 length=40",
        "allow arp: no match",
        "allow dhcp: no match",
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
        "default: match",
    ]


def test_invalid_packets_get_no_further() -> None:
    assert lines("ff", ONE_OF_EACH) == ["parse: invalid.ethernet"]


def test_json() -> None:
    _, trace = explain(ONE_OF_EACH, parse_packet(TCP))
    assert [entry.to_json() for entry in trace][2:] == [
        {"step": "allow", "outcome": "unmet", "name": "dhcp"},
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
