# SPDX-License-Identifier: GPL-2.0-or-later
"""Address conditions to elementary intervals: who holds where."""

from __future__ import annotations

import bisect
import random

import pytest

from tests.policies import one, prefix
from xdpfw.compiler.addresses import Intervals, cut, holders, is_wide
from xdpfw.compiler.atoms import AddressCondition
from xdpfw.compiler.ir import Range, Ranges
from xdpfw.compiler.ranges import merge


def at(intervals: Intervals, address: int) -> frozenset[int]:
    i = bisect.bisect_right(intervals.starts, address) - 1
    return intervals.narrow[i] | intervals.wide[i]


def drawn(source: random.Random, bits: int) -> Ranges:
    spans = []
    for _ in range(source.randrange(4)):
        if source.random() < 0.7:
            spans.append(
                prefix(
                    source.getrandbits(bits) & 0x0F0F << bits - 16 | source.randrange(4),
                    source.randrange(bits + 1),
                    bits,
                )
            )
        else:
            low, high = sorted(source.getrandbits(bits) for _ in range(2))
            spans.append(Range(low, high))
    return merge(spans)


@pytest.mark.parametrize("seed", range(20))
def test_intervals_have_the_conditions_that_hold_there(seed: int) -> None:
    source = random.Random(seed)
    conditions = [AddressCondition(drawn(source, 32), drawn(source, 128), source.random() < 0.2) for _ in range(12)]
    wide = frozenset(number for number in range(12) if source.random() < 0.4)
    space = cut(conditions, wide)
    for family, bits in (("v4", 32), ("v6", 128)):
        intervals: Intervals = getattr(space, family)
        assert intervals.starts[0] == 0
        assert intervals.starts == sorted(set(intervals.starts))
        ranges = [getattr(condition, family) for condition in conditions]
        corners = {v for each in ranges for low, high in each for v in (low - 1, low, high, high + 1)}
        for address in (v for v in corners | {0, (1 << bits) - 1} if 0 <= v < 1 << bits):
            wanted = {i for i, each in enumerate(ranges) if any(low <= address <= high for low, high in each)}
            assert at(intervals, address) == wanted
        assert all(not found & wide for found in intervals.narrow)
        assert all(found <= wide for found in intervals.wide)
    assert space.no_address == {i for i, condition in enumerate(conditions) if condition.none}


def test_a_large_set_is_one_condition() -> None:
    """Its 200,001 intervals have two sets of conditions between them, and those are two objects."""
    ranges = tuple(Range(i << 12, (i << 12) + 5) for i in range(100_000))
    intervals = cut([AddressCondition(ranges, ())], frozenset()).v4
    assert len(intervals.starts) == 200_000
    assert len({id(active) for active in intervals.narrow}) == 2
    assert holders([intervals]) == {0: 1}


@pytest.mark.parametrize(
    ("condition", "threshold", "wide"),
    [
        (AddressCondition((prefix(0, 8),), ()), 8, False),
        (AddressCondition((prefix(0, 7),), ()), 8, True),
        (AddressCondition((Range(0, 1 << 24),), ()), 8, True),
        (AddressCondition((), (prefix(0, 8, 128),)), 8, False),
        (AddressCondition((), (prefix(0, 7, 128),)), 8, True),
        (AddressCondition((prefix(0, 24),), (prefix(0, 7, 128),)), 8, True),
        (AddressCondition(one(5), (), none=True), 8, True),
        (AddressCondition((prefix(0, 24),), ()), 25, True),
    ],
)
def test_wide_is_more_than_a_prefix_of_the_threshold(condition: AddressCondition, threshold: int, wide: bool) -> None:
    assert is_wide(condition, threshold) == wide
