# SPDX-License-Identifier: GPL-2.0-or-later
"""The hash table of pairs: every key is found, others are not; the hash is that of the program."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy.typing as npt
import pytest

from xdpfw.compiler.pairs import build_pairs, pair_hash
from xdpfw.kernel.abi import Layout

CLASSIFY = Path(__file__).parents[2] / "bpf" / "classify.h"


def find(table: npt.NDArray, mask: int, key: tuple[int, int]) -> tuple[int, int] | None:
    value = pair_hash(*key)
    for half in (value & 0xFFFFFFFF, value >> 32):
        first = (half & mask) * Layout.BLOCK_ENTRIES
        for src, dst, rule, condition in table[first : first + Layout.BLOCK_ENTRIES]:
            if (src, dst) == key:
                return int(rule), int(condition)
    return None


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100, 10_000])
def test_every_key_is_found(count: int) -> None:
    source = random.Random(count)
    rows: dict[tuple[int, int], tuple[int, int]] = {}
    while len(rows) < count:
        rows[source.randrange(1, 300), source.randrange(1, 300)] = (source.getrandbits(32), source.getrandbits(32))
    table, mask = build_pairs(rows)
    assert len(table) == (mask + 1) * Layout.BLOCK_ENTRIES
    assert mask & mask + 1 == 0
    assert all(find(table, mask, key) == row for key, row in rows.items())
    others = [(source.randrange(1, 300), source.randrange(300, 600)) for _ in range(100)]
    assert not any(find(table, mask, key) for key in others)


@pytest.mark.parametrize(
    "keys", [[(1, i) for i in range(1, 5000)], [(i, 1) for i in range(1, 5000)], [(i, i) for i in range(1, 5000)]]
)
def test_regular_keys_stay_dense(keys: list[tuple[int, int]]) -> None:
    table, mask = build_pairs(dict.fromkeys(keys, (1, 0)))
    assert all(find(table, mask, key) for key in keys)
    assert len(table) <= 4 * len(keys)


def test_the_same_keys_give_the_same_table_in_any_order() -> None:
    keys = [(i % 37 + 1, i % 53 + 1) for i in range(1000)]
    first, _ = build_pairs(dict.fromkeys(keys, (7, 0)))
    second, _ = build_pairs(dict.fromkeys(reversed(keys), (7, 0)))
    assert (first == second).all()


def test_the_hash_is_that_of_the_program() -> None:
    """Kernel tests compare what it finds; this one names what differs."""
    body = CLASSIFY.read_text(encoding="utf-8").split("pair_hash(__u32 src_class, __u32 dst_class)")[1].split("\n}")[0]
    constants = [int(each, 16) for each in re.findall(r"0x([0-9a-f]+)ULL", body)]
    assert constants == [0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93]
    value = (5 << 32 | 9) * constants[0] % 2**64
    value ^= value >> 32
    value = value * constants[1] % 2**64
    assert pair_hash(5, 9) == value ^ value >> 32
