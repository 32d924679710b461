# SPDX-License-Identifier: GPL-2.0-or-later
"""Address conditions -> elementary intervals, within which no condition changes.

Conditions are *narrow* or *wide*. A narrow one covers few addresses, so that few others overlap it, and is worth
a class of its own; a wide one would multiply the classes of all that it covers, and becomes a bit in a vector.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from xdpfw.compiler.atoms import AddressCondition
from xdpfw.compiler.ir import Ranges
from xdpfw.errors import CapacityError

V4_BITS = 32
V6_BITS = 128

Active = frozenset[int]

MAX_OVERLAPS: Final = 8_000_000
"""Members of all distinct sets of conditions, narrow or wide, that hold together: about 500 MiB while compiling."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """One family's address space, cut up: interval i runs from ``starts[i]`` to the next start.

    ``narrow[i]`` and ``wide[i]`` are the numbers of the conditions that hold there.
    """

    bits: int
    starts: list[int]
    narrow: list[Active]
    wide: list[Active]


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """All that the conditions of one direction tell apart. ``no_address``: conditions that non-IP packets meet."""

    v4: Intervals
    v6: Intervals
    no_address: Active


def is_wide(condition: AddressCondition, threshold: int) -> bool:
    """True if the condition covers more than a prefix of ``threshold`` bits, or non-IP packets too."""
    return condition.none or any(
        high - low >= 1 << bits - threshold
        for ranges, bits in ((condition.v4, V4_BITS), (condition.v6, V6_BITS))
        for low, high in ranges
    )


class _Changes(NamedTuple):
    """Address -> the conditions that hold from there on, and those that no longer do."""

    entering: defaultdict[int, list[int]]
    leaving: defaultdict[int, list[int]]


def _cut(bits: int, ranges_of: Iterable[tuple[int, Ranges]], wide: frozenset[int]) -> Intervals:
    narrow, of_wide = (_Changes(defaultdict(list), defaultdict(list)) for _ in range(2))
    for condition, ranges in ranges_of:
        entering, leaving = of_wide if condition in wide else narrow
        for low, high in ranges:
            entering[low].append(condition)
            leaving[high + 1].append(condition)
    starts = sorted({0, *narrow.entering, *narrow.leaving, *of_wide.entering, *of_wide.leaving})
    if starts[-1] >> bits:  # behind the last address
        del starts[-1]
    return Intervals(bits, starts, _sweep(starts, narrow), _sweep(starts, of_wide))


def _sweep(starts: Sequence[int], changes: _Changes) -> list[Active]:
    """What holds from each start on. ``changes``: only at starts."""
    if not changes.entering:
        return [frozenset()] * len(starts)
    # Equal sets are one object: the sweep of a set with 100,000 entries meets two of them, not 200,000.
    known: dict[Active, Active] = {}
    active: Active = frozenset()
    overlaps = 0
    found = []
    for start in starts:
        entering, leaving = changes.entering.get(start), changes.leaving.get(start)
        if entering or leaving:
            rest = active.difference(leaving) if leaving else active
            result = rest.union(entering) if entering else rest
            active = known.setdefault(result, result)
            if active is result:
                overlaps += len(result)
                if overlaps > MAX_OVERLAPS:
                    raise CapacityError(
                        f"addresses of {len(active):,} rules overlap in one place and in too many others",
                        hint="use fewer ranges that lie within or across each other, or put them into sets",
                    )
        found.append(active)
    return found


def cut(conditions: Sequence[AddressCondition], wide: frozenset[int]) -> AddressSpace:
    """The elementary intervals of ``conditions``; ``wide`` has the numbers of the wide ones."""
    return AddressSpace(
        v4=_cut(V4_BITS, ((i, c.v4) for i, c in enumerate(conditions)), wide),
        v6=_cut(V6_BITS, ((i, c.v6) for i, c in enumerate(conditions)), wide),
        no_address=frozenset(i for i, c in enumerate(conditions) if c.none),
    )


def holders(spaces: Iterable[Intervals]) -> Mapping[int, int]:
    """In how many distinct narrow sets each narrow condition is."""
    return Counter(itertools.chain.from_iterable({narrow for space in spaces for narrow in space.narrow}))
