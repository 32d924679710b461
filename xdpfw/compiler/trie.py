# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of addresses -> the trie of enum xdpfw_trie: a root table of 65,536 entries, then nodes.

Where few boundaries are left below a prefix, a search node holds them all, in one cache line; where many are, a node
of 16 or 256 entries divides them. What is finer than the 32 bits that a search node looks at has a node of its own
behind it. So the memory is that of the boundaries, whatever the lengths of prefixes, and few lines are read.

Built level by level, all nodes of a level at once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.tables import Tables
from xdpfw.kernel.abi import Layout, Trie

_BLOCK_ENTRIES: Final = Layout.BLOCK_BYTES // 4
_HALF_BITS: Final = 64
_ADDRESS_BITS: Final = 128
_WINDOW_BITS: Final = 32
_NARROW_STRIDE: Final = 4
_WIDE_STRIDE: Final = 8

MIN_WIDE_BOUNDARIES: Final = 12
MAX_WIDE_NODES: Final = 1000
ALWAYS_WIDE_BOUNDARIES: Final = 48
"""A node of 256 entries takes 16 lines, and halves the way. It is worth them where so many boundaries are left; in a
large trie more of them, so that such nodes do not push the rest out of the cache."""

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Addresses(NamedTuple):
    """128-bit numbers as their halves. IPv4 addresses stand in the top 32 bits."""

    high: U64
    low: U64


def addresses_of(numbers: list[int], bits: int) -> Addresses:
    """``numbers``: host-order addresses of so many bits, 32 or 128."""
    if bits == _WINDOW_BITS:
        high = np.array(numbers, dtype=np.uint64) << np.uint64(_HALF_BITS - bits)
        return Addresses(high, np.zeros_like(high))
    data = b"".join((number << _ADDRESS_BITS - bits).to_bytes(16, "big") for number in numbers)
    halves = np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return Addresses(halves[:, 0], halves[:, 1])


@dataclass(frozen=True, slots=True)
class _Places:
    """Prefixes of equal length that several intervals lie in, ``first`` to ``last``.

    ``start``: the half (high or low 64 bits) that the prefix ends in, of its first address. ``entry``: the index among
    all entries of the one that leads there.
    """

    start: U64
    first: I64
    last: I64
    entry: I64

    def only(self, chosen: Bools) -> _Places:
        return _Places(self.start[chosen], self.first[chosen], self.last[chosen], self.entry[chosen])

    def __len__(self) -> int:
        return len(self.first)


def _joined(places: list[_Places]) -> _Places:
    columns = zip(*((each.start, each.first, each.last, each.entry) for each in places), strict=True)
    return _Places(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True, slots=True)
class _Cells:
    """Boundaries within places, in order. A place is divided into cells, by ``bits`` of a half behind ``shift`` others.

    ``owner`` and ``cell``: in which place and cell each lies; ``is_exact``: just where the cell begins. ``offset``: of
    each place's first boundary.
    """

    bits: int
    shift: int
    owner: I64
    cell: I64
    is_exact: Bools
    offset: I64

    def start_of(self, places: _Places, owner: I64, cell: I64) -> U64:
        """The half of the first address of cells."""
        mask = np.uint64(((1 << self.bits) - 1) << self.shift & (1 << _HALF_BITS) - 1)
        return places.start[owner] & ~mask | cell.astype(np.uint64) << np.uint64(self.shift)

    def first_of(self, places: _Places) -> I64:
        """The cells that the places themselves begin with."""
        return (places.start >> np.uint64(self.shift) & np.uint64((1 << self.bits) - 1)).astype(np.int64)


class _Parts(NamedTuple):
    """Runs of cells, in order, that fill each place: from ``cell`` of place ``owner`` to the next one's or to its end.

    ``before``: the interval that the address before it lies in (in the place's first part: the place begins in).
    ``begins``: the next one begins just where it does.
    """

    owner: I64
    cell: I64
    before: I64
    begins: Bools

    def only(self, chosen: Bools) -> _Parts:
        return _Parts(self.owner[chosen], self.cell[chosen], self.before[chosen], self.begins[chosen])


class _Builder:
    """``bounds``: where the intervals begin, the first at 0; ``leaf_of``: the leaf number of each."""

    def __init__(self, first_block: int, bounds: Addresses, leaf_of: U32) -> None:
        self.first_block = first_block
        self.bounds = bounds
        self.leaf_of = leaf_of
        # Within any window what IPv4 addresses differ in begins with a cell of its own.
        self.is_exact = not (bounds.low.any() or (bounds.high << np.uint64(_WINDOW_BITS)).any())
        crowded = min(len(leaf_of) // MAX_WIDE_NODES, ALWAYS_WIDE_BOUNDARIES)
        self.min_wide_boundaries = max(MIN_WIDE_BOUNDARIES, crowded)
        self.block_count = (1 << Layout.ROOT_BITS) // _BLOCK_ENTRIES  # those of the root
        self.entries: U32 = np.zeros(2 * self.block_count * _BLOCK_ENTRIES, dtype=np.uint32)  # with room for more
        self.waiting: dict[int, list[_Places]] = defaultdict(list)  # by their prefixes' length

    def build(self) -> U32:
        """All blocks, the root's first, shape (blocks, 16)."""
        none = np.zeros(1, dtype=np.int64)
        everything = _Places(none.astype(np.uint64), none, none + len(self.leaf_of) - 1, none)
        self._lead_to_cells(everything, 0, self._cells(everything, 0, int(Layout.ROOT_BITS)), none)
        for length in range(Layout.ROOT_BITS, _ADDRESS_BITS, _NARROW_STRIDE):
            if self.waiting[length]:
                self._divide(_joined(self.waiting.pop(length)), length)
        return self.entries[: self.block_count * _BLOCK_ENTRIES].reshape(-1, _BLOCK_ENTRIES)

    def _divide(self, places: _Places, length: int) -> None:
        rest = places.only(~self._add_searches(places, length))
        if not len(rest):
            return
        wide = rest.last - rest.first >= self.min_wide_boundaries
        if length % _HALF_BITS + _WIDE_STRIDE > _HALF_BITS:  # no node goes across the halves
            wide[:] = False
        for stride, kind, chosen in (
            (_WIDE_STRIDE, Trie.NODE_256, wide),
            (_NARROW_STRIDE, Trie.NODE_16, ~wide),
        ):
            if chosen.any():
                self._add_nodes(rest.only(chosen), length, stride, kind)

    def _cells(self, places: _Places, length: int, bits: int) -> _Cells:
        """Cells of so many bits, or of those that are left of the half and, to make them up, some before."""
        shift = max(_HALF_BITS - length % _HALF_BITS - bits, 0)
        counts = places.last - places.first
        offset = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(counts)), counts)
        bound = np.arange(len(owner)) + (places.first + 1 - offset)[owner]
        is_low = length >= _HALF_BITS
        half = self.bounds.low[bound] if is_low else self.bounds.high[bound]
        is_exact = half & np.uint64((1 << shift) - 1) == 0
        if not is_low:
            is_exact &= self.bounds.low[bound] == 0
        cell = half >> np.uint64(shift) & np.uint64((1 << bits) - 1)
        return _Cells(bits, shift, owner, cell.astype(np.int64), is_exact, offset)

    def _new_blocks(self, count: int, blocks_each: int) -> I64:
        """Numbers among all blocks of the first block of new nodes."""
        found = self.block_count + np.arange(count) * blocks_each
        self.block_count += count * blocks_each
        wanted = self.block_count * _BLOCK_ENTRIES
        if wanted > len(self.entries):
            grown = np.zeros(2 * wanted, dtype=np.uint32)
            grown[: len(self.entries)] = self.entries
            self.entries = grown
        return found

    def _point(self, places: _Places, length: int, kind: Trie, shift: int, numbers: I64) -> None:
        """Let the entries of places lead to their nodes."""
        entry = places.entry
        if length == _HALF_BITS:
            switch = self._new_blocks(len(places), 1)
            self.entries[entry] = Trie.LOW << Trie.KIND_SHIFT | self.first_block + switch
            entry = switch * _BLOCK_ENTRIES
        code = kind << Trie.KIND_SHIFT | shift << Trie.SHIFT_SHIFT
        self.entries[entry] = code | numbers

    def _add_nodes(self, places: _Places, length: int, stride: int, kind: Trie) -> None:
        cells = self._cells(places, length, stride)
        blocks = self._new_blocks(len(places), (1 << stride) // _BLOCK_ENTRIES)
        self._point(places, length, kind, cells.shift, self.first_block + blocks)
        self._lead_to_cells(places, length, cells, blocks * _BLOCK_ENTRIES)

    def _lead_to_cells(self, places: _Places, length: int, cells: _Cells, first_entry: I64) -> None:
        """An entry for each cell of each place."""
        size = 1 << cells.bits
        among = cells.owner * size + cells.cell
        counts = np.bincount(among, minlength=len(places) * size)
        begins = np.zeros(len(counts), dtype=bool)
        begins[among[cells.is_exact]] = True
        owner = np.repeat(np.arange(len(places)), size)
        cell = np.tile(np.arange(size), len(places))
        before = np.cumsum(counts) - counts + (places.first - cells.offset)[owner]
        parts = _Parts(owner, cell, before, begins)
        self._lead(places, cells, parts, first_entry[owner] + cell, length + cells.bits)

    def _add_searches(self, places: _Places, length: int) -> Bools:
        """Search nodes for the places that few enough boundaries are in: which those are."""
        searched = np.ones(len(places), dtype=bool)
        if self.is_exact:
            searched = places.last - places.first <= Trie.BOUNDARIES
        if not searched.any():
            return searched
        some = places.only(searched)
        cells = self._cells(some, length, _WINDOW_BITS)
        boundaries = _boundaries(some, cells, length)
        counts = np.bincount(boundaries.owner, minlength=len(some))
        is_few = counts <= Trie.BOUNDARIES
        if not is_few.all():
            boundaries = boundaries.only(is_few[boundaries.owner])
            boundaries = boundaries._replace(owner=(np.cumsum(is_few) - 1)[boundaries.owner])
            searched[searched] = is_few
        if is_few.any():
            self._add_search_nodes(some.only(is_few), length, cells, boundaries, counts[is_few])
        return searched

    def _add_search_nodes(
        self, places: _Places, length: int, cells: _Cells, boundaries: _Parts, counts: npt.NDArray[np.intp]
    ) -> None:
        """``boundaries``: of the parts that do not begin with their places; ``counts``: of each place's."""
        few = counts <= Trie.FEW_BOUNDARIES
        capacity = np.where(few, int(Trie.FEW_BOUNDARIES), int(Trie.BOUNDARIES))
        base = np.empty(len(places), dtype=np.int64)
        for kind, chosen, nodes_each in ((Trie.SEARCH_3, few, 2), (Trie.SEARCH, ~few, 1)):
            count = int(chosen.sum())
            first = self._new_blocks(-(-count // nodes_each), 1)[:1] * nodes_each
            nodes = first + np.arange(count)
            base[chosen] = nodes * (_BLOCK_ENTRIES // nodes_each)
            self._point(places.only(chosen), length, kind, cells.shift, self.first_block * nodes_each + nodes)

        # Of each place its beginning, then its boundaries.
        number = np.arange(len(places))
        at = np.cumsum(counts) - counts
        parts = _Parts(
            np.insert(boundaries.owner, at, number),
            np.insert(boundaries.cell, at, cells.first_of(places)),
            np.insert(boundaries.before, at, places.first),
            np.insert(boundaries.begins, at, False),
        )
        rank = np.arange(len(parts.owner)) - (at + number)[parts.owner]
        self.entries[(base[parts.owner] + rank - 1)[rank > 0]] = boundaries.cell - 1
        slots = np.arange(Trie.BOUNDARIES)
        node, slot = np.nonzero((slots >= counts[:, None]) & (slots < capacity[:, None]))
        self.entries[base[node] + slot] = (1 << _WINDOW_BITS) - 1
        entry = (base + capacity)[parts.owner] + rank
        self._lead(places, cells, parts, entry, length // _HALF_BITS * _HALF_BITS + _HALF_BITS - cells.shift)

    def _lead(self, places: _Places, cells: _Cells, parts: _Parts, entry: I64, length: int) -> None:
        """Entries of parts of places.

        All parts of a place that several intervals lie in are single cells, prefixes of ``length`` bits.
        """
        owner = parts.owner
        first = parts.before + parts.begins
        last = np.append(parts.before[1:], 0)
        ends = np.append(owner[1:] != owner[:-1], True)
        last[ends] = places.last
        single = first == last
        self.entries[entry[single]] = self.leaf_of[first[single]]
        left = np.flatnonzero(~single)
        if len(left):
            start = cells.start_of(places, owner[left], parts.cell[left])
            if length == _HALF_BITS:
                start = np.zeros_like(start)  # of the low half
            self.waiting[length].append(_Places(start, first[left], last[left], entry[left]))


def _boundaries(places: _Places, cells: _Cells, length: int) -> _Parts:
    """The parts that a search node of each place tells apart, but for those that begin with their places.

    Boundaries that do not begin just with a cell get that cell for themselves.
    """
    owner, cell = cells.owner, cells.cell
    before = (places.first - cells.offset)[owner] + np.arange(len(owner))
    changes = (owner[1:] != owner[:-1]) | (cell[1:] != cell[:-1])
    first = cells.first_of(places)
    last = first + (1 << min(_HALF_BITS - length % _HALF_BITS, _WINDOW_BITS)) - 1
    # Within a cell only the first boundary can be exact: so each begins a part, and the last may begin one behind it.
    is_begin = np.append(True, changes) & (cell > first[owner])
    is_end = np.append(changes, True) & ~cells.is_exact & (cell < last[owner])
    if not is_end.any():
        return _Parts(owner[is_begin], cell[is_begin], before[is_begin], cells.is_exact[is_begin])
    is_end[:-1] &= (owner[1:] != owner[:-1]) | (cell[1:] != cell[:-1] + 1)
    both = np.flatnonzero(np.stack((is_begin, is_end), axis=1))
    at, behind = both >> 1, both & 1
    return _Parts(owner[at], cell[at] + behind, before[at] + behind, cells.is_exact[at] & (behind == 0))


def build_trie(first_block: int, bounds: Addresses, leaves: U32) -> U32:
    """The blocks of the trie of intervals that begin at ``bounds`` (ascending, the first 0): shape (blocks, 16).

    ``leaves``: the leaf number of each interval. The blocks are to be numbers ``first_block`` and following; the root
    is in the first.
    """
    changes = np.flatnonzero(np.diff(leaves, prepend=leaves[0] + np.uint32(1)))
    return _Builder(first_block, Addresses(bounds.high[changes], bounds.low[changes]), leaves[changes]).build()


def add_trie(tables: Tables, bounds: Addresses, leaves: U32) -> int:
    """Lays the trie that :func:`build_trie` makes; returns the base of its root, in u32."""
    return tables.add(build_trie(tables.blocks, bounds, leaves))
