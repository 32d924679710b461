# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of a source and a destination class -> row: a hash table of four-slot buckets, two buckets a key.

Every key is found in one of its two buckets (cuckoo hashing), so a look-up costs two cache lines at most, whatever
an attacker sends.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.rows import Head
from xdpfw.kernel.abi import Layout

_SLOTS: Final = int(Layout.BLOCK_ENTRIES)
_MAX_MOVES: Final = 500

Key = tuple[int, int]


def pair_hash(src_class: int, dst_class: int) -> int:
    """The 64-bit hash of a key, twin of the function of that name in bpf/classify.h."""
    return int(_hashes(np.array([[src_class, dst_class]], dtype=np.uint32))[0])


def _hashes(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Of keys, the first two columns of ``words``: source class, destination class."""
    half = np.uint64(32)
    value = words[:, 0].astype(np.uint64) << half | words[:, 1]
    value *= np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> half
    value *= np.uint64(0xD6E8FEB86659FD93)
    return value ^ value >> half


def _fill(hashes: npt.NDArray[np.uint64], bucket_count: int) -> list[list[int]] | None:
    """Buckets of the keys' numbers, or None where some key finds no place. ``hashes``: of each key."""
    mask = np.uint64(bucket_count - 1)
    firsts, seconds = (hashes & mask).tolist(), (hashes >> np.uint64(32) & mask).tolist()
    buckets: list[list[int]] = [[] for _ in range(bucket_count)]
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        key = number
        bucket = first if len(buckets[first]) <= len(buckets[second]) else second
        for move in range(_MAX_MOVES):
            slots = buckets[bucket]
            slots.append(key)
            if len(slots) <= _SLOTS:
                break
            # Push one out into its other bucket; taking turns by move keeps it from going in a circle.
            key = slots.pop(move % _SLOTS)
            bucket = seconds[key] if bucket == firsts[key] else firsts[key]
        else:
            return None
    return buckets


def build_pairs(rows: Mapping[Key, Head]) -> tuple[npt.NDArray[np.uint32], int]:
    """The table, shape (buckets * 4, 4) of struct xdpfw_pair, and the number of buckets - 1."""
    flat = itertools.chain.from_iterable(itertools.chain.from_iterable(rows.items()))
    words = np.fromiter(flat, dtype=np.uint32, count=4 * len(rows)).reshape(-1, 4)
    words = words[np.lexsort((words[:, 1], words[:, 0]))]
    hashes = _hashes(words)
    bucket_count = 1
    while bucket_count * _SLOTS * 3 < len(rows) * 4:
        bucket_count *= 2
    while (buckets := _fill(hashes, bucket_count)) is None:
        bucket_count *= 2
    table = np.zeros((bucket_count, _SLOTS, 4), dtype=np.uint32)
    sizes = np.fromiter(map(len, buckets), dtype=np.int64, count=bucket_count)
    table[np.arange(_SLOTS) < sizes[:, None]] = words[list(itertools.chain.from_iterable(buckets))]
    return table.reshape(-1, 4), bucket_count - 1
