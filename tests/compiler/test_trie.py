# SPDX-License-Identifier: GPL-2.0-or-later
"""The trie, read as the program reads it, against a search of the intervals."""

from __future__ import annotations

import bisect
import random

import numpy as np
import pytest

from tests.policies import prefix
from xdpfw.compiler import trie
from xdpfw.compiler.tables import Tables
from xdpfw.compiler.trie import TrieTable, add_trie
from xdpfw.kernel.abi import Layout, Trie


def look_up(words: memoryview, table: TrieTable, address: int, bits: int) -> int:
    """The leaf's number; ``address`` is of ``bits`` bits."""
    at, used, stride = table.root, 0, int(Layout.ROOT_BITS)
    while True:
        digit = (address << stride + used >> bits) & (1 << stride) - 1
        entry = words[at + digit]
        if entry & Trie.LEAF:
            return entry & Trie.NUMBER_MASK
        used, stride, at = used + stride, table.stride_bits, entry * (Layout.BLOCK_BYTES // 4)


def drawn(source: random.Random, bits: int, count: int) -> list[int]:
    """Starts of intervals, of prefixes of all lengths close together and far apart."""
    starts = {0}
    for _ in range(count):
        near = source.choice((0x0A000000, 0x0A00FFFF, 0xC0A80000)) << bits - 32 | source.randrange(1 << 6)
        address = near if source.random() < 0.5 else source.getrandbits(bits)
        found = prefix(address, source.randrange(bits + 1), bits)
        starts |= {found.low, found.high + 1}
    return sorted(start for start in starts if start < 1 << bits)


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["stride 4", "stride 8"])
@pytest.mark.parametrize("bits", [32, 128])
@pytest.mark.parametrize(("seed", "count"), [(1, 0), (2, 1), (3, 10), (4, 300)])
def test_every_corner(bits: int, most_bytes: int, seed: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "MAX_WIDE_STRIDE_BYTES", most_bytes)
    source = random.Random(seed)
    starts = drawn(source, bits, count)
    leaves = np.array([source.randrange(5) for _ in starts], dtype=np.uint32)
    tables = Tables()
    tables.add(np.zeros(100, dtype=np.uint32))  # a trie does not stand first
    table = add_trie(tables, bits, starts, leaves)
    assert table.stride_bits == (8 if most_bytes else 4) or count == 0
    words = memoryview(tables.tobytes()).cast("I")
    near = {v for start in starts for v in (start - 1, start, start + 1)} | {
        source.getrandbits(bits) for _ in range(500)
    }
    for address in (v for v in near if 0 <= v < 1 << bits):
        wanted = leaves[bisect.bisect_right(starts, address) - 1]
        assert look_up(words, table, address, bits) == wanted, hex(address)


def test_intervals_of_equal_leaves_need_no_node() -> None:
    tables = Tables()
    before = tables.size_bytes
    starts = [0, *range(0x0A000001, 0x0A000100)]
    add_trie(tables, 32, starts, np.zeros(len(starts), dtype=np.uint32))
    assert tables.size_bytes - before == 4 << Layout.ROOT_BITS


def test_a_large_trie_has_the_small_stride() -> None:
    source = random.Random(5)
    starts = [0, *sorted(source.sample(range(1, 1 << 32), 50_000))]
    tables = Tables()
    table = add_trie(tables, 32, starts, np.arange(len(starts), dtype=np.uint32))
    assert table.stride_bits == Layout.MIN_STRIDE_BITS
    words = memoryview(tables.tobytes()).cast("I")
    assert all(look_up(words, table, start, 32) == i for i, start in enumerate(starts))
    assert all(look_up(words, table, start - 1, 32) == i for i, start in enumerate(starts[1:]))
