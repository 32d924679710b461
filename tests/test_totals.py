# SPDX-License-Identifier: GPL-2.0-or-later
"""What knocks and limits met, carried over from policy to policy."""

from __future__ import annotations

import dataclasses
import json

from xdpfw.kernel.maps import Counter, KnockCounter, LimitCounter
from xdpfw.observe.metadata import KeyMeta, KnockMeta, Metadata, RuleMeta
from xdpfw.observe.stats import Statistics
from xdpfw.observe.totals import REMOVED_KNOCKS, Totals


def meta(*knocks: str) -> Metadata:
    """The metadata of a policy with these knocks."""
    made = tuple(KnockMeta(name, len(name), f"{name}: ...", 3, ("22/tcp",), (KeyMeta(1, "a", 2),)) for name in knocks)
    return Metadata("p.yaml", "", "", "", 0.0, None, (), (), (), (), made)


def counted(**knocks: KnockCounter) -> Totals:
    return Totals(knocks=knocks)


def test_what_knocks_met_adds_up() -> None:
    one, other = KnockCounter(steps=1, grants=2), KnockCounter(steps=10, dropped=7)
    both = counted(ssh=one, web=one).plus(counted(ssh=other))
    assert both.knocks == {"ssh": KnockCounter(steps=11, grants=2, dropped=7), "web": one}


def test_knocks_that_are_no_more_become_one_row_and_stay_it() -> None:
    totals = counted(ssh=KnockCounter(steps=1), web=KnockCounter(steps=2), ftp=KnockCounter(steps=4))
    first = totals.for_rules(meta("ssh", "ftp"))
    assert first.knocks == {"ssh": KnockCounter(1), "ftp": KnockCounter(4), REMOVED_KNOCKS: KnockCounter(2)}
    second = first.plus(counted(ssh=KnockCounter(8))).for_rules(meta("ssh"))
    assert second.knocks == {"ssh": KnockCounter(9), REMOVED_KNOCKS: KnockCounter(6)}
    rows = list(Statistics(meta("ssh", "new"), second).by_knock())
    assert rows == [("ssh", KnockCounter(9)), ("new", KnockCounter()), (REMOVED_KNOCKS, KnockCounter(6))]


def test_without_knocks_there_is_no_row() -> None:
    statistics = Statistics(meta(), Totals().for_rules(meta()))
    assert (list(statistics.by_knock()), statistics.to_json()["knocks"]) == ([], [])


def test_what_limits_met_adds_up_and_goes_with_the_limit() -> None:
    one, other = (
        Totals({"a": Counter(9, 9), "b": Counter(9, 9)}, exceeded={"a": LimitCounter(1, 2, 3), "b": LimitCounter(4)}),
        Totals({"a": Counter(1, 1)}, exceeded={"a": LimitCounter(10, 20, 30)}),
    )
    rules = tuple(RuleMeta(name, "pass", "", None, ()) for name in ("a", "b", "c"))
    limited = dataclasses.replace(meta(), rules=rules, limited=("a", "c"))
    statistics = Statistics(limited, one.plus(other).for_rules(limited))
    assert [row.exceeded for row in statistics.by_rule()][:3] == [11, None, 0]
    a, b, c = statistics.to_json()["rules"]
    assert (a["packets"], a["exceeded"]) == (10, {"packets": 11, "bytes": 22, "shared": 33})
    assert (b.get("exceeded"), c["exceeded"]["packets"]) == (None, 0)


def test_totals_survive_being_handed_on() -> None:
    totals = Totals({"a": Counter(1, 2)}, removed=Counter(3, 4), knocks={"ssh": KnockCounter(*range(7))})
    totals = dataclasses.replace(totals, exceeded={"a": LimitCounter(5, 6, 7)})
    assert Totals.from_bytes(totals.to_bytes()) == totals


def test_totals_of_an_xdpfw_without_knocks_are_read() -> None:
    totals = Totals({"a": Counter(1, 2)}, removed=Counter(3, 4))
    *old, knocks, exceeded = json.loads(totals.to_bytes())
    assert (knocks, exceeded) == ({}, {})
    for columns in (old, [*old, knocks]):
        assert Totals.from_bytes(json.dumps(columns).encode()) == totals


def test_metadata_survives_being_pinned() -> None:
    made = meta("ssh", "web")
    assert Metadata.from_bytes(made.to_bytes()) == made
    old = json.loads(made.to_bytes())
    del old["knocks"]
    assert Metadata.from_bytes(json.dumps(old).encode()) == meta()
