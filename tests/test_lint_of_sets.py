# SPDX-License-Identifier: GPL-2.0-or-later
"""Lints of rules that name sets with files, which stay whole: what is claimed is right however large they are."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xdpfw.compiler import ir, regions
from xdpfw.compiler.knocklint import knock_lints
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.reference.interpreter import evaluate

EVERY_OTHER = [f"10.0.{n >> 7}.{n << 1 & 255}" for n in range(regions.MAX_EXPANDED + 1)]
FILES = {
    "large.txt": "\n".join(EVERY_OTHER),
    "same.txt": "\n".join(EVERY_OTHER[::-1]),
    "other.txt": "\n".join([*EVERY_OTHER[1:], "172.16.0.1"]),
    "mixed.txt": "\n".join([*EVERY_OTHER, "2001:db8::/32"]),
    "small.txt": "192.0.2.0/24\n2001:db8:1::/48",
    "none.txt": "",
}
NAMES = [name.removesuffix(".txt") for name in FILES]
SETS = ", ".join(f"{name}: {{type: prefix, file: {name}.txt}}" for name in NAMES)


def policy(*rules: str, head: str = "", default: str = "pass", files: dict[str, str] = FILES) -> ir.Policy:
    lines = [f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: {default}\nsets: {{{SETS}}}\n{head}rules:"]
    lines += [f"  - {{name: r{number}, {rule}}}" for number, rule in enumerate(rules)]
    loaded = load("p.yaml", Sources.from_bundle({"p.yaml": "\n".join(lines), **files}))
    return lower(loaded, sets_stay_whole=True)


def unreached(*rules: str) -> dict[str, tuple[str, ...]]:
    return {found.rule.name: found.covered_by for found in never_reached(policy(*rules))}


@pytest.mark.parametrize(
    ("first", "second", "covers"),
    [
        ("src: '@large'", "src: '@large'", True),
        ("src: '@large'", "src: '@same', proto: tcp", True),
        ("src: '@large'", "src: '@other'", False),
        ("src: '@large'", "dst: '@large'", False),
        ("src: '@large'", "src: ['@large', 192.0.2.1]", False),
        ("src: ['@large', 192.0.2.1, '@other']", "src: '@large'", True),
        ("src: ['@large', '@small']", "src: ['@same', 192.0.2.1]", True),
        ("src: '@small'", "src: 192.0.2.1", True),
        ("src: [192.0.2.0/24, '2001:db8:1::/48']", "src: '@small'", True),
        ("src: 192.0.2.0/24", "src: '@small'", False),
        ("src: '@mixed'", "src: '@large'", False),
        ("src: 0.0.0.0/0", "src: '@large'", True),
        ("src: 0.0.0.0/0", "src: '@mixed'", False),
        ("src: [0.0.0.0/0, '::/0']", "src: '@mixed'", True),
        ("src: [0.0.0.0/1, 128.0.0.0/1, '@large']", "src: '@other'", True),
        ("src: 0.0.0.0-255.255.255.254", "src: '@large'", False),
        ("src: '@large'", "src: 0.0.0.0/0", False),
        ("src: '@large'", "family: ipv4", False),
        ("family: ipv4", "src: '@large'", True),
        ("family: ipv4", "src: '@mixed'", False),
        ("family: [ipv4, ipv6]", "src: '@mixed'", True),
        ("ethertype: ipv6", "src: '@mixed'", False),
        ("family: ipv6, src: '@mixed'", "family: ipv6, src: '@mixed'", True),
        ("src: '@large'", "src: '@none'", False),
    ],
)
def test_large_sets_count_as_a_whole(first: str, second: str, covers: bool) -> None:
    found = unreached(f"match: {{{first}}}, action: drop", f"match: {{{second}}}, action: pass")
    assert found == ({"r1": ("r0",)} if covers else {})


def test_several_rules_cover_what_sets_have_together() -> None:
    both = "match: {src: ['@large', '@other', 192.0.2.1]}, action: pass"
    parts = [f"match: {{src: {each}}}, action: drop" for each in ("'@other'", "192.0.2.0/24", "'@same'")]
    assert unreached(*parts, both) == {"r3": ("r0", "r1", "r2")}
    assert unreached(*parts[1:], both) == {}


@pytest.mark.parametrize(
    ("unless", "second", "covers"),
    [
        ("src: '@large'", "src: 192.0.2.1", False),  # it may be in the set
        ("src: '@large'", "src: '2001:db8::1'", True),
        ("src: '@large'", "src: '@small', family: ipv6", True),
        ("src: '@small'", "src: 198.51.100.1", True),
        ("src: '@none'", "src: 198.51.100.1", True),
        ("src: '@mixed'", "src: '2001:db8::1'", False),
        ("src: '@large'", "dst: 192.0.2.1", False),
    ],
)
def test_exceptions_for_large_sets(unless: str, second: str, covers: bool) -> None:
    first = f"match: {{}}, except: {{{unless}}}, action: drop"
    assert unreached(first, f"match: {{{second}}}, action: pass") == ({"r1": ("r0",)} if covers else {})


def test_an_exception_that_the_later_rule_makes_too() -> None:
    unless = "except: {src: '@large'}"
    assert unreached(f"match: {{}}, {unless}, action: drop", f"match: {{proto: tcp}}, {unless}, action: pass") == {
        "r1": ("r0",)
    }


@pytest.mark.parametrize(
    ("to", "match", "told"),
    [
        ("any", "dst: '@large'", True),
        ("any", "src: '@large'", True),
        ("192.0.2.1", "dst: '@large'", False),  # which may have it, and has not
        ("10.0.0.2", "dst: '@large'", False),  # and here it has
        ("192.0.2.1", "dst: '@small'", True),
        ("192.0.2.1", "src: '@large', dst: 192.0.2.0/24", True),
    ],
)
def test_steps_that_a_rule_passes_to_a_large_set(to: str, match: str, told: bool) -> None:
    listens = "" if to == "any" else f", to: {to}"
    head = f"knocks: {{k: {{sequence: [7000/tcp, 9000/udp, 8000/tcp], opens: [22/tcp]{listens}}}}}\n"
    rules = policy(f"match: {{{match}, proto: tcp, dport: 7000}}, action: pass", head=head, default="drop")
    assert [lint.kind for lint in knock_lints(rules)] == (["knock-step-passed"] if told else [])


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        field: st.sampled_from(
            ["'@large'", "'@same'", "'@other'", "'@mixed'", "'@small'", "['@large', 10.0.0.1]", "10.0.0.0/31",
             "10.0.0.3", "0.0.0.0/0", "['@other', 0.0.0.0/0]", "'2001:db8::/32'", "['@mixed', '@small']",
             "[0.0.0.0/0, '::/0']"]
        )
        for field in ("src", "dst")
    }
    | {"family": st.sampled_from(["ipv4", "ipv6"]), "proto": st.sampled_from(["tcp", "udp"])},
)  # fmt: skip
FEW = {
    "large.txt": "10.0.0.0\n10.0.0.2",
    "same.txt": "10.0.0.2\n10.0.0.0",
    "other.txt": "10.0.0.2\n10.0.0.3",
    "mixed.txt": "10.0.0.1\n2001:db8::/127",
    "small.txt": "2001:db8::1\n2001:db8::2",
    "none.txt": "",
}
V4 = [f"10.0.0.{n}" for n in range(5)]
V6 = [f"[2001:db8::{n}]" for n in range(4)]
PACKETS = [
    parse_packet(f"{proto} {one}:1 > {other}:2")
    for proto in ("tcp", "udp")
    for hosts in (V4, V6)
    for one in hosts
    for other in hosts
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CONDITIONS, CONDITIONS, st.sampled_from(["pass", "drop"])), min_size=2, max_size=6))
def test_no_packet_gets_to_a_rule_that_is_reported(rules: list[tuple[dict[str, str], dict[str, str], str]]) -> None:
    """With sets so small that packets tell, each of them taken as a whole."""

    def written(conditions: dict[str, str]) -> str:
        return ", ".join(f"{field}: {value}" for field, value in conditions.items())

    texts = [
        f"match: {{{written(match)}}}, {f'except: {{{written(unless)}}}, ' if unless else ''}action: {action}"
        for match, unless, action in rules
    ]
    try:
        drawn = policy(*texts, files=FEW)
    except PolicyError:  # drawn conditions contradict each other
        assume(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "MAX_EXPANDED", 0)
        reported = {found.rule.name for found in never_reached(drawn)}
    assert reported <= {found.rule.name for found in never_reached(drawn)}
    decided = {evaluate(drawn, frame, 0).rule for frame in PACKETS}
    assert not reported & decided
