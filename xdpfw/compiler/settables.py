# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets with files -> the map ``set_tables``: addresses to set classes, and what a set class means to the rules.

The rules' own tables know nothing of what such sets hold, so that a set's file may change and only this is made anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.addresstable import AddressTable
from xdpfw.compiler.atoms import SetCondition
from xdpfw.compiler.ir import AddressRanges
from xdpfw.compiler.sweep import Edges, Sweep, difference, intersection, sweep, union
from xdpfw.compiler.tables import Tables, bounds
from xdpfw.compiler.trie import add_trie
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Direction, Limit, Value

_WORD_BITS: Final = int(Limit.WORD_BITS)

MAX_STEPS: Final = 1 << 30
"""So many times an interval is looked at or a bit is turned over, at the most: some tens of seconds."""

MAX_FEW_EDGES: Final = 8192
"""Tables with so few are joined and cut for each condition that names them; larger ones once for all."""

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SetConditions:
    """The conditions of rules that name sets with a file, by number: what the tables of rules leave open.

    ``used``: by direction, if any condition is on its addresses. ``meets_no_address[i]``: packets that are not IP meet
    condition i. ``columns``: for each direction and each bit of a vector the condition of its rule (None: it has none).
    """

    conditions: tuple[SetCondition, ...]
    used: tuple[bool, ...]
    meets_no_address: tuple[bool, ...]
    columns: tuple[tuple[int | None, ...], ...]
    vector_words: int
    summary_words: int  # so many words are summed up in the last one; 0: there is no such word


def with_summary(vectors: U64, words: int) -> U64:
    """Vectors, shape (classes, words), with one word more: its bit i says that word i of the first ``words`` is not 0.

    ``words`` 0: as they are.
    """
    if not words:
        return vectors
    summary = np.zeros(len(vectors), dtype=np.uint64)
    for word in range(words):
        summary |= (vectors[:, word] != 0).astype(np.uint64) << np.uint64(word)
    return np.concatenate((vectors, summary[:, None]), axis=1)


def build_set_tables(wanted: SetConditions) -> tuple[Value, list[dict[str, int]], bytes]:
    """``struct xdpfw_set_table``, what it adds to each direction's table, and the value of the map.

    Raises CapacityError where the sets do not fit into it.
    """
    if not wanted.conditions:
        return {}, [{} for _ in Direction], b""
    condition_words = -(-len(wanted.conditions) // _WORD_BITS)
    conditions = _Conditions(wanted)
    classes, class_of = _distinct(conditions.words(), 8 * (condition_words + len(Direction) * wanted.vector_words))

    tables = Tables()
    roots = []
    first = 0
    for starts in conditions.swept.starts:
        roots.append(add_trie(tables, starts, class_of[first : first + len(starts.high)].astype(np.uint32)))
        first += len(starts.high)
    directions = [
        {
            "sets_used": int(used),
            "sets_wide": tables.add(
                with_summary(
                    _vectors(classes, columns, wanted.vector_words - bool(wanted.summary_words)), wanted.summary_words
                )
            ),
        }
        for used, columns in zip(wanted.used, wanted.columns, strict=True)
    ]
    table = {
        "root_v4": roots[0],
        "root_v6": roots[1],
        "no_address_class": int(class_of[-1]),
        "conditions": tables.add(classes),
        "condition_words": condition_words,
        "bytes": tables.size_bytes,
        "bounds": bounds(tables.size_bytes),
    }
    if tables.size_bytes > Limit.MAX_TABLE_BYTES:
        raise CapacityError(
            f"the sets' addresses need {tables.size_bytes >> 20:,} MiB, more than {Limit.MAX_TABLE_BYTES >> 20:,}",
            hint="use sets with fewer entries, or prefixes that cover several of them",
        )
    return table, directions, tables.tobytes()


def _vectors(classes: U64, columns: Sequence[int | None], words: int) -> U64:
    """For each class the bits of rules whose condition holds, or that have none."""
    vectors = np.zeros((len(classes), words), dtype=np.uint64)
    for bit, number in enumerate(columns):
        word, place = divmod(bit, _WORD_BITS)
        if number is None:
            vectors[:, word] |= np.uint64(1 << place)
        else:
            held = classes[:, number // _WORD_BITS] >> np.uint64(number % _WORD_BITS) & np.uint64(1)
            vectors[:, word] |= held << np.uint64(place)
    return vectors


def _distinct(words: Iterable[U64], class_bytes: int) -> tuple[U64, I64]:
    """Rows, of which ``words`` are the columns -> those that differ, in order, and the number of each among them.

    Few differ. Raises CapacityError where so many do that tables with ``class_bytes`` for each are too large.
    """
    class_of: I64 = np.zeros(1, dtype=np.int64)
    count = 1
    steps: list[tuple[I64, U64]] = []  # of each class so far, with one word more: which it was, and the word
    for word in words:
        is_new = np.append(True, word[1:] != word[:-1])
        values = np.unique(word[is_new])
        # Looking up each among few is several times faster than sorting all.
        combined = class_of * len(values) + np.searchsorted(values, word)
        found, class_of = _numbered_anew(combined, count * len(values))
        count = len(found)
        if count * class_bytes > Limit.MAX_TABLE_BYTES:
            raise CapacityError(
                f"the rules tell at least {count:,} parts of the sets' addresses apart, which need "
                f"{count * class_bytes >> 20:,} MiB, more than {Limit.MAX_TABLE_BYTES >> 20:,}",
                hint="use fewer different conditions with sets, or sets that overlap less",
            )
        steps.append((found // len(values), values[found % len(values)]))
    rows = np.empty((count, len(steps)), dtype=np.uint64)
    at = np.arange(count)
    for number, (before, value) in reversed([*enumerate(steps)]):
        rows[:, number] = value[at]
        at = before[at]
    return rows, class_of


def _numbered_anew(numbers: I64, limit: int) -> tuple[I64, I64]:
    """The numbers, all below ``limit``, that there are, in order, and which of them each is."""
    if limit > 4 * len(numbers):
        found = np.unique(numbers)
        return found, np.searchsorted(found, numbers)
    is_there = np.zeros(limit, dtype=bool)
    is_there[numbers] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[numbers]


@dataclass(frozen=True, slots=True)
class _Condition:
    """The tables of one, by number: large ones and others. ``everywhere``: holds for all but those without."""

    everywhere: bool
    large: tuple[int, ...]
    small: tuple[int, ...]
    large_without: tuple[int, ...]
    small_without: tuple[int, ...]

    @property
    def large_parts(self) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
        return self.everywhere, self.large, self.large_without


class _Conditions:
    """Where which conditions hold, one word of them at a time."""

    def __init__(self, wanted: SetConditions) -> None:
        numbers: dict[AddressTable, int] = {}
        members = [
            (
                None if each.within is None else _numbered(each.within, numbers),
                [number for out in each.without for number in _numbered(out, numbers)],
            )
            for each in wanted.conditions
        ]
        self.swept: Sweep = sweep(list(numbers))
        self._meets_no_address = wanted.meets_no_address
        self._conditions = [
            _Condition(within is None, *self._by_size(within or ()), *self._by_size(without))
            for within, without in members
        ]
        self._base = functools.lru_cache(maxsize=2)(self._make_base)
        self._steps = 0

    def words(self) -> Iterator[U64]:
        """For each 64 conditions one number for each interval, and the last for packets without addresses."""
        count = self.swept.count
        for first in range(0, len(self._conditions), _WORD_BITS):
            changes = np.zeros(count + 1, dtype=np.uint64)
            self._count(count)
            here = list(enumerate(self._conditions[first : first + _WORD_BITS]))
            for key in dict.fromkeys(each.large_parts for _, each in here):
                same = [(1 << place, each) for place, each in here if each.large_parts == key]
                self._change(changes, self._base(*key)[0], sum(bit for bit, _ in same))
                for bit, each in same:
                    if each.small or each.small_without:
                        self._change_small(changes, each, bit)
            np.bitwise_xor.accumulate(changes, out=changes)
            without_address = self._meets_no_address[first : first + _WORD_BITS]
            changes[count] = sum(1 << place for place, meets in enumerate(without_address) if meets)
            yield changes

    def _by_size(self, numbers: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        distinct = sorted(set(numbers))
        is_large = [len(self.swept.edges[number]) > MAX_FEW_EDGES for number in distinct]
        return (
            tuple(number for number, large in zip(distinct, is_large, strict=True) if large),
            tuple(number for number, large in zip(distinct, is_large, strict=True) if not large),
        )

    def _union(self, numbers: Iterable[int]) -> Edges:
        return union([self.swept.edges[number] for number in numbers])

    def _make_base(
        self, everywhere: bool, large: tuple[int, ...], large_without: tuple[int, ...]
    ) -> tuple[Edges, Edges]:
        """Where a condition would hold if it named large tables only, and the large ones that it is without."""
        within = np.array([0, self.swept.count]) if everywhere else self._union(large)
        without = self._union(large_without)
        return difference(within, without), without

    def _change_small(self, changes: U64, condition: _Condition, bit: int) -> None:
        """Turns over what small tables make of it: they decide on all their addresses, whatever large ones hold."""
        base, large_without = self._base(*condition.large_parts)
        within, without = self._union(condition.small), self._union(condition.small_without)
        gained = difference(within, without)
        self._change(changes, intersection(base, union([within, without])), bit)
        self._change(changes, gained, bit)
        self._change(changes, intersection(large_without, gained), bit)

    def _change(self, changes: U64, edges: Edges, bits: int) -> None:
        self._count(len(edges))
        changes[edges] ^= np.uint64(bits)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise CapacityError(
                f"{len(self._conditions):,} different conditions with sets, which divide the addresses into "
                f"{self.swept.count:,} parts, are more than can be compiled",
                hint="use fewer different conditions with sets, or sets with fewer entries",
            )


def _numbered(addresses: AddressRanges, numbers: dict[AddressTable, int]) -> tuple[int, ...]:
    tables: Iterable[AddressTable] = (each.table for each in addresses.sets)
    if addresses.v4 or addresses.v6:
        tables = (*tables, _own_table(addresses.v4, addresses.v6))
    return tuple(numbers.setdefault(table, len(numbers)) for table in tables)


@functools.lru_cache(maxsize=64)
def _own_table(v4: tuple[tuple[int, int], ...], v6: tuple[tuple[int, int], ...]) -> AddressTable:
    low_64 = (1 << 64) - 1
    halves = [(low >> 64, low & low_64, high >> 64, high & low_64) for low, high in v6]
    return AddressTable(np.array(v4, dtype=np.uint32).reshape(-1, 2), np.array(halves, dtype=np.uint64).reshape(-1, 4))
