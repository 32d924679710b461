# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: the rules that the same addresses leave over, in order of precedence, and how the kernel searches them.

A short row is a list of entries. A long one, such as a host's hundred ports, is a dispatch table: the combined
class of the small fields says which (short) row is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from xdpfw.compiler.atoms import Predicate
from xdpfw.compiler.fields import Group, implies
from xdpfw.compiler.tables import Tables
from xdpfw.kernel.abi import Layout, Limit, RowReference

LONGEST_LIST: Final = 16
"""Entries of a row that stays a list; each costs a look at one bit."""


class Entry(NamedTuple):
    """Rule number, predicate number, and 1 + the wide condition on the other direction's address (0: none)."""

    rule: int
    predicate: int
    other: int


Row = tuple[Entry, ...]


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
        self._entries: list[tuple[int, int, int, int]] = []
        self._dispatch: list[int] = []
        self._reference: dict[Row, int] = {}
        self._list_reference: dict[Row, int] = {}
        self._dispatch_base: dict[tuple[int, ...], int] = {}
        self._too_long: list[Row] = []
        self._implies: dict[tuple[int, int], bool] = {}

    def reference(self, entries: Sequence[Entry]) -> int:
        """The row reference (enum xdpfw_row_reference) of entries in order of rules; see check_lengths()."""
        row = tuple(entries)
        known = self._reference.get(row)
        if known is None:
            pruned = self._prune(row)
            known = self._list(pruned) if len(pruned) <= LONGEST_LIST else self._dispatched(pruned)
            self._reference[row] = known
        return known

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

    def _list(self, row: Row) -> int:
        """The reference of a row as a list; never that of a dispatch table, which the kernel resolves only once."""
        if not row:
            return 0
        if len(row) > Limit.MAX_ROW_ENTRIES:
            self._too_long.append(row)
            return 0
        if row not in self._list_reference:
            self._list_reference[row] = len(self._entries) + 1
            self._entries += [(*entry, int(i == len(row) - 1)) for i, entry in enumerate(row)]
        return self._list_reference[row]

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

    def _dispatched(self, row: Row) -> int:
        entries_of: dict[int, list[Entry]] = {}
        for entry in row:
            entries_of.setdefault(entry.predicate, []).append(entry)
        relevant = sum(1 << predicate for predicate in entries_of)
        best: tuple[int, int, list[Row]] | None = None
        for number, group in enumerate(self._groups):
            left: dict[int, Row] = {}
            rows = []
            for possible in group.predicates:
                key = possible & relevant
                if key not in left:
                    left[key] = self._left(entries_of, key)
                rows.append(left[key])
            longest = max(map(len, rows))
            if best is None or longest < best[0]:
                best = longest, number, rows
        assert best is not None
        longest, number, rows = best
        laid = {rest: self._list(self._prune(rest)) for rest in dict.fromkeys(rows)}
        references = tuple(laid[rest] for rest in rows)
        base = self._dispatch_base.setdefault(references, len(self._dispatch))
        if base == len(self._dispatch):
            self._dispatch += references
        return RowReference.ROW_DISPATCH | number << RowReference.ROW_GROUP_SHIFT | base

    def check_lengths(self) -> None:
        """Raises RowTooLongError with all rows so far that no reference can be made for."""
        if self._too_long:
            raise RowTooLongError(self._too_long)

    def lay(self, tables: Tables) -> tuple[int, int]:
        """Lays the entries and the dispatch tables; returns their bases."""
        entries = np.array(self._entries or [(0, 0, 0, 1)], dtype=np.uint32)
        dispatch = np.array(self._dispatch or [0], dtype=np.uint32)
        return tables.add(entries, Layout.BLOCK_BYTES // Layout.BLOCK_ENTRIES), tables.add(dispatch)
