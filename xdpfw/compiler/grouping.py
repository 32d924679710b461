# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the five groups finds each atom: by whether its source and destination conditions are narrow or wide.

    no condition on addresses           ANYWHERE       one row for all packets
    narrow source, narrow destination   PAIRS          one exact look-up of both classes
    narrow source, wide destination     SOURCE         the source's leaf names the row
    wide source, narrow destination     DESTINATION    the destination's leaf names the row
    else                                WIDE           bit vectors

Where narrow ends is the compiler's choice. Narrower leaves more rules to the bit vectors, whose cost grows with
their number; wider makes more pairs of classes.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import addresses
from xdpfw.compiler.addresses import Active, AddressSpace
from xdpfw.compiler.atoms import AddressCondition, Atom
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Limit

WIDE_ONLY: Final = 128
"""Up to so many atoms all go to the bit vectors: two words cost less than a look-up of pairs."""

THRESHOLDS: Final = (8, 10, 12, 14, 16, 20, 24, 28)
"""Prefix lengths that may end what is wide, tried in this order."""


class AtomGroup(enum.Enum):
    ANYWHERE = enum.auto()
    PAIRS = enum.auto()
    SOURCE = enum.auto()
    DESTINATION = enum.auto()
    WIDE = enum.auto()


@dataclass(frozen=True, slots=True)
class DirectionConditions:
    """The distinct conditions on one direction's addresses, and how they cut up the address space.

    Those that name sets with a file are not among them: they are neither narrow nor known.
    """

    numbers: dict[AddressCondition, int]
    wide: frozenset[int]
    space: AddressSpace

    def number(self, condition: AddressCondition | None) -> int | None:
        return None if condition is None or condition.sets else self.numbers[condition]

    def is_narrow(self, condition: AddressCondition | None) -> bool:
        return condition is not None and not condition.sets and self.numbers[condition] not in self.wide


@dataclass(frozen=True, slots=True)
class Grouping:
    """``groups[i]`` is the group of atom i; ``directions`` by Direction."""

    groups: list[AtomGroup]
    directions: tuple[DirectionConditions, DirectionConditions]

    def members(self, group: AtomGroup) -> list[int]:
        return [i for i, g in enumerate(self.groups) if g is group]


def conditions_of(atoms: Sequence[Atom]) -> tuple[dict[AddressCondition, int], dict[AddressCondition, int]]:
    """Numbers for the distinct conditions on source and on destination addresses."""
    src: dict[AddressCondition, int] = {}
    dst: dict[AddressCondition, int] = {}
    for atom in atoms:
        if atom.src is not None and not atom.src.sets:
            src.setdefault(atom.src, len(src))
        if atom.dst is not None and not atom.dst.sets:
            dst.setdefault(atom.dst, len(dst))
    return src, dst


def _group(atom: Atom, src: DirectionConditions, dst: DirectionConditions, has_anywhere: bool) -> AtomGroup:
    if atom.src is None and atom.dst is None:
        return AtomGroup.ANYWHERE if has_anywhere and not atom.counts else AtomGroup.WIDE
    match (src.is_narrow(atom.src), dst.is_narrow(atom.dst)):
        case (True, True):
            return AtomGroup.PAIRS
        case (True, False):
            return AtomGroup.SOURCE
        case (False, True):
            return AtomGroup.DESTINATION
        case _:
            return AtomGroup.WIDE


def _cut(numbers: dict[AddressCondition, int], wide: frozenset[int]) -> DirectionConditions:
    return DirectionConditions(numbers, wide, addresses.cut(list(numbers), wide))


def _sets_of(direction: DirectionConditions) -> dict[int, set[Active]]:
    return dict(addresses.holders((direction.space.v4, direction.space.v6)))


def pair_count(atoms: Sequence[Atom], grouping: Grouping) -> int:
    """How many pairs of classes the atoms in PAIRS cover, at most."""
    src, dst = grouping.directions
    src_sets, dst_sets = _sets_of(src), _sets_of(dst)
    return sum(
        len(src_sets[src.numbers[atom.src]]) * len(dst_sets[dst.numbers[atom.dst]])
        for atom, group in zip(atoms, grouping.groups, strict=True)
        if group is AtomGroup.PAIRS and atom.src is not None and atom.dst is not None
    )


def _try(
    atoms: Sequence[Atom],
    numbers: tuple[dict[AddressCondition, int], dict[AddressCondition, int]],
    forced: Collection[AddressCondition | None],
    threshold: int | None,
) -> Grouping:
    has_anywhere = threshold is not None and None not in forced
    counting = {c for atom in atoms if atom.counts for c in (atom.src, atom.dst)}
    src, dst = (
        _cut(
            of_direction,
            frozenset(
                number
                for condition, number in of_direction.items()
                if threshold is None
                or condition in forced
                or condition in counting
                or addresses.is_wide(condition, threshold)
            ),
        )
        for of_direction in numbers
    )
    return Grouping([_group(atom, src, dst, has_anywhere) for atom in atoms], (src, dst))


def group_atoms(atoms: Sequence[Atom], forced: Collection[AddressCondition | None] = ()) -> Grouping:
    """Chooses the threshold. Conditions in ``forced`` and of rules that only count are wide whatever their size.

    None in ``forced`` stands for the lack of a condition: there is no group ANYWHERE then.

    Raises CapacityError where no threshold fits.
    """
    numbers = conditions_of(atoms)
    if len(atoms) <= WIDE_ONLY:
        return _try(atoms, numbers, forced, None)
    wide_limit = Limit.MAX_WIDE_WORDS * Limit.WORD_BITS
    for threshold in THRESHOLDS:
        grouping = _try(atoms, numbers, forced, threshold)
        wide = sum(1 for i in grouping.members(AtomGroup.WIDE) if not atoms[i].counts)
        if wide > wide_limit:
            continue
        if pair_count(atoms, grouping) <= 4 * len(atoms) + 10_000:
            return grouping
    raise CapacityError(
        f"the {len(atoms):,} rules overlap in too many ways: no division of them keeps both to {wide_limit:,} rules "
        f"with wide addresses and to {4 * len(atoms) + 10_000:,} pairs of narrow ones",
        hint="use narrower prefixes, or fewer rules that cover whole networks of others",
    )
