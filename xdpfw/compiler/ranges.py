# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of whole numbers as sorted, disjoint, non-adjacent inclusive ranges."""

from __future__ import annotations

from collections.abc import Iterable

from xdpfw.compiler.ir import Range, Ranges


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The canonical form of ranges in any order, overlapping or not."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1].high + 1:
            if high > merged[-1].high:
                merged[-1] = Range(merged[-1].low, high)
        else:
            merged.append(Range(low, high))
    return tuple(merged)


def complement(ranges: Ranges, highest: int) -> Ranges:
    """All of 0..``highest`` that is not in ``ranges``."""
    gaps = []
    start = 0
    for low, high in ranges:
        if low > start:
            gaps.append(Range(start, low - 1))
        start = high + 1
    if start <= highest:
        gaps.append(Range(start, highest))
    return tuple(gaps)


def intersect(a: Ranges, b: Ranges) -> Ranges:
    found = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i].low, b[j].low), min(a[i].high, b[j].high)
        if low <= high:
            found.append(Range(low, high))
        if a[i].high < b[j].high:
            i += 1
        else:
            j += 1
    return tuple(found)
