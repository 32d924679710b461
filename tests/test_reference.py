# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference interpreter, one condition at a time: packets that meet it, and others."""

from __future__ import annotations

import dataclasses

import pytest

from xdpfw.compiler.ir import (
    NO_TAG,
    Action,
    ActionKind,
    AddressRanges,
    Allow,
    Family,
    Fragment,
    IcmpMessage,
    Interface,
    MacMask,
    Match,
    Policy,
    Range,
    Rule,
    State,
    TcpFlags,
    Verdict,
)
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import ALLOWANCES, Decision, evaluate

NOTHING_ALLOWED = Allow(arp=False, ndp=False, dhcp=False, icmp_errors=False, established=False, fragments=False)

TCP = "tcp 198.51.100.7:40000 > 203.0.113.1:22"
TCP6 = "tcp [2001:db8::7]:40000 > [2001:db8::1]:22"
UDP = "udp 198.51.100.7:53 > 203.0.113.1:40000"
ICMP = "icmp 198.51.100.7 > 203.0.113.1"
ICMPV6 = "icmpv6 2001:db8::7 > 2001:db8::1"
ARP = "arp 198.51.100.7 > 203.0.113.1"
GRE = "gre 198.51.100.7 > 203.0.113.1"


def policy(*rules: Rule, allow: Allow = NOTHING_ALLOWED, default: Verdict = Verdict.PASS) -> Policy:
    interfaces = (Interface("eth0"), Interface("eth1"), Interface("eth2"))
    return Policy(interfaces=interfaces, default=default, invalid=Verdict.DROP, allow=allow, rules=rules)


def rule(match: Match, action: ActionKind = ActionKind.DROP, name: str = "it", unless: Match | None = None) -> Rule:
    return Rule(name, match, Action(action), unless)


def matches(match: Match, packet: str, interface: int | None = 0) -> bool:
    decision = evaluate(policy(rule(match)), parse_packet(packet), interface)
    expected = Decision(Verdict.DROP, "rule", "it"), Decision(Verdict.PASS, "default")
    assert decision in expected
    return decision.reason == "rule"


def one(low: int, high: int | None = None) -> tuple[Range, ...]:
    return (Range(low, low if high is None else high),)


def v4(low: int, high: int) -> AddressRanges:
    return AddressRanges(v4=one(low, high))


CASES: list[tuple[str, Match, list[str], list[str]]] = [
    ("nothing", Match(), [TCP, TCP6, ARP, "ethertype 0x88cc"], []),
    ("family", Match(family=one(Family.IPV4)), [TCP, ICMP], [TCP6, ARP]),
    ("family other", Match(family=one(Family.OTHER)), [ARP, "ethertype 0x88cc"], [TCP, TCP6]),
    ("ethertype", Match(ethertype=one(0x0806)), [ARP, f"{ARP} vlan=1 inner_vlan=2"], [TCP]),
    ("vlan", Match(vlan=one(100, 199)), [f"{TCP} vlan=100", f"{ARP} vlan=199 inner_vlan=5"], [TCP, f"{TCP} vlan=99"]),
    ("vlan none", Match(vlan=one(NO_TAG)), [TCP, ARP], [f"{TCP} vlan=0"]),
    ("vlan any", Match(vlan=one(0, 4095)), [f"{TCP} vlan=0", f"{TCP} vlan=4095"], [TCP]),
    ("inner_vlan", Match(inner_vlan=one(2)), [f"{TCP} vlan=1 inner_vlan=2"], [TCP, f"{TCP} vlan=2"]),
    ("inner_vlan none", Match(inner_vlan=one(NO_TAG)), [TCP, f"{TCP} vlan=2"], [f"{TCP} vlan=1 inner_vlan=2"]),
    (
        "src_mac",
        Match(src_mac=(MacMask(0x020000000001, 0xFFFFFFFFFFFF), MacMask(0x00163E000000, 0xFFFFFF000000))),
        [TCP, f"{ARP} src_mac=00:16:3e:01:02:03"],
        [f"{TCP} src_mac=00:16:3f:01:02:03", f"{TCP} src_mac=02:00:00:00:00:02"],
    ),
    ("dst_mac", Match(dst_mac=(MacMask(0x010000000000, 0x010000000000),)), [ARP], [TCP]),
    ("src", Match(src=v4(0xC6336400, 0xC63364FF)), [TCP], ["gre 198.51.101.0 > 203.0.113.1", TCP6, ARP]),
    ("dst", Match(dst=v4(0xCB007101, 0xCB007101)), [TCP], ["gre 203.0.113.1 > 203.0.113.2", TCP6, ARP]),
    (
        "src of both families",
        Match(src=AddressRanges(v4=one(0, 5), v6=one((0x20010DB8 << 96) + 7))),
        [TCP6, "gre 0.0.0.5 > 1.1.1.1"],
        [TCP, "gre ::5 > ::1", "gre ::ffff:0.0.0.5 > ::1"],
    ),
    ("proto", Match(proto=(Range(6, 6), Range(47, 50))), [TCP, TCP6, GRE, f"{TCP} frag=later"], [UDP, ARP]),
    ("proto behind extension headers", Match(proto=one(6)), [f"{TCP6} options frag=first"], ["ah ::1 > ::2"]),
    ("proto of the other family", Match(proto=one(1)), [ICMP, "proto 1 ::1 > ::2"], [ICMPV6]),
    ("sport", Match(sport=one(53)), [UDP, "sctp [::1]:53 > [::2]:1"], [TCP, ICMP, ARP]),
    ("dport", Match(dport=(Range(22, 22), Range(80, 90))), [TCP, "udp 1.1.1.1:1 > 2.2.2.2:85"], [UDP, ICMP, GRE, ARP]),
    ("dport of a later fragment", Match(dport=one(0, 65535)), [f"{TCP} frag=first"], [f"{TCP} frag=later"]),
    ("tcp_flags", Match(tcp_flags=(TcpFlags(0x02, 0x10),)), [f"{TCP} S", f"{TCP} SF"], [f"{TCP} SA", f"{TCP} none"]),
    ("tcp_flags none", Match(tcp_flags=(TcpFlags(0, 0xFF),)), [f"{TCP} none"], [f"{TCP} C", UDP, f"{TCP} frag=later"]),
    ("tcp_flags all", Match(tcp_flags=(TcpFlags(0xFF, 0),)), [f"{TCP} FSRPAUEC"], [f"{TCP} FSRPAUE", UDP]),
    (
        "icmp",
        Match(icmp=(IcmpMessage(1, Range(3, 4), Range(0, 3)), IcmpMessage(58, Range(128, 128), Range(0, 255)))),
        [f"{ICMP} type 3 code 3", f"{ICMPV6} type 128 code 9"],
        [f"{ICMP} type 3 code 4", f"{ICMPV6} type 3", f"{ICMP} type 128", TCP, f"{ICMP} frag=later"],
    ),
    ("fragment none", Match(fragment=one(Fragment.NONE)), [TCP, TCP6], [f"{TCP} frag=first", f"{TCP} frag=later", ARP]),
    ("fragment any", Match(fragment=one(1, 2)), [f"{TCP6} frag=first", f"{TCP} frag=later"], [TCP, ARP]),
    ("length", Match(length=one(40, 1000)), [TCP, f"{TCP} length=1000"], [UDP, f"{TCP} length=1001", ARP]),
    ("length of IPv6", Match(length=one(60)), [TCP6], [TCP, f"{TCP6} length=61"]),
    ("ttl", Match(ttl=one(0, 1)), [f"{TCP} ttl=1", f"{TCP6} ttl=0"], [TCP, ARP]),
    ("dscp", Match(dscp=one(46)), [f"{TCP} dscp=46", f"{TCP6} dscp=46"], [TCP, ARP]),
    ("ip_options", Match(ip_options=one(1)), [f"{TCP} options", f"{TCP6} options"], [TCP, f"{TCP6} frag=first", ARP]),
    ("no ip_options", Match(ip_options=one(0)), [TCP, f"{TCP6} frag=first"], [f"{TCP} options", ARP]),
    ("state new", Match(state=one(State.NEW)), [TCP, TCP6, ICMP, GRE, f"{TCP} frag=first"], [f"{TCP} frag=later", ARP]),
    ("state established", Match(state=one(State.ESTABLISHED)), [], [f"{TCP} A", UDP, f"{TCP} frag=later", ARP]),
    ("all at once", Match(proto=one(6), dport=one(22), ttl=one(64)), [TCP], [f"{TCP} ttl=63", UDP]),
]


@pytest.mark.parametrize(("match", "yes", "no"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_match(match: Match, yes: list[str], no: list[str]) -> None:
    assert [packet for packet in yes if not matches(match, packet)] == []
    assert [packet for packet in no if matches(match, packet)] == []


def test_each_match_field_has_a_case() -> None:
    used = {
        field.name for case in CASES for field in dataclasses.fields(Match) if getattr(case[1], field.name) is not None
    }
    assert used == {field.name for field in dataclasses.fields(Match)} - {"interface", "knocked"}


def test_interface() -> None:
    match = Match(interface=(Range(0, 0), Range(2, 2)))
    assert [matches(match, ARP, interface) for interface in (0, 1, 2, None)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("packet", "matched"),
    [(TCP, True), (f"{TCP} ttl=1", False), (f"{UDP} ttl=1", False), (ARP, True)],
)
def test_except(packet: str, matched: bool) -> None:
    """It holds only where the packet has all its fields: ARP has no TTL."""
    decision = evaluate(policy(rule(Match(), unless=Match(ttl=one(1)))), parse_packet(packet))
    assert (decision.rule is not None) == matched


def test_except_holds_where_all_of_it_does() -> None:
    rules = policy(rule(Match(proto=one(6)), unless=Match(ttl=one(1), dport=one(22))))
    assert evaluate(rules, parse_packet(f"{TCP} ttl=1")).reason == "default"
    assert evaluate(rules, parse_packet(f"{TCP} ttl=2")).reason == "rule"
    assert evaluate(rules, parse_packet(f"{UDP} ttl=1")).reason == "default"


def test_an_empty_except_excepts_everything() -> None:
    assert evaluate(policy(rule(Match(), unless=Match())), parse_packet(TCP)).reason == "default"


def test_first_match_wins() -> None:
    rules = policy(
        rule(Match(dport=one(23)), ActionKind.PASS, "telnet"),
        rule(Match(dport=one(22)), ActionKind.TX, "ssh"),
        rule(Match(proto=one(6)), ActionKind.DROP, "tcp"),
    )
    assert evaluate(rules, parse_packet(TCP)) == Decision(Verdict.TX, "rule", "ssh")


def test_count_goes_on() -> None:
    rules = policy(
        rule(Match(), ActionKind.COUNT, "all"),
        rule(Match(proto=one(17)), ActionKind.COUNT, "udp"),
        rule(Match(proto=one(6)), ActionKind.COUNT, "tcp"),
        rule(Match(proto=one(6)), ActionKind.DROP, "drop"),
        rule(Match(), ActionKind.COUNT, "late"),
    )
    assert evaluate(rules, parse_packet(TCP)) == Decision(Verdict.DROP, "rule", "drop", counted=("all", "tcp"))
    assert evaluate(rules, parse_packet(UDP)) == Decision(Verdict.PASS, "default", counted=("all", "udp", "late"))


def test_redirect_has_a_target() -> None:
    rules = policy(Rule("out", Match(), Action(ActionKind.REDIRECT, "eth1")))
    assert evaluate(rules, parse_packet(TCP)) == Decision(Verdict.REDIRECT, "rule", "out", "eth1")


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.DROP])
def test_invalid_packets_meet_no_rule_and_no_allowance(verdict: Verdict) -> None:
    everything = Allow(arp=True, ndp=True, dhcp=True, icmp_errors=True, established=True, fragments=True)
    rules = dataclasses.replace(policy(rule(Match(), ActionKind.TX), allow=everything), invalid=verdict)
    decision = evaluate(rules, bytes(13))
    assert decision == Decision(verdict, "invalid.ethernet")
    assert decision.kind == "invalid"


ALLOWED = {
    "arp": [ARP, f"{ARP} vlan=1"],
    "ndp": [f"{ICMPV6} type {kind}" for kind in range(133, 138)] + [f"{ICMPV6} neighbor-solicitation options"],
    "dhcp": ["udp 1.1.1.1:67 > 255.255.255.255:68", "udp [fe80::1]:547 > [fe80::2]:546 frag=first"],
    "icmp_errors": [f"{ICMP} type {kind}" for kind in (3, 11, 12)] + [f"{ICMPV6} type {kind}" for kind in range(1, 5)],
}
NEVER_ALLOWED = [
    TCP,
    "ethertype 0x8035",
    f"{ICMPV6} type 132 ttl=255",
    f"{ICMPV6} type 138 ttl=255",
    f"{ICMPV6} type 135 ttl=254",
    f"{ICMPV6} type 135 frag=first",
    f"{ICMPV6} frag=later payload=8700 ttl=255",
    f"{ICMP} type 135 ttl=255",
    "udp 1.1.1.1:68 > 255.255.255.255:67",
    "udp 1.1.1.1:547 > 2.2.2.2:546",
    "udp [fe80::1]:67 > [fe80::2]:68",
    "udplite 1.1.1.1:67 > 2.2.2.2:68",
    "udp 1.1.1.1:67 > 2.2.2.2:68 frag=later",
    f"{ICMP} type 5",
    f"{ICMP} type 4",
    f"{ICMP} type 1",
    f"{ICMPV6} type 11",
    f"{ICMP} frag=later payload=03",
    "proto 1 2001:db8::7 > 2001:db8::1 payload=0300000000000000",
    ICMP,
    ICMPV6,
]


@pytest.mark.parametrize("name", ALLOWANCES)
def test_allowances(name: str) -> None:
    rules = policy(default=Verdict.DROP, allow=dataclasses.replace(NOTHING_ALLOWED, **{name: True}))
    for allowance, packets in ALLOWED.items():
        for packet in packets:
            decision = evaluate(rules, parse_packet(packet))
            assert decision == (
                Decision(Verdict.PASS, f"allow.{name}") if allowance == name else Decision(Verdict.DROP, "default")
            ), packet
    assert [packet for packet in NEVER_ALLOWED if evaluate(rules, parse_packet(packet)).kind != "default"] == []


def test_allowances_come_before_rules() -> None:
    rules = policy(rule(Match()), allow=dataclasses.replace(NOTHING_ALLOWED, arp=True))
    decision = evaluate(rules, parse_packet(ARP))
    assert decision == Decision(Verdict.PASS, "allow.arp")
    assert decision.kind == "allow"


def test_allowances_are_fields_of_the_ir_in_order_of_the_abi() -> None:
    fields = [field.name for field in dataclasses.fields(Allow)]
    assert fields[: len(ALLOWANCES)] == list(ALLOWANCES)
