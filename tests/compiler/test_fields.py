# SPDX-License-Identifier: GPL-2.0-or-later
"""Classes of small fields, their combination, and what happens where there are too many."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.policies import one
from xdpfw.compiler import fields
from xdpfw.compiler.atoms import HIGHEST, Predicate
from xdpfw.compiler.fields import Fields, bit_matrix, bit_vectors, classify_fields, implies
from xdpfw.compiler.ir import Range, Ranges
from xdpfw.compiler.ranges import merge
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Field, Limit


def holding(found: Fields, packet: dict[Field, int]) -> int:
    """The bit set of predicates that hold for a packet, by way of the tables."""
    combined = [0] * len(found.groups)
    for table in found.tables:
        assert table.classes is not None
        number = int(table.classes[packet[table.field]])
        if table.combine is not None:
            number = int(table.combine[combined[table.group] * table.class_count + number])
        combined[table.group] = number
    holds = -1
    for group, number in zip(found.groups, combined, strict=True):
        holds &= group.predicates[number]
    return holds


def expected(predicates: Sequence[Predicate], packet: dict[Field, int]) -> int:
    def within(condition: Ranges, value: int) -> bool:
        return any(low <= value <= high for low, high in condition)

    return sum(
        1 << number
        for number, predicate in enumerate(predicates)
        if all(within(condition, packet[field]) for field, condition in predicate)
    )


def drawn(seed: int, count: int, names: Sequence[Field]) -> list[Predicate]:
    source = random.Random(seed)
    predicates = []
    for _ in range(count):
        chosen = sorted(source.sample(list(names), source.randrange(len(names) + 1)))
        predicate = []
        for field in chosen:
            bounds = sorted(source.choice((0, 1, 5, 6, 60, HIGHEST[field] - 1, HIGHEST[field])) for _ in range(2))
            predicate.append((field, merge([(bounds[0], min(bounds[1], HIGHEST[field]))])))
        predicates.append(tuple(predicate))
    return predicates


NAMES = (Field.PROTO, Field.DPORT, Field.SPORT, Field.KIND, Field.VLAN, Field.TTL, Field.DSCP)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [fields.MAX_COMBINATIONS, 64])
def test_classes_tell_predicates_apart(seed: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one group of fields, and in several."""
    monkeypatch.setattr(fields, "MAX_COMBINATIONS", most)
    predicates = drawn(seed, 12, NAMES)
    found = classify_fields(predicates)
    assert (len(found.groups) > 1) == (most == 64)
    source = random.Random(seed)
    for _ in range(500):
        packet = {
            field: min(
                source.choice((0, 1, 2, 5, 6, 7, 59, 60, 61, HIGHEST[field] - 1, HIGHEST[field])), HIGHEST[field]
            )
            for field in NAMES
        }
        assert holding(found, packet) & (1 << len(predicates)) - 1 == expected(predicates, packet)


def test_values_that_no_predicate_tells_apart_share_a_class() -> None:
    predicates = [((Field.DPORT, (Range(22, 22), Range(80, 90))),), ((Field.DPORT, one(85, 100)),)]
    (table,) = classify_fields(predicates).tables
    assert table.classes is not None
    assert table.class_count == 4
    assert len(table.classes) == HIGHEST[Field.DPORT] + 1
    assert table.classes[22] == table.classes[80] != table.classes[85] != table.classes[91]
    assert table.classes[0] == table.classes[101] == table.classes[HIGHEST[Field.DPORT]]


def test_without_conditions_there_is_one_group_of_one_class() -> None:
    found = classify_fields([()])
    assert (found.tables, len(found.groups), found.groups[0].predicates) == ([], 1, [1])


def test_hundreds_of_port_ranges_fit_one_group() -> None:
    predicates = [((Field.PROTO, one(6)), (Field.DPORT, one(i * 60, i * 60 + 70))) for i in range(800)]
    assert len(classify_fields(predicates).groups) == 1


def test_more_than_the_groups_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_COMBINATIONS", 4)
    predicates = [((field, one(value)),) for field in list(HIGHEST) for value in range(3)]
    with pytest.raises(CapacityError, match=f"do not fit into {int(Limit.MAX_GROUPS)} tables of 4 combinations"):
        classify_fields(predicates)


def test_implies() -> None:
    tcp, ssh = (Field.PROTO, one(6)), (Field.DPORT, one(22))
    low = (Field.DPORT, one(0, 1023))
    assert implies((tcp, ssh), (tcp,))
    assert implies((tcp, ssh), (tcp, low))
    assert implies((tcp,), ())
    assert not implies((tcp,), (tcp, ssh))
    assert not implies((tcp, low), (tcp, ssh))


def test_bit_sets_become_words() -> None:
    matrix = bit_matrix([0b1, 1 << 64 | 0b10, 0], 65)
    assert matrix.shape == (3, 65)
    assert np.array_equal(bit_vectors(matrix, 2), np.array([[1, 0], [2, 1], [0, 0]], dtype=np.uint64))
    assert bit_matrix([0, 0], 0).shape == (2, 0)
