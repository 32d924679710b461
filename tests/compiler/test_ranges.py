# SPDX-License-Identifier: GPL-2.0-or-later
"""Range arithmetic against sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler.ir import Range, Ranges
from xdpfw.compiler.ranges import complement, intersect, merge

HIGHEST = 40
SPANS = st.lists(
    st.tuples(st.integers(0, HIGHEST), st.integers(0, HIGHEST)).map(lambda s: (min(s), max(s))), max_size=6
)


def numbers(ranges: list[tuple[int, int]] | Ranges) -> set[int]:
    return {value for low, high in ranges for value in range(low, high + 1)}


def is_canonical(ranges: Ranges) -> bool:
    return all(low <= high for low, high in ranges) and all(a.high + 1 < b.low for a, b in pairwise(ranges))


@given(SPANS)
def test_merge(spans: list[tuple[int, int]]) -> None:
    assert numbers(merge(spans)) == numbers(spans)
    assert is_canonical(merge(spans))


@given(SPANS)
def test_complement(spans: list[tuple[int, int]]) -> None:
    rest = complement(merge(spans), HIGHEST)
    assert numbers(rest) == set(range(HIGHEST + 1)) - numbers(spans)
    assert is_canonical(rest)


@given(SPANS, SPANS)
def test_intersect(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    both = intersect(merge(a), merge(b))
    assert numbers(both) == numbers(a) & numbers(b)
    assert is_canonical(both)


def test_adjacent_ranges_are_one() -> None:
    assert merge([(5, 9), (1, 4), (10, 10)]) == (Range(1, 10),)
    assert complement((), 255) == (Range(0, 255),)
    assert complement((Range(0, 255),), 255) == ()
