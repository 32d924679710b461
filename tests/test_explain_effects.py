# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace of what depends on more than the packet: state, dynamic sets, fragments; and of what rules do besides."""

from __future__ import annotations

import pytest

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.explain import PROTECTION_TEXTS, explain
from xdpfw.kernel import abi
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.reference.interpreter import note_sent
from xdpfw.reference.memory import Memory

HEAD = """\
version: 1
interfaces: {eth0: {}}
default: drop
allow: {arp: false, ndp: false, dhcp: false, icmp_errors: false, established: false, fragments: false}
sets:
  guests: {type: prefix, dynamic: true}
"""
TCP = "tcp 198.51.100.7:40000 > 203.0.113.1:22"
LATER = "udp 198.51.100.7 > 203.0.113.1 frag=later"


def lowered(text: str) -> ir.Policy:
    return lower(load("p.yaml", Sources.from_bundle({"p.yaml": HEAD + text})))


def lines(rule: str, packet: str = f"{TCP} S") -> list[str]:
    """The trace behind the packet itself."""
    _, trace = explain(lowered(f"rules: [{{name: r, {rule}}}]"), parse_packet(packet))
    return [str(entry) for entry in trace[1:]]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("match: {state: new}, action: pass", "rule r: match"),
        ("match: {state: established}, action: pass", "rule r: no match, state is new; wanted: established"),
        (
            "match: {src: ['@guests', '@bans', 192.0.2.1]}, action: pass",
            "rule r: no match, src is 198.51.100.7; wanted: @bans, @guests, 192.0.2.1",
        ),
        ("action: pass, limit: {rate: 1/s}", "rule r: match: within its limit"),
        ("action: pass, limit: {rate: 1/s}, add_to: {set: bans}", "rule r: match: within its limit"),
        ("action: drop, add_to: {set: guests}", "rule r: match: adds the source to @guests"),
        (
            "action: drop, limit: {rate: 1/s}, add_to: {set: guests, when: match}",
            "rule r: match: within its limit, adds the source to @guests",
        ),
        ("action: {cpu: [0, 2-3]}", "rule r: match: to the stack on CPU 0, 2, 3"),
        (
            "action: {route: fib}",
            "rule r: match: forwarded by the kernel's routes, up the stack where there is none",
        ),
    ],
)
def test_what_a_rule_asks_for_and_does(rule: str, line: str) -> None:
    assert lines(rule)[0] == line


def test_a_later_fragment_has_no_state() -> None:
    assert lines("match: {state: new}, action: pass", LATER)[0] == (
        "rule r: no match, the packet has no state; wanted: new"
    )


def test_a_later_fragment_of_an_unknown_datagram() -> None:
    allowed = HEAD.replace("fragments: false", "fragments: true")
    found = lower(load("p.yaml", Sources.from_bundle({"p.yaml": allowed})))
    decision, trace = explain(found, parse_packet(LATER))
    assert [str(entry) for entry in trace[1:]] == [
        "allow fragments: no match: the first fragment is not known",
        "default: match",
    ]
    assert decision.kind == "default"


def test_what_a_packet_has_left_is_told_of_the_next() -> None:
    policy = lowered(
        "rules:\n"
        "  - {name: in, match: {proto: udp, src: '@guests'}, action: pass}\n"
        "  - {name: hello, match: {proto: udp}, action: drop, add_to: {set: guests}}\n"
        "  - {name: ssh, match: {state: new}, action: pass, limit: {rate: 1/s}, add_to: {set: bans}}\n"
    )
    memory = Memory()

    def last(packet: str) -> str:
        return str(explain(policy, parse_packet(packet), memory=memory)[1][-1])

    udp = "udp 198.51.100.7:1 > 203.0.113.1:1"
    assert last(udp) == "rule hello: match: adds the source to @guests"
    assert last(udp) == "rule in: match"
    assert last(f"{TCP} S") == "rule ssh: match: within its limit"
    assert last(f"{TCP} S") == "rule ssh: match: beyond its limit, so drop, adds the source to @bans"
    assert last(udp) == "ban: match: the source is banned"


def test_a_flow_and_a_datagram_that_are_known() -> None:
    allowed = HEAD.replace("established: false, fragments: false", "established: true, fragments: true")
    policy = lower(load("p.yaml", Sources.from_bundle({"p.yaml": allowed})))
    memory = Memory()
    note_sent(policy, parse_packet("udp 203.0.113.1:53 > 198.51.100.7:40000"), memory=memory)
    found = [
        [str(entry) for entry in explain(policy, parse_packet(packet), memory=memory)[1][1:]]
        for packet in ("udp 198.51.100.7:40000 > 203.0.113.1:53 frag=first", LATER)
    ]
    assert found == [
        ["allow established: match"],
        [
            "allow established: no match: not a packet of a flow that is known",
            "allow fragments: match: what came of the first fragment of its datagram",
        ],
    ]


def test_a_protected_port_is_told_behind_what_would_have_passed() -> None:
    policy = lowered("protect: {syn: [22]}\nrules: [{name: r, action: pass}]")
    decision, trace = explain(policy, parse_packet(f"{TCP} S"))
    assert decision.reason == "protect.syn_cookie"
    assert [str(entry) for entry in trace[1:]] == [
        "rule r: match",
        "protect syn_cookie: match: a SYN, answered with a cookie instead",
    ]


def test_each_way_to_protect_has_a_text() -> None:
    names = {abi.reason_name(reason) for reason in abi.Reason if reason.name.startswith("PROTECT_")}
    assert names == set(PROTECTION_TEXTS)
