# SPDX-License-Identifier: GPL-2.0-or-later
"""What check says of knocks: sequences that a scan opens or that begin alike, steps that are also something else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler.knocklint import knock_lints
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.knock.keys import ServerHalf
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

SPEC = "{sequence: [7000/tcp, 9000/udp, 8000/tcp], close: [9000/tcp, 7000/tcp], opens: [22/tcp]}"


def policy(*knocks: str, rules: tuple[str, ...] = (), head: str = "") -> ir.Policy:
    lines = [f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: drop\n{head}knocks:"]
    lines += [f"  k{number}: {knock}" for number, knock in enumerate(knocks)]
    lines += ["rules:", *(f"  - {{name: r{number}, {rule}}}" for number, rule in enumerate(rules))]
    text = "\n".join(lines)
    files = {"p.yaml": text, "s": "correct horse battery staple", "admin.keys": str(ServerHalf(bytes(8)))}
    return lower(load("p.yaml", Sources.from_bundle(files)))


def lints(*knocks: str, rules: tuple[str, ...] = (), head: str = "") -> list[tuple[str, str, tuple[str, ...]]]:
    found = knock_lints(policy(*knocks, rules=rules, head=head))
    return [(lint.kind.removeprefix("knock-"), lint.knock.name, lint.others) for lint in found]


def sequence(steps: str, port: int = 22, more: str = "") -> str:
    return f"{{sequence: [{steps}], opens: [{port}/tcp]{more}}}"


def test_the_example_of_the_documents_is_fine() -> None:
    web = "match: {proto: tcp, dport: [80, 443]}, action: pass"
    replies = "match: {tcp_flags: [ack, rst], dport: 32768-60999}, action: pass"
    assert lints(SPEC, rules=(web, replies)) == []


@pytest.mark.parametrize(
    ("steps", "direction"),
    [
        ("7000/tcp, 8000/tcp, 9000/tcp", "up"),
        ("9000/tcp, 8000/tcp, 7000/tcp", "down"),
        ("7000/tcp, 8000/udp, 9000/tcp", "up"),  # as nmap does with both at a time
        ("7000/tcp, 9000/tcp, 8000/udp", "up"),  # and one protocol behind the other
        ("8000/udp, 9000/tcp, 7000/tcp", "down"),
        ("7000/tcp, 7000/udp, 7001/tcp", "up"),
        ("8/icmp, 7000/tcp, 8000/tcp", "up"),  # a ping comes first, or last
        ("7000/tcp, 8000/tcp, 8/icmp", "up"),
        ("7000/tcp, 9000/udp, 8000/tcp", None),
        ("7000/tcp, 9000/tcp, 8000/tcp", None),
        ("7000/tcp, 8/icmp, 8000/tcp", None),
        ("8/icmp, 13/icmp, 17/icmp", None),
        ("7000/tcp, 8000/tcp, 9000/udp, 8000/udp", None),
        ("7000/tcp, 8000/tcp, 7000/tcp", None),
    ],
)
def test_monotone_sequences(steps: str, direction: str | None) -> None:
    found = [str(lint) for lint in knock_lints(policy(sequence(steps))) if lint.kind == "knock-monotone"]
    assert [line.split(":")[1].split()[-1] for line in found] == ([direction] if direction else [])


def scans(steps: list[str]) -> list[list[str]]:
    """The orders in which a scanner that knows the steps would go through them."""
    ports = sorted({int(step.split("/")[0]) for step in steps})
    found = []
    for numbers in (ports, ports[::-1]):
        for first, second in (("tcp", "udp"), ("udp", "tcp")):
            found.append([f"{port}/{name}" for name in (first, second) for port in numbers])
            found.append([f"{port}/{name}" for port in numbers for name in (first, second)])
    return found


@given(
    st.lists(
        st.sampled_from([f"{port}/{name}" for port in (1, 2, 3) for name in ("tcp", "udp")]), min_size=3, max_size=5
    )
)
def test_a_sequence_is_monotone_where_a_scan_has_its_steps_in_order(steps: list[str]) -> None:
    steps = [step for step, _ in itertools.groupby(steps)]
    if len(set(steps)) != len(steps) or len(steps) < 2:
        return

    def is_part_of(scan: list[str]) -> bool:
        rest = iter(scan)
        return all(step in rest for step in steps)

    found = [lint.kind for lint in knock_lints(policy(sequence(", ".join(steps))))]
    assert ("knock-monotone" in found) == any(map(is_part_of, scans(steps)))


@pytest.mark.parametrize(
    ("knock", "is_short"),
    [
        (sequence("7000/tcp"), True),
        (sequence("8000/tcp, 7000/udp"), True),
        (sequence("8000/tcp, 7000/udp, 9000/tcp"), False),
        (sequence("8000/tcp, 7000/udp, 9000/tcp", more=", close: [1/tcp]"), False),
        ("{rotate: {secret: s, ports: 10000-20000, length: 2}, opens: [22/tcp]}", True),
        ("{rotate: {secret: s, ports: 10000-20000, length: 3}, opens: [22/tcp]}", False),
    ],
)
def test_short_sequences(knock: str, is_short: bool) -> None:
    assert (("short", "k0", ()) in lints(knock)) == is_short


@pytest.mark.parametrize(
    ("ports", "count"), [("20000-20010", "11 ports"), ("20000-20254", "255 ports"), ("20000-20255", None)]
)
def test_rotations_of_few_ports(ports: str, count: str | None) -> None:
    found = knock_lints(policy(f"{{rotate: {{secret: s, ports: {ports}, length: 4}}, opens: [22/tcp]}}"))
    message = f"its steps are from {count} only: tries at random open it (take 256 or more)"
    assert [(lint.kind, lint.message) for lint in found] == ([("knock-guessable", message)] if count else [])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("9/tcp, 5/udp, 7/tcp", 'its sequence is that of knock "k0": whoever opens the one opens both'),
        ("9/tcp, 5/udp, 7/tcp, 3/udp", 'all of knock "k0" is how this knock begins: who opens that opens both'),
        ("9/tcp, 5/udp", 'all of this knock is how knock "k0" begins: who opens that opens both'),
        ("9/tcp, 5/udp, 8/tcp", 'its first 2 steps begin knock "k0", too: who learns one knows a part of the other'),
        ("9/tcp, 6/udp, 7/tcp", 'its first step begins knock "k0", too: who learns one knows a part of the other'),
        ("9/udp, 5/udp, 7/tcp", None),
        ("5/udp, 9/tcp, 7/udp", None),
    ],
)
def test_common_beginnings(other: str, message: str | None) -> None:
    lints_of_both = knock_lints(policy(sequence("9/tcp, 5/udp, 7/tcp"), sequence(other, 23)))
    found = [lint for lint in lints_of_both if lint.kind == "knock-prefix"]
    assert [(lint.knock.name, lint.message, lint.others) for lint in found] == (
        [("k1", message, ('knock "k0"',))] if message else []
    )


def test_knocks_on_different_addresses_may_be_alike() -> None:
    steps = "9/tcp, 5/udp, 7/tcp"
    here, there = sequence(steps, more=", to: 192.0.2.1"), sequence(steps, more=", to: 192.0.2.2")
    assert lints(here, there) == []
    assert lints(here, sequence(steps)) == [("prefix", "k1", ('knock "k0"',))]


def test_a_close_that_a_sequence_begins_with() -> None:
    closing = sequence("9/tcp, 5/udp, 7/tcp", more=", close: [4/udp, 9/tcp]")
    assert lints(closing, sequence("4/udp, 9/tcp, 3/udp", 23)) == [("prefix", "k0", ('knock "k1"',))]
    assert lints(closing, sequence("4/udp, 8/tcp, 3/udp", 23)) == []


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ("match: {proto: tcp, dport: 7000}, action: pass", True),
        ("match: {proto: tcp, dport: 1-65535, src: 192.0.2.0/24}, action: pass", True),
        ("match: {proto: [tcp, udp], dport: '@ports'}, action: {redirect: eth1}", True),
        ("match: {tcp_flags: 'syn,!ack', dport: 6999-7001}, action: tx", True),
        ("match: {proto: tcp}, action: pass", True),
        ("action: pass", True),
        ("match: {proto: udp, dport: 7000}, action: pass", False),
        ("match: {proto: tcp, dport: 7001}, action: pass", False),
        ("match: {tcp_flags: [ack, rst], dport: 7000}, action: pass", False),
        ("match: {proto: tcp, dport: 7000, fragment: first}, action: pass", False),
        ("match: {proto: tcp, dport: 7000}, action: drop", False),
        ("match: {proto: tcp, dport: 7000}, action: count", False),
        ("match: {proto: tcp, dport: 7000, dst: 192.0.2.9}, action: pass", False),
        ("match: {src: 192.0.2.0/24}, action: pass", False),  # names no port: the office may do all it likes
        ("match: {proto: icmp, icmp_type: 0-255}, action: pass", False),
    ],
)
def test_steps_that_a_rule_passes(rule: str, passed: bool) -> None:
    knock = sequence("7000/tcp, 9000/udp, 8000/tcp", more=", to: 203.0.113.1")
    found = lints(knock, rules=(rule,), head="sets: {ports: {type: port, elements: [7000]}}\n")
    assert (("step-passed", "k0", ('rule "r0"',)) in found) == passed


def test_what_is_dropped_before_is_not_passed() -> None:
    rules = ("match: {proto: tcp, dport: 1024-65535}, action: drop", "action: pass")
    found = knock_lints(policy(SPEC, rules=rules))
    assert ["9000/udp" in lint.message for lint in found] == [True]


def test_messages_that_a_rule_or_an_allowance_passes() -> None:
    ping = "match: {proto: icmpv6, icmp_type: echo-request}, action: pass"
    knock = sequence("8/icmp, 9000/udp, 3.1/icmp, 135/icmpv6, 13/icmp")
    assert lints(knock, rules=(ping,)) == [
        ("step-passed", "k0", ('rule "r0"',)),
        ("step-passed", "k0", ("allow.ndp",)),
        ("step-passed", "k0", ("allow.icmp_errors",)),
    ]
    assert lints(knock, head="allow: {ndp: false, icmp_errors: false}\n") == []


def test_ports_of_a_rotation_that_a_rule_passes() -> None:
    replies = "match: {proto: udp, sport: dns, dport: 32768-60999}, action: pass"
    wide, narrow, of_tcp = (
        f"{{rotate: {{secret: s, ports: {ports}, length: {length}}}, opens: [22/tcp]}}"
        for ports, length in (("10000-60000", 4), ("10000-30000", 4), ("10000-60000", 1))
    )
    assert lints(wide, rules=(replies,)) == [("step-passed", "k0", ('rule "r0"',))]
    assert lints(narrow, rules=(replies,)) == []
    assert lints(of_tcp, rules=(replies,)) == [("short", "k0", ())]


@pytest.mark.parametrize(
    ("knock", "rule", "covered"),
    [
        (SPEC, "match: {proto: tcp, dport: 22}, action: pass", True),
        (SPEC, "match: {proto: tcp, dport: 22, src: 192.0.2.1}, action: drop", True),
        (SPEC, "match: {tcp_flags: ack, dport: 22}, action: pass", True),
        (SPEC, "match: {proto: tcp, dport: 22, knocked: k0}, action: pass", True),
        (SPEC, "match: {proto: tcp, dport: 22-23}, action: pass", False),
        (SPEC, "match: {proto: udp, dport: 22}, action: pass", False),
        (SPEC[:-1] + ", to: 203.0.113.1}", "match: {proto: tcp, dport: 22}, action: pass", False),
        (SPEC[:-1] + ", to: 203.0.113.1}", "match: {proto: tcp, dport: 22, dst: 203.0.113.1}, action: pass", True),
        (SPEC[:-1] + ", except: {src: 192.0.2.0/24}}", "match: {proto: tcp, dport: 22}, action: pass", False),
        (
            SPEC[:-1] + ", except: {src: 192.0.2.0/24}}",
            "match: {proto: tcp, dport: 22, src: 10.0.0.1}, action: pass",
            True,
        ),
    ],
)
def test_a_knock_decides_before_the_rules(knock: str, rule: str, covered: bool) -> None:
    found = never_reached(policy(knock, rules=(rule,)))
    assert [each.covered_by for each in found] == ([("knock k0",)] if covered else [])


SPA = "{spa: {port: 62201, keys: admin.keys}, opens: [22/tcp]%s}"


@pytest.mark.parametrize(
    ("more", "rule", "covered"),
    [
        ("", "match: {proto: udp, dport: 62201}, action: pass", True),
        ("", "match: {proto: udp, dport: 62201, fragment: first}, action: drop", True),
        (", except: {src: 192.0.2.0/24}", "match: {proto: udp, dport: 62201, src: 192.0.2.1}, action: pass", True),
        (", to: 203.0.113.1", "match: {proto: udp, dport: 62201, dst: 203.0.113.1}, action: pass", True),
        (", to: 203.0.113.1", "match: {proto: udp, dport: 62201}, action: pass", False),
        ("", "match: {proto: tcp, dport: 62201}, action: pass", False),
        ("", "match: {proto: udp, dport: 62200-62201}, action: pass", False),
        ("", "match: {proto: udp, sport: 62201}, action: pass", False),
        ("", "match: {proto: udp, fragment: later}, action: pass", False),
    ],
)
def test_a_knock_decides_on_the_port_of_its_messages(more: str, rule: str, covered: bool) -> None:
    found = never_reached(policy(SPA % more, rules=(rule,)))
    assert [each.covered_by for each in found] == ([("knock k0",)] if covered else [])
    assert [str(each) for each in found] == (
        ['rule "r0" is never reached: knock "k0" decides all of its packets'] if covered else []
    )


def test_rules_that_ask_for_knocks_cover_what_they_ask_for_alone() -> None:
    other = sequence("1/tcp, 9/udp, 5/tcp", 23)
    rules = (
        "match: {knocked: k0}, action: drop",
        "match: {knocked: k1, proto: gre}, action: pass",
        "match: {knocked: [k0], proto: gre}, action: pass",
        "match: {knocked: k1}, action: drop",
        "match: {knocked: [k0, k1], ttl: 7}, action: pass",
        "match: {proto: gre}, action: pass",
        "match: {proto: esp}, except: {knocked: k0}, action: drop",
        "match: {proto: esp, src: 192.0.2.1}, except: {knocked: [k0, k1]}, action: drop",
        "match: {proto: esp, src: 192.0.2.1}, action: pass",
    )
    found = {each.rule.name: each.covered_by for each in never_reached(policy(SPEC, other, rules=rules))}
    assert found == {"r2": ("r0",), "r4": ("r0", "r3"), "r7": ("r6",)}


def test_a_rule_passes_nothing_of_what_it_excepts() -> None:
    assert lints(SPEC, rules=("match: {}, except: {proto: [tcp, udp]}, action: pass",)) == []
    (found,) = {kind for kind, _, _ in lints(SPEC, rules=("match: {}, except: {proto: udp}, action: pass",))}
    assert found == "step-passed"
