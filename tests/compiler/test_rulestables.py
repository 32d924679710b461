# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of rules that are taken over while sets change: the image is the one that compiling everything makes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from tests.policies import one, policy, prefix, rule, v4
from tests.shapes import SHAPES, shaped
from tests.strategies import policies
from xdpfw.addresstable import AddressTable
from xdpfw.compiler import ir, rulestables
from xdpfw.compiler.image import MapImage, compile_policy
from xdpfw.compiler.ir import AddressRanges, Match
from xdpfw.compiler.rulestables import RulesTables
from xdpfw.errors import CapacityError


def taken_over(image: MapImage, later: ir.Policy) -> MapImage:
    kept = rulestables.from_bytes(rulestables.to_bytes(image.wanted_sets), later.address_sets)
    assert kept is not None
    return compile_policy(later, RulesTables(image.config, image.tables, kept))


def sets_of(whole: ir.Policy) -> tuple[ir.AddressSet, ...]:
    matches = [match for rule in whole.rules for match in (rule.match, rule.unless) if match is not None]
    addresses = [each for match in matches for each in (match.src, match.dst) if each is not None]
    return tuple({each.name: each for found in addresses for each in found.sets}.values())


@pytest.mark.parametrize("shape", SHAPES)
@given(drawn=policies())
def test_it_is_what_compiling_everything_makes(shape: str, drawn: ir.Policy) -> None:
    whole = dataclasses.replace(drawn, address_sets=sets_of(drawn))
    with shaped(shape):
        try:
            image = compile_policy(whole)
        except CapacityError:
            return
    if not image.has_cut_sets:
        assert taken_over(image, whole) == image


def table(*spans: tuple[int, int]) -> AddressTable:
    return AddressTable.of(np.array(spans, dtype=np.uint32).reshape(-1, 2), np.empty((0, 4), dtype=np.uint64))


def listing(content: AddressTable) -> ir.Policy:
    bad = ir.AddressSet("bad", content, len(content), "bad.txt")
    named = AddressRanges(sets=(bad,))
    rules = [
        rule(0, Match(src=named)),
        rule(1, Match(src=v4(prefix(0x0A000000, 8)), dst=named, proto=one(6), dport=one(22)), unless=Match(src=named)),
        *(rule(2 + i, Match(dst=v4(prefix(i << 20, 12)), dport=one(i))) for i in range(200)),
    ]
    return dataclasses.replace(policy(*rules), address_sets=(bad,))


def test_only_the_tables_of_sets_change() -> None:
    before = compile_policy(listing(table((1, 5), (9, 9))))
    later = listing(table((0x0A000000, 0x0AFFFFFF), (7, 7), (0xFFFFFFFF, 0xFFFFFFFF)))
    after = taken_over(before, later)
    assert after == compile_policy(later)
    assert after.tables == before.tables
    assert after.set_tables != before.set_tables


def test_a_set_that_is_gone_is_noticed() -> None:
    kept = rulestables.to_bytes(compile_policy(listing(table((1, 5)))).wanted_sets)
    with pytest.raises(KeyError):
        rulestables.from_bytes(kept, ())


def test_sets_that_there_is_no_room_for_are_cut_up() -> None:
    """All but a list, of more networks than the wide group has room for: as if the list were written out."""
    bad = ir.AddressSet("bad", table((0x0A000005, 0x0A000005), (0x0A000200, 0x0A00020F)), 2, "bad.txt")
    named, written = AddressRanges(sets=(bad,)), v4(*(ir.Range(*span) for span in bad.table.v4.tolist()))

    def networks(unless: AddressRanges) -> ir.Policy:
        rules = (
            rule(i, Match(src=v4(prefix(0x0A000000 + (i << 8), 24))), unless=Match(src=unless)) for i in range(4200)
        )
        return policy(*rules)

    image = compile_policy(networks(named))
    assert image.has_cut_sets
    assert image.tables == compile_policy(networks(written)).tables
    assert rulestables.from_bytes(rulestables.to_bytes(None), ()) is None
