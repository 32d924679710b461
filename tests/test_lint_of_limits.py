# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that do not hold what they seem to, and what protected ports do to limits, sets and routes."""

from __future__ import annotations

import pytest

from xdpfw.compiler.limitlint import limit_lints
from xdpfw.compiler.lower import lower
from xdpfw.compiler.protectlint import protect_lints
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

PROTECTED = "protect: {syn: [80, 8000-8099]}"


def kinds(*rules: str, default: str = "pass", head: str = "") -> list[str]:
    lines = [f"version: 1\ninterfaces: {{eth0: {{}}, eth1: {{}}}}\ndefault: {default}\n{head}\nrules:"]
    lines += [f"  - {{name: r{number}, {rule}}}" for number, rule in enumerate(rules)]
    policy = lower(load("p.yaml", Sources.from_bundle({"p.yaml": "\n".join(lines)})))
    return [lint.kind for lint in (*limit_lints(policy), *protect_lints(policy))]


@pytest.mark.parametrize(
    ("rule", "is_idle"),
    [
        ("action: drop, limit: {rate: 1/s}", True),
        ("action: drop, limit: {rate: 1/s, exceed: pass}", False),
        ("action: pass, limit: {rate: 1/s, exceed: pass}", True),
        ("action: pass, limit: {rate: 1/s}", False),
        ("action: drop, limit: {rate: 1/s}, add_to: {set: bans}", False),
        ("action: drop, limit: {rate: 1/s}, add_to: {set: bans, when: match}", True),
        ("action: {cpu: 0}, limit: {rate: 1/s, exceed: pass}", False),
        ("action: drop", False),
    ],
)
def test_limits_that_change_nothing(rule: str, is_idle: bool) -> None:
    assert kinds(rule) == ["limit-idle"] * is_idle


LIMITED = "action: pass, limit: {rate: 1/s}"


@pytest.mark.parametrize(
    "match",
    [
        "",
        "proto: udp, dport: 53",
        "proto: [udp, gre]",
        "proto: sctp",
        "proto: tcp, dport: 873",
        "tcp_flags: syn",  # a SYN with ACK may be established
        "tcp_flags: ['syn,!ack', rst]",
        "src: 192.0.2.0/24",
        "interface: eth0",
        "proto: icmp, icmp_type: echo-request",
        "proto: [icmp, icmpv6], icmp_type: echo-reply",
        "proto: icmpv6, icmp_type: packet-too-big",
        "state: established",
        "state: [new, established]",
        "fragment: first",
    ],
)
def test_what_is_established_goes_around_a_limit(match: str) -> None:
    rule = f"match: {{{match}}}, {LIMITED}"
    assert kinds(rule, default="drop") == ["limit-established"]
    assert kinds(rule, default="drop", head="allow: {established: false}") == []
    assert kinds(rule) == []


@pytest.mark.parametrize(
    "match",
    [
        "state: new",
        "state: new, proto: udp, dport: 53",
        "proto: tcp, dport: 22, tcp_flags: 'syn,!ack'",
        "proto: gre",
        "proto: icmpv6, icmp_type: mld-query",
        "fragment: later",
        "family: other",
        "ethertype: arp",
    ],
)
def test_what_is_never_established_is_limited_whole(match: str) -> None:
    assert kinds(f"match: {{{match}}}, {LIMITED}", default="drop") == []


def test_an_exception_may_leave_new_packets_only() -> None:
    def told(exception: str) -> list[str]:
        return kinds(f"match: {{proto: udp}}, except: {{{exception}}}, {LIMITED}", default="drop")

    assert told("state: established") == []
    assert told("state: established, src: 192.0.2.1") == ["limit-established"]
    assert told("src: 192.0.2.1") == ["limit-established"]


@pytest.mark.parametrize(
    ("action", "is_told"),
    [
        ("pass", True),
        ("{redirect: eth1}", True),
        ("{route: fib}", True),
        ("{cpu: 0}", True),
        ("tx", False),  # nobody answers it
        ("drop", False),
    ],
)
def test_only_what_is_let_in_is_answered(action: str, is_told: bool) -> None:
    rule = f"match: {{proto: udp}}, action: {action}, limit: {{rate: 1/s}}, add_to: {{set: bans}}"
    assert kinds(rule, default="drop") == ["limit-established"] * is_told


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("match: {proto: tcp, dport: 80, state: new}, action: pass, limit: {rate: 1/s}", ["protect-limit"]),
        ("match: {}, action: pass, limit: {rate: 1/s}", ["protect-limit"]),
        ("match: {tcp_flags: 'syn,!ack', dport: 8080-9000}, action: pass, limit: {rate: 1/s}", ["protect-limit"]),
        ("match: {proto: tcp, dport: 80}, action: {cpu: 0}, limit: {rate: 1/s}", ["protect-limit"]),
        ("match: {proto: tcp, dport: 80}, action: pass, limit: {rate: 1/s, per: src}", []),
        ("match: {proto: tcp, dport: 80}, action: pass, limit: {rate: 1/s, per: src/24}", []),
        ("match: {proto: tcp, dport: 80, state: established}, action: pass, limit: {rate: 1/s}", []),
        ("match: {proto: tcp, dport: 443}, action: pass, limit: {rate: 1/s}", []),
        ("match: {proto: udp, dport: 80}, action: pass, limit: {rate: 1/s}", []),
        ("match: {proto: tcp}, except: {dport: 80-9000}, action: pass, limit: {rate: 1/s}", []),
        ("match: {proto: tcp, tcp_flags: '!syn'}, action: pass, limit: {rate: 1/s}", []),
        ("match: {proto: tcp, dport: 80}, action: drop, limit: {rate: 1/s, exceed: pass}", []),
        ("match: {proto: tcp, dport: 80}, action: pass, add_to: {set: bans}", ["protect-add-to"]),
        (
            "match: {proto: tcp, dport: 80}, action: pass, limit: {rate: 1/s, per: src}, add_to: {set: bans}",
            ["protect-add-to"],
        ),
        ("match: {proto: tcp, dport: 80, state: established}, action: pass, add_to: {set: bans}", []),
        ("match: {proto: tcp, dport: 23}, action: drop, add_to: {set: bans}", []),
        ("match: {interface: eth0, family: ipv4}, action: {route: fib}", ["protect-route"]),
        ("match: {proto: udp}, action: {route: fib}", []),
        ("match: {}, action: {redirect: eth1}", []),  # no cookie is asked for
    ],
)
def test_rules_for_protected_ports(rule: str, expected: list[str]) -> None:
    assert kinds(rule, head=PROTECTED) == expected
    assert kinds(rule) == []
