# SPDX-License-Identifier: GPL-2.0-or-later
"""The lint finds exactly what comparing each rule with each earlier one finds, and says the same of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler import lint as lint_module
from xdpfw.compiler.containment import Holders, NumberSets
from xdpfw.compiler.ir import Range, Ranges
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.compiler.ranges import intersect, merge
from xdpfw.compiler.regions import WHOLE_SETS, Region, Regions, are_apart, is_within
from xdpfw.errors import PolicyError
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources


def by_pairs(policy: ir.Policy) -> dict[str, tuple[str, ...]]:
    regions = Regions(policy)
    takers = list(lint_module._takers_before_rules(policy, regions))
    found = {}
    for rule in policy.rules:
        asked = regions.asked(rule.match)
        packets = regions._consequences_of(asked)
        unless = None if rule.unless is None else regions.asked(rule.unless)
        if covered_by := by_one(takers, packets, unless, regions) or by_several(takers, packets):
            found[rule.name] = covered_by
            passes = rule.action.kind is ir.ActionKind.PASS
            if passes and all(name.startswith("allow.") for name in covered_by):
                del found[rule.name]
        if rule.action.kind is not ir.ActionKind.COUNT:
            takers.append(lint_module._Taker(rule.name, asked, unless))
    return found


def by_one(
    takers: Sequence[lint_module._Taker], packets: Region, unless: Region | None, regions: Regions
) -> tuple[str, ...]:
    for taker in takers:
        if not all(meets(packets, field, values) for field, values in taker.asked.items()):
            continue
        if taker.unless is None:
            return (taker.name,)
        excepted = regions._consequences_of(taker.unless)
        for field, values in taker.unless.items():
            if not values or (field in packets and are_apart(field, packets[field], values)):
                return (taker.name,)
        if unless is not None and all(f in excepted and is_within(excepted[f], v) for f, v in unless.items()):
            return (taker.name,)
    return ()


def by_several(takers: Sequence[lint_module._Taker], packets: Region) -> tuple[str, ...]:
    """Where several fields would do, the last in order of their names."""
    for field in sorted(packets, reverse=True):
        union: Ranges = ()
        added = []
        for taker in takers:
            if taker.unless is not None or field not in taker.asked:
                continue
            others = ((other, values) for other, values in taker.asked.items() if other != field)
            if (
                all(meets(packets, *other) for other in others)
                and intersect(taker.asked[field], union) != (taker.asked[field])
            ):
                union = merge([*union, *taker.asked[field]])
                for addresses, whole_sets in WHOLE_SETS if field in ("src", "dst") else ():
                    if intersect((addresses,), union) == (addresses,):
                        union = merge([*union, whole_sets])
                added.append(taker)
        if packets[field] and intersect(packets[field], union) == packets[field]:
            return tuple(dict.fromkeys(t.name for t in added if intersect(t.asked[field], packets[field])))
    return ()


def meets(packets: Region, field: str, values: Ranges) -> bool:
    return field in packets and bool(packets[field]) and intersect(packets[field], values) == packets[field]


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "src": st.sampled_from(
            ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.1", "[10.0.0.0, 10.0.0.2]", "'@some'", "'@none'"]
        ),
        "dst": st.sampled_from(
            ["10.0.0.1", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "'::/0'", "'2001:db8::/64'", "'@some'"]
        ),
        "proto": st.sampled_from(["tcp", "udp", "[tcp, udp]", "icmp", "6"]),
        "dport": st.sampled_from(["0-3", "4-65535", "2", "[1, 3]", "0-65535", "[0-1, 4-65535]", "2-3"]),
        "family": st.sampled_from(["ipv4", "ipv6", "other", "[ipv4, other]"]),
        "vlan": st.sampled_from(["none", "any", "7", "[none, 7]"]),
        "src_mac": st.sampled_from(["02:00:00:00:00:00/ff:00:00:00:00:00", "01:00:00:00:00:00/01:00:00:00:00:00"]),
        "interface": st.sampled_from(["eth0", "eth1", "[eth0, eth1]"]),
        "fragment": st.sampled_from(["none", "later", "[none, first]"]),
        "ttl": st.sampled_from(["0-255", "255"]),
    },
)
NOTHING: st.SearchStrategy[dict[str, str]] = st.just({})
RULES = st.lists(
    st.tuples(CONDITIONS, st.one_of(NOTHING, NOTHING, CONDITIONS), st.sampled_from(["pass", "drop", "count"])),
    min_size=2,
    max_size=20,
)
HEAD = """\
version: 1
interfaces: {eth0: {}, eth1: {}}
sets:
  some: {type: prefix, elements: [10.0.0.1, 10.0.0.3, '2001:db8::1']}
  none: {type: prefix, elements: []}
"""


def written(conditions: dict[str, str]) -> str:
    return "{" + ", ".join(f"{field}: {value}" for field, value in conditions.items()) + "}"


def is_right(rule: str) -> bool:
    try:
        load("p.yaml", Sources.from_bundle({"p.yaml": f"{HEAD}default: drop\nrules:\n  - {rule}\n"}))
    except PolicyError:  # drawn conditions contradict each other
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(RULES, st.sampled_from(["pass", "drop"]))
def test_what_is_found_is_what_pairs_tell(
    rules: list[tuple[dict[str, str], dict[str, str], str]], default: str
) -> None:
    texts = [
        f"{{match: {written(match)}, {f'except: {written(unless)}, ' if unless else ''}action: {action}}}"
        for match, unless, action in rules
    ]
    texts = [text for text in texts if is_right(text)]
    assume(len(texts) > 1)
    text = f"{HEAD}default: {default}\nrules:\n" + "".join(f"  - {each}\n" for each in texts)
    policy = lower(load("p.yaml", Sources.from_bundle({"p.yaml": text})))
    found = {each.rule.name: each.covered_by for each in never_reached(policy)}
    assert found == by_pairs(policy)


def test_a_search_in_many_portions_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdpfw.compiler.cover._MAX_STEPS", 4)
    monkeypatch.setattr("xdpfw.compiler.containment._MAX_RANGES", 2)
    sources = ["10.0.0.0/22", "10.0.0.0/23", "10.0.2.0/23", "10.0.0.0/24", "10.0.2.0/24", "10.0.1.0-10.0.2.255"]
    ports = ["0-1023", "80", "1024-65535", "0-65535", "[80, 443]", "[22, 80, 443]", "[22, 79-81, 442-500]"]
    rules = [f"match: {{src: {src}, proto: tcp, dport: {port}}}" for port in ports for src in reversed(sources)]
    excepts = [
        f"{each}, except: {{src: 10.0.0.0/25}}" if number % 3 == 0 else each for number, each in enumerate(rules)
    ]
    lines = "".join(f"  - {{{each}, action: drop}}\n" for each in excepts + rules)
    text = f"{HEAD}default: drop\nrules:\n{lines}"
    policy = lower(load("p.yaml", Sources.from_bundle({"p.yaml": text})))
    found = {each.rule.name: each.covered_by for each in never_reached(policy)}
    assert found == by_pairs(policy)
    assert len(found) > len(rules)


SETS = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=4).map(
        lambda pairs: merge((low, low + length) for low, length in pairs)
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(SETS, st.sampled_from([1, 1 << 100]))
def test_sets_within_sets(given_sets: list[Ranges], scale: int) -> None:
    """``scale``: numbers that NumPy takes, and some that it does not."""
    scaled = [tuple(Range(low * scale, (high + 1) * scale - 1) for low, high in values) for values in given_sets]
    sets, every = NumberSets(scaled), np.arange(len(scaled))
    holders = Holders(sets, every[::2])
    expected = {
        (inner, outer)
        for inner in every.tolist()
        for outer in every[::2].tolist()
        if scaled[inner] and intersect(scaled[inner], scaled[outer]) == scaled[inner]
    }
    rows, members = holders.of(every)
    assert len(rows) == len(expected)
    assert set(zip(rows.tolist(), members.tolist(), strict=True)) == expected
    assert (np.bincount(rows, minlength=len(every)) <= holders.estimate(every)).all()
