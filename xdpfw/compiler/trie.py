# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of addresses -> a multi-bit trie: a root table of 65,536 entries, then nodes of 16 or 256.

An entry is a leaf number with Trie.LEAF set, or the number of the node's first block in the map ``tables``. Built
level by level: an entry is a leaf where a single interval covers all of its addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.tables import Tables
from xdpfw.kernel.abi import Layout, Trie

_BLOCK_ENTRIES: Final = Layout.BLOCK_BYTES // 4
_ADDRESS_BITS: Final = 128

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Addresses = tuple[U64, U64]
"""128-bit numbers as their high and low halves. IPv4 addresses stand in the top 32 bits."""


WIDE_STRIDE: Final = 8
"""Half the steps of the other stride, and up to 16 times the memory."""

MAX_WIDE_STRIDE_BYTES: Final = 1 << 20
"""A trie that would be larger gets the small stride: it would fall out of the cache that makes the large one fast."""


@dataclass(frozen=True, slots=True)
class TrieTable:
    """``root``: base of the root table in u32; ``stride_bits``: how many bits of the address a node resolves."""

    root: int
    stride_bits: int


def _split(numbers: list[int]) -> Addresses:
    data = b"".join(number.to_bytes(16, "big") for number in numbers)
    halves = np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def _keys(addresses: Addresses) -> npt.NDArray[np.bytes_]:
    """A form that NumPy can search: 16 bytes, highest first. That it ignores trailing zeros keeps the order."""
    return np.stack(addresses, axis=-1).astype(">u8").view("S16").ravel()


def _children(nodes: Addresses, bit: int, stride: int) -> tuple[Addresses, Addresses]:
    """First and last address of each node's children; ``bit`` bits of the node are fixed already."""
    fanout = 1 << stride
    shift = _ADDRESS_BITS - bit - stride
    high = np.repeat(nodes[0], fanout)
    low = np.repeat(nodes[1], fanout)
    digits = np.tile(np.arange(fanout, dtype=np.uint64), len(nodes[0]))
    if shift >= 64:
        high = high | digits << np.uint64(shift - 64)
        last_high = high | np.uint64((1 << shift - 64) - 1)
        return (high, low), (last_high, np.full_like(low, 0xFFFFFFFFFFFFFFFF))
    low = low | digits << np.uint64(shift)
    return (high, low), (high, low | np.uint64((1 << shift) - 1))


def _build(first_block: int, bounds: npt.NDArray[np.bytes_], leaf_of: U32, stride: int) -> U32:
    """All entries, level by level: the root's, then those of the nodes in order of their numbers."""
    zero = np.zeros(1, dtype=np.uint64)
    nodes, last = _children((zero, zero), 0, Layout.ROOT_BITS)
    bit = int(Layout.ROOT_BITS)
    next_block = first_block + len(nodes[0]) // _BLOCK_ENTRIES
    levels: list[U32] = []
    while True:
        first_interval = np.searchsorted(bounds, _keys(nodes), side="right") - 1
        last_interval = np.searchsorted(bounds, _keys(last), side="right") - 1
        entries = leaf_of[first_interval] | np.uint32(Trie.LEAF)
        split = np.flatnonzero(first_interval != last_interval)
        blocks = (1 << stride) // _BLOCK_ENTRIES
        entries[split] = next_block + blocks * np.arange(len(split), dtype=np.uint32)
        levels.append(entries)
        if not len(split):
            return np.concatenate(levels).astype(np.uint32)
        next_block += blocks * len(split)
        nodes, last = _children((nodes[0][split], nodes[1][split]), bit, stride)
        bit += stride


def add_trie(tables: Tables, bits: int, starts: list[int], leaves: U32) -> TrieTable:
    """Lays the trie of intervals that begin at ``starts`` (ascending, the first 0) and have these leaf numbers.

    ``bits`` is the length of an address in ``starts``: 32 or 128.
    """
    changes = np.flatnonzero(np.diff(leaves, prepend=leaves[0] + np.uint32(1)))
    bounds = _keys(_split([starts[i] << _ADDRESS_BITS - bits for i in changes]))
    # A boundary splits at most one node a level.
    levels = (bits - Layout.ROOT_BITS) // WIDE_STRIDE
    stride = WIDE_STRIDE if len(bounds) * levels << WIDE_STRIDE + 2 <= MAX_WIDE_STRIDE_BYTES else Layout.MIN_STRIDE_BITS
    return TrieTable(tables.add(_build(tables.blocks, bounds, leaves[changes], stride)), int(stride))
