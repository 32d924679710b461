# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of a source and a destination class -> row: a hash table of four-slot buckets, two buckets a key.

Every key is found in one of its two buckets (cuckoo hashing), so a look-up costs two cache lines at most, whatever
an attacker sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.rows import Head
from xdpfw.kernel.abi import Layout

_SLOTS: Final = int(Layout.BLOCK_ENTRIES)
_MAX_MOVES: Final = 500
_MASK64: Final = (1 << 64) - 1

Key = tuple[int, int]


def pair_hash(src_class: int, dst_class: int) -> int:
    """The 64-bit hash of a key, twin of the function of that name in bpf/classify.h."""
    value = (src_class << 32 | dst_class) * 0x9E3779B97F4A7C15 & _MASK64
    value ^= value >> 32
    value = value * 0xD6E8FEB86659FD93 & _MASK64
    return value ^ value >> 32


def _fill(keys: Mapping[Key, tuple[int, int]], bucket_count: int) -> list[list[Key]] | None:
    """Buckets of keys, or None where some key finds no place. ``keys``: key -> its two hashes."""
    mask = bucket_count - 1
    buckets: list[list[Key]] = [[] for _ in range(bucket_count)]
    for key, (first, second) in keys.items():
        bucket = min(first & mask, second & mask, key=lambda b: len(buckets[b]))
        for move in range(_MAX_MOVES):
            if len(buckets[bucket]) < _SLOTS:
                buckets[bucket].append(key)
                break
            # Push one out into its other bucket; taking turns by move keeps it from going in a circle.
            buckets[bucket].append(key)
            key = buckets[bucket].pop(move % _SLOTS)
            one, other = (h & mask for h in keys[key])
            bucket = other if bucket == one else one
        else:
            return None
    return buckets


def build_pairs(rows: Mapping[Key, Head]) -> tuple[npt.NDArray[np.uint32], int]:
    """The table, shape (buckets * 4, 4) of struct xdpfw_pair, and the number of buckets - 1."""
    keys = {key: ((h := pair_hash(*key)) & 0xFFFFFFFF, h >> 32) for key in sorted(rows)}
    bucket_count = 1
    while bucket_count * _SLOTS * 3 < len(rows) * 4:
        bucket_count *= 2
    while (buckets := _fill(keys, bucket_count)) is None:
        bucket_count *= 2
    table = np.zeros((bucket_count, _SLOTS, 4), dtype=np.uint32)
    for number, bucket in enumerate(buckets):
        for slot, key in enumerate(bucket):
            table[number, slot] = (*key, *rows[key])
    return table.reshape(-1, 4), bucket_count - 1
