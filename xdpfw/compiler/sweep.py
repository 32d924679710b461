# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of addresses -> the intervals that they cut both address spaces into, and runs of these, joined and cut.

Intervals are numbered in order of their addresses, those of IPv4 first. *Edges* are a set of intervals: where a run of
them begins and where it ends, in turns; ascending, each once. So sets of a million ranges and of one are handled at the
price of their edges, and turning over one bit at each edge and summing up tells in which intervals it is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.addresstable import AddressTable
from xdpfw.compiler.trie import Addresses

Edges = npt.NDArray[np.int64]

_ONE: Final = np.uint64(1)

NONE: Final[Edges] = np.empty(0, dtype=np.int64)
"""The edges of no interval at all."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """``starts``: by family, where intervals begin, 0 among them. ``edges``: of each table."""

    starts: tuple[Addresses, Addresses]
    edges: tuple[Edges, ...]

    @property
    def count(self) -> int:
        """How many intervals there are, of both families."""
        return sum(len(each.high) for each in self.starts)


def sweep(tables: Sequence[AddressTable]) -> Sweep:
    """``tables``: at least one."""
    v4_starts, v4 = _sweep([_bounds(table, is_v6=False) for table in tables], 0)
    v6_starts, v6 = _sweep([_bounds(table, is_v6=True) for table in tables], len(v4_starts.high))
    return Sweep((v4_starts, v6_starts), tuple(symmetric_difference(*each) for each in zip(v4, v6, strict=True)))


def intersection(one: Edges, other: Edges) -> Edges:
    """Takes as long as the one with fewer edges, and what it cuts out of the other."""
    few, many = sorted((one, other), key=len)
    low, high = few[0::2], few[1::2]
    first, last = np.searchsorted(many, low, side="right"), np.searchsorted(many, high, side="left")
    counts = last - first
    behind = np.cumsum(counts)
    inner = many[np.arange(counts.sum()) + np.repeat(first - behind + counts, counts)]
    edges: Edges = np.concatenate((low[first % 2 == 1], inner, high[last % 2 == 1]))
    edges.sort(kind="stable")
    return edges


def symmetric_difference(one: Edges, other: Edges) -> Edges:
    if not len(one) or not len(other):
        return one if len(one) else other
    edges: Edges = np.sort(np.concatenate((one, other)), kind="stable")
    is_twice = edges[1:] == edges[:-1]
    once: Edges = edges[~(np.append(is_twice, False) | np.append(False, is_twice))]
    return once


def difference(one: Edges, other: Edges) -> Edges:
    return symmetric_difference(one, intersection(one, other))


def union(sets: Sequence[Edges]) -> Edges:
    sets = [each for each in sets if len(each)]
    if len(sets) < 2:
        return sets[0] if sets else NONE
    edges = np.concatenate(sets)
    order = np.argsort(edges, kind="stable")
    edges = edges[order]
    # Beginnings and ends are in turns in each set, which has an even number of them.
    depth = np.cumsum(1 - 2 * (order % 2))
    is_last = np.append(edges[1:] != edges[:-1], True)
    edges, inside = edges[is_last], depth[is_last] > 0
    turns: Edges = edges[inside != np.append(False, inside[:-1])]
    return turns


def _bounds(table: AddressTable, *, is_v6: bool) -> Addresses:
    """Each range's first address and the one behind its last, in turns: ascending, but that 0 is behind them all."""
    if not is_v6:
        edges = table.v4.astype(np.uint64)
        edges[:, 1] += _ONE
        # 2^32, behind the last address, wraps to the 0 that _sweep takes for "never".
        return Addresses(edges.reshape(-1) << np.uint64(32), np.zeros(edges.size, dtype=np.uint64))
    high, low = table.v6[:, 0::2].copy(), table.v6[:, 1::2].copy()
    low[:, 1] += _ONE
    high[:, 1] += low[:, 1] == 0
    return Addresses(high.reshape(-1), low.reshape(-1))


def _order(found: Addresses) -> npt.NDArray[np.intp]:
    """What sorts addresses, made of few runs that are in order."""
    order = np.argsort(found.high, kind="stable")
    high, low = found.high[order], found.low[order]
    if np.any((high[1:] == high[:-1]) & (low[1:] < low[:-1])):
        return np.lexsort((found.low, found.high))
    return order


def _sweep(parts: Sequence[Addresses], first: int) -> tuple[Addresses, list[Edges]]:
    """Of one family, whose first interval has the number ``first``: where intervals begin, and each part's edges."""
    zero = np.zeros(1, dtype=np.uint64)
    found = Addresses(*(np.concatenate((zero, *halves)) for halves in zip(*parts, strict=True)))
    order = _order(found)
    high, low = found.high[order], found.low[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(is_new) - 1
    starts = Addresses(high[is_new], low[is_new])
    edges = []
    for part in np.split(place, np.cumsum([1, *(len(part.high) for part in parts)]))[1:-1]:
        ends = part[1::2]
        ends[ends == 0] = len(starts.high)
        edges.append(first + part)
    return starts, edges
