# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of addresses -> a multi-bit trie: a root table, then nodes of 16 entries (one block each).

An entry is a leaf number with Trie.LEAF set, or the number of the node's block in the map ``tables``. Built level
by level: an entry is a leaf where a single interval covers all of its addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler.tables import Tables
from xdpfw.kernel.abi import Layout, Trie

_FANOUT: Final = 1 << Layout.STRIDE_BITS
_ADDRESS_BITS: Final = 128

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Addresses = tuple[U64, U64]
"""128-bit numbers as their high and low halves. IPv4 addresses stand in the top 32 bits."""


@dataclass(frozen=True, slots=True)
class TrieTable:
    """``root``: base of the root table in u32; ``root_bits``: how many bits of the address it resolves."""

    root: int
    root_bits: int


def _split(numbers: list[int]) -> Addresses:
    data = b"".join(number.to_bytes(16, "big") for number in numbers)
    halves = np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def _keys(addresses: Addresses) -> npt.NDArray[np.bytes_]:
    """A form that NumPy can search: 16 bytes, highest first. That it ignores trailing zeros keeps the order."""
    return np.stack(addresses, axis=-1).astype(">u8").view("S16").ravel()


def _children(nodes: Addresses, bit: int) -> tuple[Addresses, Addresses]:
    """First and last address of each node's 16 children; ``bit`` bits of the node are fixed already."""
    shift = _ADDRESS_BITS - bit - int(Layout.STRIDE_BITS)
    digit = np.arange(_FANOUT, dtype=np.uint64)
    high = np.repeat(nodes[0], _FANOUT)
    low = np.repeat(nodes[1], _FANOUT)
    digits = np.tile(digit, len(nodes[0]))
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    if shift >= 64:
        high = high | digits << np.uint64(shift - 64)
        last_high = high | np.uint64((1 << shift - 64) - 1)
        return (high, low), (last_high, np.full_like(low, ones))
    low = low | digits << np.uint64(shift)
    return (high, low), (high, low | np.uint64((1 << shift) - 1))


def _root_bits(intervals: int) -> int:
    """Small tries keep a small root: it stays in the nearest cache even where every packet has another source."""
    for bits in (4, 8, 12):
        if intervals <= 1 << bits - 1:
            return bits
    return 16


def add_trie(tables: Tables, bits: int, starts: list[int], leaves: U32) -> TrieTable:
    """Lays the trie of intervals that begin at ``starts`` (ascending, the first 0) and have these leaf numbers.

    ``bits`` is the length of an address in ``starts``: 32 or 128.
    """
    changes = np.flatnonzero(np.diff(leaves, prepend=leaves[0] + np.uint32(1)))
    bounds = _keys(_split([starts[i] << _ADDRESS_BITS - bits for i in changes]))
    leaf_of = leaves[changes]

    root_bits = _root_bits(len(bounds))
    zero = np.zeros(1, dtype=np.uint64)
    nodes: Addresses = (zero, zero)
    for bit in range(0, root_bits, int(Layout.STRIDE_BITS)):
        nodes, last = _children(nodes, bit)
    root_block = tables.blocks
    next_block = root_block + len(nodes[0]) // _FANOUT
    levels: list[U32] = []
    bit = root_bits
    while True:
        first_interval = np.searchsorted(bounds, _keys(nodes), side="right") - 1
        last_interval = np.searchsorted(bounds, _keys(last), side="right") - 1
        entries = leaf_of[first_interval] | np.uint32(Trie.LEAF)
        split = np.flatnonzero(first_interval != last_interval)
        entries[split] = next_block + np.arange(len(split), dtype=np.uint32)
        levels.append(entries)
        if not len(split):
            break
        next_block += len(split)
        nodes, last = _children((nodes[0][split], nodes[1][split]), bit)
        bit += int(Layout.STRIDE_BITS)
    root = tables.add(np.concatenate(levels).astype(np.uint32))
    return TrieTable(root, root_bits)
