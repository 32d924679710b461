# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: the rules that the same addresses leave over, in order of precedence, and how the kernel searches them.

A row of one rule, as most are, stands where it is looked up. A short one is a list of entries. A long one, such as a
host's hundred ports, is a dispatch table: the combined class of the small fields says which (short) row is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.atoms import Predicate
from xdpfw.compiler.fields import Group, implies
from xdpfw.compiler.tables import Tables
from xdpfw.kernel.abi import Key, Limit, RowFlag

LONGEST_LIST: Final = 16
"""Entries of a row that stays a list; each costs a look at one bit."""


class Entry(NamedTuple):
    """Key of a rule, number of a predicate, and the condition on the other direction's address, as struct xdpfw_row."""

    key: int
    predicate: int
    other: int


Row = tuple[Entry, ...]
Head = tuple[int, int]
"""A ``struct xdpfw_row``: one entry, or where more are."""

NO_ROW: Final[Head] = (int(Key.NONE), 0)


class RowTooLongError(Exception):
    """Rows that stay too long for the kernel even where the small fields are known."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.rows = rows


class RowTable:
    """Collects rows, the same one only once, and lays them into the tables."""

    def __init__(self, predicates: Sequence[Predicate], groups: Sequence[Group]) -> None:
        self._predicates = predicates
        self._groups = groups
        self._entries: list[Head] = []
        self._dispatch: list[Head] = []
        self._head: dict[Row, Head] = {}
        self._list_head: dict[Row, Head] = {}
        self._dispatch_base: dict[tuple[Head, ...], int] = {}
        self._too_long: list[Row] = []
        self._packed_predicates: dict[int, npt.NDArray[np.uint8]] = {}  # by group: its classes' bit sets
        self._implies: dict[tuple[int, int], bool] = {}

    def head(self, entries: Sequence[Entry]) -> Head:
        """The row of entries in order of rules, as the tables have it; see check_lengths()."""
        if len(entries) == 1:
            return _packed(entries[0])
        row = tuple(entries)
        known = self._head.get(row)
        if known is None:
            pruned = self._prune(row)
            known = self._list(pruned) if len(pruned) <= LONGEST_LIST else self._dispatched(pruned)
            self._head[row] = known
        return known

    def head_for_all(self, entries: Sequence[Entry]) -> Head:
        """The same of the one row that every packet looks at: as a list, it would have to be short."""
        row = self._prune(tuple(entries))
        return self._list(row) if len(row) <= 1 else self._dispatched(row)

    def _covers(self, a: Entry, b: Entry) -> bool:
        """True if ``b``, which comes after ``a``, can never be the first to match."""
        if a.other not in (0, b.other):
            return False
        pair = b.predicate, a.predicate
        if pair not in self._implies:
            self._implies[pair] = implies(self._predicates[b.predicate], self._predicates[a.predicate])
        return self._implies[pair]

    def _prune(self, row: Row) -> Row:
        if len(row) > 4 * LONGEST_LIST:
            # Comparing all pairs of a very long row would cost more than it saves: dispatch finds the same.
            unconditional = next(
                (i for i, e in enumerate(row) if not e.other and not self._predicates[e.predicate]), None
            )
            return row if unconditional is None else row[: unconditional + 1]
        kept: list[Entry] = []
        for entry in row:
            if not any(self._covers(earlier, entry) for earlier in kept):
                kept.append(entry)
        return tuple(kept)

    def _list(self, row: Row) -> Head:
        """A row as an entry or a list; never a dispatch table, which the kernel resolves only once."""
        if not row:
            return NO_ROW
        if len(row) == 1:
            return _packed(row[0])
        if len(row) > Limit.MAX_ROW_ENTRIES:
            self._too_long.append(row)
            return NO_ROW
        if row not in self._list_head:
            self._list_head[row] = RowFlag.ROW_LIST | row[0].key, len(self._entries)
            self._entries += map(_packed, row)
            key, condition = self._entries[-1]
            self._entries[-1] = key | RowFlag.ROW_LAST, condition
        return self._list_head[row]

    def _left(self, entries_of: dict[int, list[Entry]], possible: int) -> Row:
        """What is left of a row, given by predicate, where only these predicates may still hold."""
        entries: list[Entry] = []
        while possible:
            lowest = possible & -possible
            entries += entries_of[lowest.bit_length() - 1]
            possible ^= lowest
        entries.sort()
        if len(self._groups) == 1:
            # Nothing can make a predicate fail any more: the first without a condition ends the row.
            end = next((i + 1 for i, entry in enumerate(entries) if not entry.other), len(entries))
            del entries[end:]
        return tuple(entries)

    def _dispatched(self, row: Row) -> Head:
        entries_of: dict[int, list[Entry]] = {}
        for entry in row:
            entries_of.setdefault(entry.predicate, []).append(entry)
        relevant = sum(1 << predicate for predicate in entries_of)
        number = 0
        if len(self._groups) > 1:
            longest, number = min((self._longest_left(i, entries_of), i) for i in range(len(self._groups)))
            if longest > Limit.MAX_ROW_ENTRIES:
                self._too_long.append(row)
                return NO_ROW
        left: dict[int, Row] = {}
        rows = []
        for possible in self._groups[number].predicates:
            key = possible & relevant
            if key not in left:
                left[key] = self._left(entries_of, key)
            rows.append(left[key])
        laid = {rest: self._list(self._prune(rest)) for rest in dict.fromkeys(rows)}
        heads = tuple(laid[rest] for rest in rows)
        base = self._dispatch_base.setdefault(heads, len(self._dispatch))
        if base == len(self._dispatch):
            self._dispatch += heads
        return RowFlag.ROW_DISPATCH | row[0].key, number << RowFlag.ROW_GROUP_SHIFT | base

    def _longest_left(self, number: int, entries_of: dict[int, list[Entry]]) -> int:
        """The most entries that any class of a group leaves of a row."""
        if number not in self._packed_predicates:
            sets = self._groups[number].predicates
            width = -(-len(self._predicates) // 8)
            packed = np.frombuffer(b"".join(each.to_bytes(width, "little") for each in sets), dtype=np.uint8)
            self._packed_predicates[number] = packed.reshape(len(sets), width)
        packed = self._packed_predicates[number]
        weight = np.zeros(8 * packed.shape[1], dtype=np.int64)
        for predicate, entries in entries_of.items():
            weight[predicate] = len(entries)
        # What each value of each byte leaves, looked up byte by byte.
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)
        lengths = np.zeros(len(packed), dtype=np.int64)
        for byte in np.flatnonzero(weight.reshape(-1, 8).any(axis=1)):
            lengths += (bits @ weight[8 * byte : 8 * byte + 8])[packed[:, byte]]
        return int(lengths.max())

    def check_lengths(self) -> None:
        """Raises RowTooLongError with all rows so far that no reference can be made for."""
        if self._too_long:
            raise RowTooLongError(self._too_long)

    def lay(self, tables: Tables) -> tuple[int, int]:
        """Lays the entries and the dispatch tables; returns their bases, in struct xdpfw_row."""
        bases = (
            tables.add(np.array(rows or [NO_ROW], dtype=np.uint32), np.dtype(np.uint32).itemsize * len(NO_ROW))
            for rows in (self._entries, self._dispatch)
        )
        entries, dispatch = bases
        return entries, dispatch


def _packed(entry: Entry) -> Head:
    return entry.key, entry.predicate | entry.other << RowFlag.ROW_OTHER_SHIFT
