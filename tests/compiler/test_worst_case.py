# SPDX-License-Identifier: GPL-2.0-or-later
"""What a packet may cost at most, in cache lines: ARCHITECTURE.md's bound, for policies made to break it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests import filtersets
from tests.compiler.walk import Walk
from tests.large_policies import LARGE, frames_at
from tests.shared_data import shared
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.abi import Field, Layout, Limit, Mac
from xdpfw.packet.decode import Packet, decode

MAX_LINES_SEEN = 60
"""More than any packet of these policies reads: a change that makes much longer ways shows."""

ROOT_AND_LEAF = 2
V4_STEPS = (32 - Layout.ROOT_BITS) // 4
V6_STEPS = (128 - Layout.ROOT_BITS) // 4 + 1
LINES_OF_VECTOR = 1 + -(-(Limit.MAX_WIDE_WORDS + Limit.MAX_COUNT_WORDS) * 8 // Layout.BLOCK_BYTES)
"""Words of rules, of rules that only count and a summary, which begin anywhere in a line."""
LINES_OF_KEYS = Limit.WORD_BITS * 4 // Layout.BLOCK_BYTES  # of the rules of one word
LINES_OF_LIST = 1 + Limit.MAX_ROW_ENTRIES * 8 // Layout.BLOCK_BYTES


class Lines:
    """A map's words, and the cache lines of it that were read."""

    def __init__(self, words: memoryview, read: set[tuple[str, int]], name: str) -> None:
        self._words, self._read, self._name = words, read, name

    def __getitem__(self, index: int | slice) -> Any:
        first = index.start if isinstance(index, slice) else index
        last = index.stop - 1 if isinstance(index, slice) else index
        size = self._words.itemsize
        for line in range(first * size // Layout.BLOCK_BYTES, last * size // Layout.BLOCK_BYTES + 1):
            self._read.add((self._name, line))
        return self._words[index]


def lines_of(walk: Walk, frames: Iterable[bytes]) -> list[int]:
    """How many cache lines each packet reads."""
    read: set[tuple[str, int]] = set()
    for name in ("u16", "u32", "u64"):
        setattr(walk, name, Lines(getattr(walk, name), read, "tables"))
    for name in ("set_u32", "set_u64"):
        setattr(walk, name, Lines(getattr(walk, name), read, "set_tables"))
    found = []
    for frame in frames:
        packet = decode(frame)
        assert isinstance(packet, Packet)
        read.clear()
        walk.classify(packet)
        found.append(len(read))
    return found


def bound(walk: Walk) -> int:
    """The most that any packet could read, by the structure alone."""
    config = walk.config
    directions = [table for table in config.directions if table.used or table.sets_used]
    fields = sum(2 for field in config.fields if field.used)
    macs = sum(2 * Mac.PARTS for field in (Field.SRC_MAC, Field.DST_MAC) if config.fields[field].used)
    tries = sum((ROOT_AND_LEAF + V6_STEPS) * table.used + (1 + V6_STEPS) * table.sets_used for table in directions)
    rows = config.anywhere_used + config.pairs_used + config.source_rows_used + config.destination_rows_used
    row = 1 + LINES_OF_LIST + Limit.MAX_ROW_ENTRIES * (config.group_count + 1)
    vectors = config.group_count + sum(table.used + table.sets_used for table in directions)
    keys = 1 + (1 + config.count_words * LINES_OF_KEYS if config.count_words else 0)
    return int(fields + macs + tries + 2 + rows * row + vectors * LINES_OF_VECTOR + keys)


@pytest.mark.parametrize("name", LARGE)
def test_policies_made_to_blow_the_structure_up(name: str) -> None:
    policy = LARGE[name]()
    check(policy, frames_at(policy, 2000, seed=5))


@pytest.mark.parametrize("name", ["acl1_10k.gz", "fw1_10k.gz", "ipc1_10k.gz", "v6_acl1_10k.gz", "v6_ipc1_10k.gz"])
def test_filter_sets(name: str) -> None:
    filters = filtersets.read(shared("classbench", name))
    check(filters.policy(), map(filters.frame, filters.packets(1000, seed=5)))


def check(policy: ir.Policy, frames: Iterable[bytes]) -> None:
    walk = Walk(compile_policy(policy))
    most = max(lines_of(walk, frames))
    assert most <= bound(walk)
    assert most < MAX_LINES_SEEN
