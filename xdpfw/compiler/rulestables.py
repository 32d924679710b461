# SPDX-License-Identifier: GPL-2.0-or-later
"""What rules compile to, apart from the sets with files: kept with a generation, so that the next one may take it over.

``apply`` does so where nothing but the files of sets has changed: reading a list of a million addresses anew is no
reason to compile 100,000 rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xdpfw.compiler.atoms import SetCondition
from xdpfw.compiler.ir import AddressRanges, AddressSet, Range
from xdpfw.compiler.settables import SetConditions


@dataclass(frozen=True, slots=True)
class RulesTables:
    """``config``: a struct xdpfw_config, used for where the tables are; ``tables``: the value of the map."""

    config: bytes
    tables: bytes
    wanted_sets: SetConditions


def to_bytes(wanted: SetConditions | None) -> bytes:
    """As JSON: sets by name. None stands for tables that nothing can be taken over from."""
    if wanted is None:
        return b"null"
    return json.dumps(
        {
            "conditions": [
                [None if each.within is None else _row(each.within), [_row(out) for out in each.without]]
                for each in wanted.conditions
            ],
            "used": wanted.used,
            "meets_no_address": wanted.meets_no_address,
            "columns": wanted.columns,
            "vector_words": wanted.vector_words,
            "summary_words": wanted.summary_words,
        }
    ).encode()


def from_bytes(data: bytes, sets: Iterable[AddressSet]) -> SetConditions | None:
    """The same with what ``sets`` hold now. Raises KeyError where one of those that are named is not among them."""
    by_name = {each.name: each for each in sets}
    found = json.loads(data)
    if found is None:
        return None
    return SetConditions(
        conditions=tuple(
            SetCondition(
                None if within is None else _addresses(within, by_name),
                tuple(_addresses(out, by_name) for out in without),
            )
            for within, without in found["conditions"]
        ),
        used=tuple(found["used"]),
        meets_no_address=tuple(found["meets_no_address"]),
        columns=tuple(map(tuple, found["columns"])),
        vector_words=found["vector_words"],
        summary_words=found["summary_words"],
    )


def _row(addresses: AddressRanges) -> list[object]:
    return [addresses.v4, addresses.v6, [each.name for each in addresses.sets]]


def _addresses(row: list[list[list[int]]], sets: Mapping[str, AddressSet]) -> AddressRanges:
    v4, v6, names = row
    return AddressRanges(
        tuple(Range(*span) for span in v4), tuple(Range(*span) for span in v6), tuple(sets[str(name)] for name in names)
    )
