# SPDX-License-Identifier: GPL-2.0-or-later
"""MAC addresses to classes by way of three words, against the masks themselves."""

from __future__ import annotations

import random

import pytest

from xdpfw.compiler import macs
from xdpfw.compiler.atoms import MacCondition
from xdpfw.compiler.ir import MacMask
from xdpfw.compiler.macs import MacTables, classify_macs
from xdpfw.errors import CapacityError

EVERY_BIT = (1 << 48) - 1
UNCONSTRAINED = 1 << 40


def class_of(tables: MacTables, address: int) -> int:
    combined = 0
    for number, (part, count, combine) in enumerate(
        zip(tables.parts, tables.class_counts, tables.combine, strict=True)
    ):
        found = int(part[address >> 16 * (2 - number) & 0xFFFF])
        combined = found if combine is None else int(combine[combined * count + found])
    return combined


def holds(condition: MacCondition, address: int) -> bool:
    among = condition.among is None or any(address & mask == value for value, mask in condition.among)
    return among and not any(address & mask == value for value, mask in condition.not_among)


def masked(source: random.Random) -> MacMask:
    mask = source.choice((EVERY_BIT, EVERY_BIT, 0xFFFFFF000000, 0x010000000000, 0xFFFF, 0x000100010001, 0))
    return MacMask(source.choice((0, 1, 0x0A1B2C3D4E5F, 0x0A1B2C000000, EVERY_BIT)) & mask, mask)


@pytest.mark.parametrize("seed", range(10))
def test_classes_tell_conditions_apart(seed: int) -> None:
    source = random.Random(seed)
    conditions = {}
    for number in range(8):
        among = tuple(masked(source) for _ in range(source.randrange(1, 4))) if source.random() < 0.8 else None
        condition = MacCondition(among, tuple(masked(source) for _ in range(source.randrange(3))))
        conditions[condition] = conditions.get(condition, 0) | 1 << number
    tables, possible = classify_macs(conditions, UNCONSTRAINED)
    assert len(set(possible)) == len(possible)
    near = [0, 1, 0x0A1B2C3D4E5F, 0x0A1B2C000000, EVERY_BIT]
    for address in near + [each ^ 1 << source.randrange(48) for each in near * 20]:
        wanted = sum(bits for condition, bits in conditions.items() if holds(condition, address))
        assert possible[class_of(tables, address)] == wanted | UNCONSTRAINED, hex(address)


def test_a_thousand_addresses() -> None:
    source = random.Random(1)
    wanted = [MacMask(source.getrandbits(48), EVERY_BIT) for _ in range(1000)]
    tables, possible = classify_macs({MacCondition(tuple(wanted)): 1}, 0)
    assert sorted(possible) == [0, 1]
    assert all(possible[class_of(tables, mac.value)] == 1 for mac in wanted)
    assert all(possible[class_of(tables, mac.value ^ 1 << bit)] == 0 for mac in wanted for bit in (0, 17, 40))


def test_more_addresses_than_a_table_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "MAX_COMBINATIONS", 100)
    wanted = tuple(MacMask(i << 32 | i << 16 | i, EVERY_BIT) for i in range(20))
    with pytest.raises(CapacityError, match="MAC"):
        classify_macs({MacCondition(wanted): 1}, 0)
