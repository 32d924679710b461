# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditions on sets with files: what is made of many, and of large ones, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.addresstable import AddressTable
from xdpfw.compiler import settables
from xdpfw.compiler.atoms import SetCondition
from xdpfw.compiler.ir import AddressRanges, AddressSet, Range
from xdpfw.compiler.settables import SetConditions, build_set_tables
from xdpfw.compiler.sweep import difference, intersection, sweep, symmetric_difference, union
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Limit

PLACES = 12


def edges(members: set[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    turns = [i for i in range(PLACES + 1) if (i in members) != (i - 1 in members)]
    return np.array(turns, dtype=np.int64)


some_members = st.sets(st.integers(0, PLACES - 1))


@given(some_members, some_members, st.lists(some_members, max_size=4))
def test_edges_are_joined_and_cut_as_sets_are(one: set[int], other: set[int], more: list[set[int]]) -> None:
    a, b = edges(one), edges(other)
    assert intersection(a, b).tolist() == edges(one & other).tolist()
    assert symmetric_difference(a, b).tolist() == edges(one ^ other).tolist()
    assert difference(a, b).tolist() == edges(one - other).tolist()
    assert union([a, b, *map(edges, more)]).tolist() == edges(one.union(other, *more)).tolist()


def addresses(name: str, *spans: tuple[int, int], v6: bool = False) -> AddressRanges:
    none = np.empty((0, 4), dtype=np.uint64)
    rest = np.array([[0, 0, 1, 5]], dtype=np.uint64) if v6 else none
    table = AddressTable.of(np.array(spans, dtype=np.uint32).reshape(-1, 2), rest)
    return AddressRanges(sets=(AddressSet(name, table, len(table), "a file"),))


def wanted(*conditions: SetCondition, words: int = 1) -> SetConditions:
    columns = tuple(range(len(conditions)))
    return SetConditions(conditions, (True, False), (False,) * len(conditions), (columns, columns), words, 0)


def test_a_range_that_ends_where_the_other_family_begins() -> None:
    """The last of IPv4 and the first of IPv6: neighbours by number."""
    whole = addresses("a", (5, (1 << 32) - 1), v6=True).sets[0].table
    other = addresses("b", (0, 7)).sets[0].table
    swept = sweep([whole, other])
    assert [each.high.tolist() for each in swept.starts] == [[0, 5 << 32, 8 << 32], [0, 1]]
    assert [each.tolist() for each in swept.edges] == [[1, 4], [0, 2]]


@pytest.mark.parametrize("few_edges", [0, 3, 1 << 20])
def test_large_and_small_tables_make_the_same(few_edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)

    def one(name: str) -> AddressRanges:
        ends = [draw.randrange(60) for _ in range(draw.randrange(6))]
        own = (Range(7, 30),) if draw.random() < 0.3 else ()
        found = addresses(name, *((end, end + draw.randrange(9)) for end in ends), v6=draw.random() < 0.3)
        return AddressRanges(own, (), found.sets)

    named = [one(f"s{i}") for i in range(20)]
    conditions = [
        SetCondition(draw.choice([None, *named]), tuple(draw.sample(named, draw.randrange(1, 3)))) for _ in range(90)
    ]
    monkeypatch.setattr(settables, "MAX_FEW_EDGES", few_edges)
    found = settables._Conditions(wanted(*conditions, words=2))
    starts = [int(high) >> 32 for high in found.swept.starts[0].high]
    words = list(found.words())
    for index, address in enumerate(starts):
        for number, condition in enumerate(conditions):
            holds = condition.within is None or contains(condition.within, address)
            holds = holds and not any(contains(out, address) for out in condition.without)
            assert bool(int(words[number // 64][index]) >> number % 64 & 1) == holds


def contains(ranges: AddressRanges, address: int) -> bool:
    return any(low <= address <= high for low, high in ranges.v4) or any(
        each.table.contains(32, address) for each in ranges.sets
    )


def large(entries: int) -> AddressRanges:
    return addresses("large", *((i << 8, (i << 8) + 1) for i in range(entries)))


def test_conditions_on_few_addresses_look_at_few_boundaries_of_a_large_set() -> None:
    """Each of them changes bits at its own boundaries and at those of the set within it, not at all of the set."""
    outside = large(20_000)
    conditions = [SetCondition(AddressRanges((Range(i << 16, (i << 16) + 0xFFFF),)), (outside,)) for i in range(70)]
    found = settables._Conditions(wanted(*conditions, words=2))
    words = list(found.words())
    assert len(words) == 2
    assert found.swept.count == 40_000 + 1  # 0 is in the set; so is where each of the others begins
    in_all_words = 2 * found.swept.count
    own = 70 * (2 + 2 * 256)
    assert found._steps <= in_all_words + own + 70


def test_too_many_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settables, "MAX_STEPS", 1000)
    with pytest.raises(CapacityError, match="1 different conditions") as caught:
        build_set_tables(wanted(SetCondition(large(1000))))
    assert caught.value.hint


def test_too_many_classes_are_refused_before_their_vectors_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^18 addresses, each a class of its own, with vectors of the most words there are for both directions."""
    bits = [
        addresses(f"bit{bit}", *((i << bit, (i + 1 << bit) - 1) for i in range(1, 1 << 18 - bit, 2)))
        for bit in range(18)
    ]
    monkeypatch.setattr(settables, "_vectors", lambda *_: pytest.fail("vectors of too many classes"))
    with pytest.raises(CapacityError, match=r"262,144 parts .* 258 MiB, more than 256") as caught:
        build_set_tables(wanted(*map(SetCondition, bits), words=int(Limit.MAX_WIDE_WORDS)))
    assert caught.value.hint
