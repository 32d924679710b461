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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import addresses
from xdpfw.compiler.addresses import AddressSpace
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

    Those that name sets with a file are not among them: they are neither narrow nor known. ``of_atom[i]``: the number
    of atom i's condition; None where it has none or such a set.
    """

    conditions: list[AddressCondition]
    of_atom: list[int | None]
    wide: frozenset[int]
    space: AddressSpace


@dataclass(frozen=True, slots=True)
class Grouping:
    """``groups[i]`` is the group of atom i; ``directions`` by Direction."""

    groups: list[AtomGroup]
    directions: tuple[DirectionConditions, DirectionConditions]

    def members(self, group: AtomGroup) -> list[int]:
        return [i for i, g in enumerate(self.groups) if g is group]


@dataclass(frozen=True, slots=True)
class _Numbered:
    """The distinct conditions on one direction's addresses; ``of_atom`` as in DirectionConditions."""

    conditions: list[AddressCondition]
    of_atom: list[int | None]


def _numbered(wanted: Iterable[AddressCondition | None]) -> _Numbered:
    numbers: dict[AddressCondition, int] = {}
    of_atom = [
        None if condition is None or condition.sets else numbers.setdefault(condition, len(numbers))
        for condition in wanted
    ]
    return _Numbered(list(numbers), of_atom)


_GROUPS: Final = {
    (True, True): AtomGroup.PAIRS,
    (True, False): AtomGroup.SOURCE,
    (False, True): AtomGroup.DESTINATION,
    (False, False): AtomGroup.WIDE,
}
"""By whether the source's condition is narrow, and the destination's."""


def _groups(
    atoms: Sequence[Atom], src: DirectionConditions, dst: DirectionConditions, has_anywhere: bool
) -> list[AtomGroup]:
    return [
        AtomGroup.ANYWHERE
        if has_anywhere and atom.src is None and atom.dst is None and not atom.counts
        else _GROUPS[s is not None and s not in src.wide, d is not None and d not in dst.wide]
        for atom, s, d in zip(atoms, src.of_atom, dst.of_atom, strict=True)
    ]


def pair_count(grouping: Grouping) -> int:
    """How many pairs of classes the atoms in PAIRS cover, at most."""
    src, dst = grouping.directions
    src_sets, dst_sets = (addresses.holders((each.space.v4, each.space.v6)) for each in (src, dst))
    return sum(
        src_sets[s] * dst_sets[d]
        for s, d, group in zip(src.of_atom, dst.of_atom, grouping.groups, strict=True)
        if group is AtomGroup.PAIRS and s is not None and d is not None
    )


def _try(
    atoms: Sequence[Atom],
    numbered: tuple[_Numbered, _Numbered],
    forced: Collection[AddressCondition | None],
    threshold: int | None,
) -> Grouping:
    has_anywhere = threshold is not None and None not in forced
    always = {*forced, *(c for atom in atoms if atom.counts for c in (atom.src, atom.dst))}

    def cut(found: _Numbered) -> DirectionConditions:
        wide = frozenset(
            number
            for number, condition in enumerate(found.conditions)
            if threshold is None or addresses.is_wide(condition, threshold) or (always and condition in always)
        )
        return DirectionConditions(found.conditions, found.of_atom, wide, addresses.cut(found.conditions, wide))

    src, dst = map(cut, numbered)
    return Grouping(_groups(atoms, src, dst, has_anywhere), (src, dst))


def group_atoms(atoms: Sequence[Atom], forced: Collection[AddressCondition | None] = ()) -> Grouping:
    """Chooses the threshold. Conditions in ``forced`` and of rules that only count are wide whatever their size.

    None in ``forced`` stands for the lack of a condition: there is no group ANYWHERE then.

    Raises CapacityError where no threshold fits.
    """
    numbered = _numbered(atom.src for atom in atoms), _numbered(atom.dst for atom in atoms)
    if len(atoms) <= WIDE_ONLY:
        return _try(atoms, numbered, forced, None)
    wide_limit = Limit.MAX_WIDE_WORDS * Limit.WORD_BITS
    for threshold in THRESHOLDS:
        grouping = _try(atoms, numbered, forced, threshold)
        wide = sum(1 for i in grouping.members(AtomGroup.WIDE) if not atoms[i].counts)
        if wide > wide_limit:
            continue
        if pair_count(grouping) <= 4 * len(atoms) + 10_000:
            return grouping
    raise CapacityError(
        f"the {len(atoms):,} rules overlap in too many ways: no division of them keeps both to {wide_limit:,} rules "
        f"with wide addresses and to {4 * len(atoms) + 10_000:,} pairs of narrow ones",
        hint="use narrower prefixes, or fewer rules that cover whole networks of others",
    )
