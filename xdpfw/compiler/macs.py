# SPDX-License-Identifier: GPL-2.0-or-later
"""MAC addresses with masks -> one class, by way of their three 16-bit parts.

A part's values fall into classes that no mask tells apart, and the parts are combined like fields; what is known
of a class there is the set of masked addresses that it may still match. The last combining table goes straight to
the classes that predicates tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.atoms import FieldCondition, MacCondition
from xdpfw.compiler.ir import MacMask
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Mac

MAX_COMBINATIONS: Final = 1 << 22

_PART_BITS: Final = 16
_PART_VALUES: Final = 1 << _PART_BITS

U16 = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class MacTables:
    """``parts[i]``: class of each value of part i; ``combine[i]``: combined * class_counts[i] + class -> combined.

    ``combine[0]`` is None: the first part's class is the combined class.
    """

    parts: tuple[U16, ...]
    class_counts: tuple[int, ...]
    combine: tuple[U16 | None, ...]


def _part(number: int, word: int) -> int:
    return word >> _PART_BITS * (Mac.PARTS - 1 - number) & (_PART_VALUES - 1)


def _classify_part(masks: list[MacMask], number: int) -> tuple[U16, list[int]]:
    """Classes of a part's values, and for each class the bit set of ``masks`` that it may match."""
    tests = [(_part(number, mask.value), _part(number, mask.mask)) for mask in masks]
    values = np.arange(_PART_VALUES, dtype=np.uint32)
    classes = np.zeros(_PART_VALUES, dtype=np.int64)
    for value, mask in sorted({test for test in tests if test[1] != _PART_VALUES - 1}):
        classes = _renumbered(classes * 2 + ((values & mask) == value))
    for value in sorted({value for value, mask in tests if mask == _PART_VALUES - 1}):
        classes[value] = classes.max() + 1
    _, first, classes = np.unique(classes, return_index=True, return_inverse=True)
    possible = [
        sum(1 << i for i, (value, mask) in enumerate(tests) if int(example) & mask == value) for example in first
    ]
    return classes.astype(np.uint16), possible


def _renumbered(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same numbers without gaps, in their order: as np.unique does, without sorting 65,536 values each time."""
    present = np.zeros(numbers.max() + 1, dtype=bool)
    present[numbers] = True
    found: npt.NDArray[np.int64] = (np.cumsum(present) - 1)[numbers]
    return found


def _holds(condition: MacCondition, possible: int, bit_of: Mapping[MacMask, int]) -> bool:
    among = condition.among is None or any(possible >> bit_of[mask] & 1 for mask in condition.among)
    return among and not any(possible >> bit_of[mask] & 1 for mask in condition.not_among)


def classify_macs(conditions: Mapping[FieldCondition, int], unconstrained: int) -> tuple[MacTables, list[int]]:
    """Tables of one address, and for each of its classes the bit set of predicates that it leaves possible.

    ``conditions``: MacCondition -> bit set of its predicates; ``unconstrained``: the predicates without one.
    Raises CapacityError where there are too many distinct addresses for a combining table.
    """
    macs = [condition for condition in conditions if isinstance(condition, MacCondition)]
    masks = sorted({mask for mac in macs for mask in (*(mac.among or ()), *mac.not_among)})
    bit_of = {mask: i for i, mask in enumerate(masks)}

    parts: list[U16] = []
    class_counts: list[int] = []
    combine: list[U16 | None] = []
    combined: list[int] = []
    for number in range(Mac.PARTS):
        classes, possible = _classify_part(masks, number)
        parts.append(classes)
        class_counts.append(len(possible))
        if number == 0:
            combine.append(None)
            combined = possible
            continue
        if len(combined) * len(possible) > MAX_COMBINATIONS:
            raise CapacityError(
                f"{len(masks):,} distinct MAC addresses and masks need a table of {len(combined) * len(possible):,} "
                f"combinations, more than {MAX_COMBINATIONS:,}",
                hint="match fewer MAC addresses, or masks that cover several",
            )
        sets = [a & b for a in combined for b in possible]
        if number == Mac.PARTS - 1:
            sets = _predicates(sets, conditions, unconstrained, bit_of)
        number_of: dict[int, int] = {}
        combine.append(np.array([number_of.setdefault(s, len(number_of)) for s in sets], dtype=np.uint16))
        combined = list(number_of)
    return MacTables(tuple(parts), tuple(class_counts), tuple(combine)), combined


def _predicates(
    sets: list[int], conditions: Mapping[FieldCondition, int], unconstrained: int, bit_of: Mapping[MacMask, int]
) -> list[int]:
    """Bit sets of masks that match -> bit sets of predicates that may hold."""
    known: dict[int, int] = {}
    for possible in set(sets):
        predicates = unconstrained
        for condition, bits in conditions.items():
            assert isinstance(condition, MacCondition)
            if _holds(condition, possible, bit_of):
                predicates |= bits
        known[possible] = predicates
    return [known[possible] for possible in sets]
