# SPDX-License-Identifier: GPL-2.0-or-later
"""The trie, read as the program reads it, against a search of the intervals."""

from __future__ import annotations

import bisect
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.walk import trie_leaf
from tests.policies import prefix
from xdpfw.compiler import trie
from xdpfw.compiler.tables import Tables
from xdpfw.compiler.trie import add_trie, addresses_of
from xdpfw.kernel.abi import Layout


def look_up(words: memoryview, root: int, address: int, bits: int) -> int:
    """The leaf's number; ``address`` is of ``bits`` bits."""
    return trie_leaf(words, root, address << 128 - bits)


def drawn(source: random.Random, bits: int, count: int) -> list[int]:
    """Starts of intervals, of prefixes of all lengths close together and far apart."""
    starts = {0}
    for _ in range(count):
        near = source.choice((0x0A000000, 0x0A00FFFF, 0xC0A80000)) << bits - 32 | source.randrange(1 << 6)
        address = near if source.random() < 0.5 else source.getrandbits(bits)
        found = prefix(address, source.randrange(bits + 1), bits)
        starts |= {found.low, found.high + 1}
    return sorted(start for start in starts if start < 1 << bits)


@pytest.mark.parametrize("wide_boundaries", [1, 3000], ids=["nodes of 256", "nodes of 16"])
@pytest.mark.parametrize("bits", [32, 128])
@pytest.mark.parametrize(("seed", "count"), [(1, 0), (2, 1), (3, 10), (4, 300)])
def test_every_corner(bits: int, wide_boundaries: int, seed: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "MIN_WIDE_BOUNDARIES", wide_boundaries)
    source = random.Random(seed)
    check_corners(drawn(source, bits, count), bits, source)


@given(st.data())
def test_boundaries_anywhere(data: st.DataObject) -> None:
    """Close to each other, in few of the 4-bit digits of an address or in all, at its ends."""
    bits = data.draw(st.sampled_from((32, 128)))
    base = data.draw(st.integers(0, (1 << bits) - 1))
    mask = data.draw(st.integers(0, (1 << bits) - 1))
    near = st.integers(0, (1 << bits) - 1).map(lambda value: base ^ value & mask)
    shifted = st.builds(lambda value, shift: value >> shift << shift, near, st.integers(0, bits - 1))
    ends = st.sampled_from((1, (1 << bits) - 1, 1 << bits - 1, base))
    starts = data.draw(st.lists(st.one_of(near, shifted, ends), max_size=60))
    check_corners(sorted({0, *starts}), bits, random.Random(1))


def check_corners(starts: list[int], bits: int, source: random.Random) -> None:
    leaves = np.array([source.randrange(5) for _ in starts], dtype=np.uint32)
    tables = Tables()
    tables.add(np.zeros(100, dtype=np.uint32))  # a trie does not stand first
    root = add_trie(tables, addresses_of(starts, bits), leaves)
    words = memoryview(tables.tobytes()).cast("I")
    near = {v for start in starts for v in (start - 1, start, start + 1)} | {
        source.getrandbits(bits) for _ in range(500)
    }
    for address in (v for v in near | {(1 << bits) - 1} if 0 <= v < 1 << bits):
        wanted = leaves[bisect.bisect_right(starts, address) - 1]
        assert look_up(words, root, address, bits) == wanted, hex(address)


def test_intervals_of_equal_leaves_need_no_node() -> None:
    tables = Tables()
    before = tables.size_bytes
    starts = [0, *range(0x0A000001, 0x0A000100)]
    add_trie(tables, addresses_of(starts, 32), np.zeros(len(starts), dtype=np.uint32))
    assert tables.size_bytes - before == 4 << Layout.ROOT_BITS


@pytest.mark.parametrize(
    ("bits", "bytes_each"),
    [(32, 100), (128, 700)],
)
def test_the_memory_is_that_of_the_boundaries(bits: int, bytes_each: int) -> None:
    """Single addresses, wherever they are: each has a beginning and an end."""
    source = random.Random(5)
    addresses = sorted({source.getrandbits(bits) | 1 for _ in range(20_000)})
    starts = [0, *(start for address in addresses for start in (address, address + 1))]
    tables = Tables()
    root = add_trie(tables, addresses_of(starts, bits), np.arange(len(starts), dtype=np.uint32))
    words = memoryview(tables.tobytes()).cast("I")
    assert all(look_up(words, root, start, bits) == i for i, start in enumerate(starts))
    assert tables.size_bytes - (4 << Layout.ROOT_BITS) < len(addresses) * bytes_each
