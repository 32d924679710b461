# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets with files, cut up into the addresses that they hold now: for policies that have no room for them as a whole."""

from __future__ import annotations

import dataclasses
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import AddressRanges, AddressSet, Match, Range
from xdpfw.compiler.ranges import merge

MAX_CUT_RANGES: Final = 10_000
"""Larger sets stay whole: each rule would have all of their ranges among its own."""


def with_sets_cut_up(policy: ir.Policy) -> ir.Policy | None:
    """The policy with the addresses of small sets in the place of their names; None where it has no such set."""
    cut: dict[AddressRanges, AddressRanges] = {}
    rules = tuple(
        dataclasses.replace(rule, match=_match(rule.match, cut), unless=rule.unless and _match(rule.unless, cut))
        for rule in policy.rules
    )
    if all(before == after for before, after in cut.items()):
        return None
    return dataclasses.replace(policy, rules=rules)


def _match(match: Match, cut: dict[AddressRanges, AddressRanges]) -> Match:
    if not (match.src and match.src.sets) and not (match.dst and match.dst.sets):
        return match
    return dataclasses.replace(match, src=_addresses(match.src, cut), dst=_addresses(match.dst, cut))


def _addresses(addresses: AddressRanges | None, cut: dict[AddressRanges, AddressRanges]) -> AddressRanges | None:
    if addresses is None or not addresses.sets:
        return addresses
    if addresses not in cut:
        small = [each for each in addresses.sets if len(each.table) <= MAX_CUT_RANGES]
        whole = tuple(each for each in addresses.sets if len(each.table) > MAX_CUT_RANGES)
        v4, v6 = (_spans(own, small, bits) for own, bits in ((addresses.v4, 32), (addresses.v6, 128)))
        cut[addresses] = AddressRanges(v4, v6, whole, addresses.dynamic)
    return cut[addresses]


def _spans(own: tuple[Range, ...], sets: list[AddressSet], bits: int) -> tuple[Range, ...]:
    return merge([*own, *(span for each in sets for span in each.table.spans(bits))])
