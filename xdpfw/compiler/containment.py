# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sets of whole numbers lie within which others, for very many of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.ir import Ranges

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


_MAX_RANGES: Final = 1 << 20


class NumberSets:
    """Sets of numbers (of one field), known by their place in ``sets``. An empty one is within none and has none.

    Bounds are kept as their ranks among all bounds: an address of IPv6 is more than NumPy's numbers take.
    """

    def __init__(self, sets: Sequence[Ranges]) -> None:
        self.sizes = np.fromiter(map(len, sets), np.int64, len(sets))
        self._starts = np.concatenate(([0], np.cumsum(self.sizes)))
        bounds = [bound for values in sets for each in values for bound in each]
        ranks, self._limit = _ranks(bounds)
        self._lows, self._highs = ranks[0::2], ranks[1::2]
        # Sets are ordered, so these rise from range to range: all sets can be searched at once.
        self._keys = np.repeat(np.arange(len(sets)), self.sizes) * self._limit + self._lows
        filled = np.flatnonzero(self.sizes)
        self.lowest = np.full(len(sets), self._limit, np.int64)
        self.highest = np.full(len(sets), -1, np.int64)
        self.lowest[filled] = self._lows[self._starts[filled]]
        self.highest[filled] = self._highs[self._starts[filled + 1] - 1]

    def within(self, inner: Ints, outer: Ints) -> Bools:
        """For each pair, whether the one set is within the other."""
        found = (self.sizes[inner] > 0) & (self.lowest[outer] <= self.lowest[inner])
        found &= self.highest[outer] >= self.highest[inner]
        doubtful = np.flatnonzero(found & (self.sizes[outer] > 1) & (inner != outer))
        if len(doubtful):
            count = len(self.sizes)
            pairs, back = np.unique(inner[doubtful] * count + outer[doubtful], return_inverse=True)
            found[doubtful] = self._range_by_range(pairs // count, pairs % count)[back]
        return found

    def _range_by_range(self, inner: Ints, outer: Ints) -> Bools:
        found = np.empty(len(inner), np.bool_)
        ends = np.cumsum(self.sizes[inner])
        start = 0
        while start < len(inner):  # in portions, to bound memory
            reached = ends[start] + _MAX_RANGES
            end = int(np.searchsorted(ends, reached, side="right"))
            found[start:end] = self._portion(inner[start:end], outer[start:end])
            start = end
        return found

    def _portion(self, inner: Ints, outer: Ints) -> Bools:
        pairs, ranges = expand(self._starts[inner], self.sizes[inner])
        owner = outer[pairs]
        at = np.searchsorted(self._keys, owner * self._limit + self._lows[ranges], side="right") - 1
        outside = (at < self._starts[owner]) | (self._highs[at] < self._highs[ranges])
        is_within: Bools = np.bincount(pairs[outside], minlength=len(inner)) == 0
        return is_within


class Holders:
    """Some of the sets, ordered such that those that hold another are found without looking at all of them."""

    def __init__(self, sets: NumberSets, members: Ints) -> None:
        self._sets = sets
        members = members[sets.sizes[members] > 0]
        self._members = members[np.argsort(sets.lowest[members], kind="stable")]
        self._lowest = sets.lowest[self._members]
        self._highest_sorted = np.sort(sets.highest[members])
        # The highest number of each member, of each two, each four, ...
        size = 1 << max(len(members) - 1, 0).bit_length()
        level = np.full(size, -1, np.int64)
        level[: len(members)] = sets.highest[self._members]
        self._maxima = [level]
        while len(level) > 1:
            level = level.reshape(-1, 2).max(axis=1)
            self._maxima.append(level)

    def estimate(self, inner: Ints) -> Ints:
        """For each set, how many members may hold it at most: those that reach over its lowest number."""
        lowest = self._sets.lowest[inner]
        begun = np.searchsorted(self._lowest, lowest, side="right")
        return begun - np.searchsorted(self._highest_sorted, lowest, side="left")

    def of(self, inner: Ints) -> tuple[Ints, Ints]:
        """All pairs of a place in ``inner`` and a member that holds the set there."""
        ends = np.searchsorted(self._lowest, self._sets.lowest[inner], side="right")
        wanted = self._sets.highest[inner]
        rows, at = np.arange(len(inner)), np.zeros(len(inner), np.int64)
        for level in range(len(self._maxima) - 1, -1, -1):
            if level < len(self._maxima) - 1:
                rows, at = np.repeat(rows, 2), (np.repeat(at, 2) * 2)
                at[1::2] += 1
            kept = (at << level < ends[rows]) & (self._maxima[level][at] >= wanted[rows])
            rows, at = rows[kept], at[kept]
        holders = self._members[at]
        kept = self._sets.within(inner[rows], holders)
        return rows[kept], holders[kept]


def expand(starts: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Pairs of i and each of the ``counts[i]`` numbers from ``starts[i]`` on, in order."""
    rows = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, starts[rows] + offsets


def _ranks(numbers: Sequence[int]) -> tuple[Ints, int]:
    """The rank of each among all distinct ones, and how many those are."""
    try:
        distinct, ranks = np.unique(np.array(numbers, dtype=np.int64), return_inverse=True)
    except OverflowError:
        ordered = sorted(set(numbers))
        rank = dict(zip(ordered, range(len(ordered)), strict=True))
        return np.fromiter(map(rank.__getitem__, numbers), np.int64, len(numbers)), len(ordered)
    return ranks.astype(np.int64), len(distinct)
