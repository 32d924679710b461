# SPDX-License-Identifier: GPL-2.0-or-later
"""Small fields -> combined classes (recursive flow classification).

Each field's values fall into classes that no predicate tells apart; classes of several fields are combined, field
by field, by dense tables, keeping only the combinations that some predicate tells apart. What is known of a class
is the set of predicates that may still hold, a bit set over all predicates.

One combined class a packet is the usual case. Where the combinations would outgrow a table (many fields, each
with many independent values) the field starts another group; a predicate then holds if it does in every group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from xdpfw.compiler import ranges
from xdpfw.compiler.atoms import HIGHEST, FieldCondition, MacCondition, Predicate
from xdpfw.compiler.macs import MacTables, classify_macs
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Field, Limit

MAX_COMBINATIONS: Final = 1 << 20
"""Entries of one combining table (2 bytes each)."""

VECTOR_BITS: Final = (1 << 23, 1 << 25, 1 << 27)
"""Combined classes of a group times predicates, 1, 4 or 16 MiB of bit vectors: the first with which the groups do."""

_MAX_CLASSES: Final = 1 << 16

U16 = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Classes:
    """``of_value[value]`` is the class of a value; ``predicates[class]`` the predicates that it leaves possible."""

    of_value: U16
    predicates: list[int]


@dataclass(frozen=True, slots=True)
class FieldTable:
    field: Field
    group: int
    class_count: int
    classes: U16 | None  # None: the value is the class
    combine: U16 | None  # combined * class_count + class -> combined; None: the class is the combined class
    macs: MacTables | None = None


@dataclass(slots=True)
class Group:
    """``predicates[combined class]``: a bit set of the predicates that hold as far as this group's fields go."""

    predicates: list[int]
    fields: list[Field] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fields:
    tables: list[FieldTable]
    groups: list[Group]


def bit_matrix(bit_sets: Sequence[int], bits: int) -> npt.NDArray[np.uint8]:
    """Bit sets as rows of 0 and 1, shape (len(bit_sets), bits)."""
    width = -(-max(bits, 1) // 8)
    packed = np.frombuffer(b"".join(s.to_bytes(width, "little") for s in bit_sets), dtype=np.uint8)
    return np.unpackbits(packed.reshape(len(bit_sets), width), axis=1, bitorder="little")[:, :bits]


def bit_vectors(matrix: npt.NDArray[np.uint8], words: int) -> npt.NDArray[np.uint64]:
    """Rows of 0 and 1 as ``words`` little-endian 64-bit words each, shape (rows, words)."""
    packed = np.packbits(matrix, axis=1, bitorder="little")
    padded = np.zeros((matrix.shape[0], words * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view("<u8")


def _numbered(sets: Iterable[int]) -> tuple[list[int], list[int]]:
    """Numbers for equal sets in order of appearance, and the distinct sets."""
    number_of: dict[int, int] = {}
    numbers = [number_of.setdefault(s, len(number_of)) for s in sets]
    return numbers, list(number_of)


def _classify_ranges(conditions: dict[FieldCondition, int], unconstrained: int, highest: int) -> Classes:
    """``conditions``: condition -> its predicates; ``unconstrained``: predicates without one on this field."""
    # A predicate has one condition on a field, whose ranges are disjoint: entering and leaving one is an XOR.
    changes: dict[int, int] = {0: unconstrained}
    for condition, predicates in conditions.items():
        assert not isinstance(condition, MacCondition)
        for low, high in condition:
            changes[low] = changes.get(low, 0) ^ predicates
            changes[high + 1] = changes.get(high + 1, 0) ^ predicates
    starts = sorted(start for start in changes if start <= highest)
    possible = 0
    sets = []
    for start in starts:
        possible ^= changes[start]
        sets.append(possible)
    numbers, distinct = _numbered(sets)
    lengths = np.diff(np.array([*starts, highest + 1]))
    return Classes(np.repeat(np.array(numbers, dtype=np.uint16), lengths), distinct)


def _combine(a: list[int], b: list[int], most: int) -> tuple[U16, list[int]] | None:
    """The table of all pairs, and the combined classes' predicates; None where it would be too large.

    ``most``: so many classes there may be.
    """
    if len(a) * len(b) > MAX_COMBINATIONS:
        return None
    number_of: dict[int, int] = {}
    numbers: list[int] = []
    for x in a:
        numbers += [number_of.setdefault(x & y, len(number_of)) for y in b]
        if len(number_of) > most:
            return None
    return np.array(numbers, dtype=np.uint16), list(number_of)


def classify_fields(predicates: Sequence[Predicate]) -> Fields:
    """Builds the tables of all fields that a predicate looks at.

    Raises CapacityError where the policy's combinations do not fit into MAX_GROUPS groups.
    """
    every = (1 << len(predicates)) - 1
    conditions: dict[Field, dict[FieldCondition, int]] = {}
    constrained: dict[Field, int] = {}
    for number, predicate in enumerate(predicates):
        for name, condition in predicate:
            of_field = conditions.setdefault(name, {})
            of_field[condition] = of_field.get(condition, 0) | 1 << number
            constrained[name] = constrained.get(name, 0) | 1 << number

    classified: list[_Classified] = []
    for name in sorted(conditions):
        unconstrained = every & ~constrained[name]
        if name in (Field.SRC_MAC, Field.DST_MAC):
            macs, possible = classify_macs(conditions[name], unconstrained)
            classified.append(_Classified(name, possible, None, macs))
        else:
            found = _classify_ranges(conditions[name], unconstrained, HIGHEST[name])
            classified.append(_Classified(name, found.predicates, found.of_value, None))
    for vector_bits in VECTOR_BITS:
        fields = _grouped(classified, min(vector_bits // max(len(predicates), 1), _MAX_CLASSES))
        if fields is not None:
            return fields if fields.groups else Fields([], [Group([every])])
    raise CapacityError(
        f"the rules' conditions besides addresses do not fit into {int(Limit.MAX_GROUPS)} tables of "
        f"{MAX_COMBINATIONS:,} combinations",
        hint="use fewer distinct port ranges, lengths and other values, or split the policy by interface",
    )


class _Classified(NamedTuple):
    """A field whose values have classes, with the predicates that each leaves possible."""

    field: Field
    possible: list[int]
    classes: U16 | None
    macs: MacTables | None


def _place(groups: list[Group], possible: list[int], most: int) -> tuple[int, U16 | None] | None:
    """Combines a field into the first group where it fits, or starts a new one: its number, and the table."""
    for number, group in enumerate(groups):
        combined = _combine(group.predicates, possible, most)
        if combined is not None:
            combine, group.predicates = combined
            return number, combine
    if len(groups) == Limit.MAX_GROUPS:
        return None
    groups.append(Group(possible))
    return len(groups) - 1, None


def _grouped(classified: Sequence[_Classified], most: int) -> Fields | None:
    """All fields in groups of at most ``most`` combined classes; None where there would be too many groups."""
    tables: list[FieldTable] = []
    groups: list[Group] = []
    for name, possible, classes, macs in classified:
        place = _place(groups, possible, most)
        if place is None:
            return None
        number, combine = place
        groups[number].fields.append(name)
        tables.append(FieldTable(name, number, len(possible), classes, combine, macs))
    return Fields(tables, groups)


def implies(a: Predicate, b: Predicate) -> bool:
    """True if every packet for which ``a`` holds is one for which ``b`` does (it may say False where it is so)."""
    conditions = dict(a)
    for name, condition in b:
        mine = conditions.get(name)
        if mine is None or (mine != condition and not _is_subset(mine, condition)):
            return False
    return True


def _is_subset(a: FieldCondition, b: FieldCondition) -> bool:
    if isinstance(a, MacCondition) or isinstance(b, MacCondition):
        return False
    return ranges.intersect(a, b) == a
