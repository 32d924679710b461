# SPDX-License-Identifier: GPL-2.0-or-later
"""Address ranges by the million, as NumPy arrays: what the file of a set comes to."""

from __future__ import annotations

import bisect
import functools
import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

_LOW_64: Final = (1 << 64) - 1

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


class AddressTable:
    """Sorted, disjoint, non-adjacent inclusive ranges of host-order addresses.

    ``v4``: shape (n, 2), columns low and high. ``v6``: shape (n, 4), columns the high and low 64 bits of low, then of
    high. Tables of the same addresses are equal. Neither array is ever written to.
    """

    __slots__ = ("__dict__", "v4", "v6")

    def __init__(self, v4: U32, v6: U64) -> None:
        self.v4 = v4
        self.v6 = v6

    @classmethod
    def of(cls, v4: U32, v6: U64) -> AddressTable:
        """From ranges in any order, overlapping or not; the arrays' shapes are those of the attributes."""
        return cls(_merge_v4(v4), _merge_v6(v6))

    def contains(self, bits: int, address: int) -> bool:
        """True if ``address``, of so many bits, is in one of the ranges."""
        if bits == 32:
            found = bisect.bisect_right(self.v4[:, 0], address) - 1
            return found >= 0 and int(self.v4[found, 1]) >= address
        high, low = address >> 64, address & _LOW_64
        found = bisect.bisect_right(self._v6_lows, (high, low)) - 1
        return found >= 0 and (int(self.v6[found, 2]), int(self.v6[found, 3])) >= (high, low)

    def spans(self, bits: int) -> list[tuple[int, int]]:
        """The ranges of addresses of so many bits as pairs of low and high, which takes much more memory."""
        if bits == 32:
            return list(zip(self.v4[:, 0].tolist(), self.v4[:, 1].tolist(), strict=True))
        return [(a << 64 | b, c << 64 | d) for a, b, c, d in self.v6.tolist()]

    @functools.cached_property
    def _v6_lows(self) -> list[tuple[int, int]]:
        return list(zip(self.v6[:, 0].tolist(), self.v6[:, 1].tolist(), strict=True))

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 over the ranges."""
        digest = hashlib.sha256(len(self.v4).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(self.v4).tobytes())
        digest.update(np.ascontiguousarray(self.v6).tobytes())
        return digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddressTable) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        """How many ranges there are, of both families."""
        return len(self.v4) + len(self.v6)


def _merge_v4(ranges: U32) -> U32:
    if not len(ranges):
        return np.empty((0, 2), dtype=np.uint32)
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")].astype(np.int64)
    highest = np.maximum.accumulate(ordered[:, 1])
    first = np.flatnonzero(np.concatenate(([True], ordered[1:, 0] > highest[:-1] + 1)))
    last = np.append(first[1:], len(ordered)) - 1
    return np.stack((ordered[first, 0], highest[last]), axis=1).astype(np.uint32)


def _merge_v6(ranges: U64) -> U64:
    if not len(ranges):
        return np.empty((0, 4), dtype=np.uint64)
    ordered = ranges[np.lexsort((ranges[:, 1], ranges[:, 0]))]
    # No NumPy number has 128 bits: of the higher ends, their ranks are compared.
    by_end = np.lexsort((ordered[:, 3], ordered[:, 2]))
    rank = np.empty_like(by_end)
    rank[by_end] = np.arange(len(ordered))
    reach = ordered[by_end[np.maximum.accumulate(rank)], 2:]
    next_low = reach[:-1, 1] + np.uint64(1)
    next_high = reach[:-1, 0] + (next_low == 0)
    has_next = (next_high != 0) | (next_low != 0)  # nothing comes behind the last address
    low_high, low_low = ordered[1:, 0], ordered[1:, 1]
    is_behind = (low_high > next_high) | ((low_high == next_high) & (low_low > next_low))
    first = np.flatnonzero(np.append(True, has_next & is_behind))
    last = np.append(first[1:], len(ordered)) - 1
    return np.concatenate((ordered[first, :2], reach[last]), axis=1)
