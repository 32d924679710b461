# SPDX-License-Identifier: GPL-2.0-or-later
"""Which conjunctions of conditions hold wherever others hold: 100,000 against 100,000, in a few seconds.

The conjunctions that hold are the paths of a trie, one level a field. Those that are asked for go down it all
together, each to the children whose condition holds wherever its own does: found by looking at all children, or by
looking up each condition that holds, whichever is less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from xdpfw.compiler.containment import Holders, Ints, NumberSets, expand

ANY: Final = -1
"""No condition on a field: of what holds, it always does; of what is asked for, nothing else holds there."""

_MAX_STEPS: Final = 1 << 21
"""How much to look at in one go, to bound memory: 100 bytes each."""


class Cover:
    """``conditions``: shape (fields, takers), one field or more: numbers of sets of each field, or ANY."""

    def __init__(self, fields: Sequence[NumberSets], conditions: Ints) -> None:
        self._levels: list[_Level] = []
        self._count = conditions.shape[1]
        nodes = np.zeros(conditions.shape[1], np.int64)
        for sets, own in zip(fields, conditions, strict=True) if self._count else ():
            level = _Level(sets, nodes, own)
            self._levels.append(level)
            nodes = level.child_of
        self.leaves: Ints = nodes
        """Of each taker, the number of its leaf: takers of the same conditions have the same."""
        self.first: Ints = self._levels[-1].first if self._levels else nodes[:1]
        """Of each leaf, its first taker."""

    def search(self, wanted: Ints, before: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Pairs of a place in ``wanted`` and a leaf whose conditions hold wherever those there do, in portions.

        ``wanted``: shape (fields, places). Left out are leaves of which the first taker is not below ``before``.
        """
        places = np.flatnonzero(before > 0)
        if self._count and places.size:
            yield from self._descend(0, places, np.zeros(len(places), np.int64), wanted, before)

    def _descend(
        self, depth: int, places: Ints, nodes: Ints, wanted: Ints, before: Ints
    ) -> Iterator[tuple[Ints, Ints]]:
        for number in range(depth, len(self._levels)):
            level = self._levels[number]
            own = wanted[number, places]
            steps = level.steps(nodes, own)
            if len(places) > 1 and np.minimum(*steps).sum() > _MAX_STEPS:
                middle = len(places) // 2
                yield from self._descend(number, places[:middle], nodes[:middle], wanted, before)
                yield from self._descend(number, places[middle:], nodes[middle:], wanted, before)
                return
            rows, nodes = level.children(nodes, own, steps)
            places = places[rows]
            kept = level.first[nodes] < before[places]
            places, nodes = places[kept], nodes[kept]
        yield places, nodes


class _Level:
    """Nodes of one field. ``first``: of each, the number of the first taker below it."""

    def __init__(self, sets: NumberSets, parents: Ints, conditions: Ints) -> None:
        self._sets = sets
        self._width = len(sets.sizes) + 1
        # Children are numbered parent by parent, and there by their condition: ANY, the lowest, first.
        self._keys, self.first, self.child_of = np.unique(
            parents * self._width + conditions + 1, return_index=True, return_inverse=True
        )
        self._conditions = self._keys % self._width - 1
        owners = self._keys // self._width
        self._starts = np.searchsorted(owners, np.arange(parents.max(initial=0) + 2))
        self._has_any = (self._conditions == ANY)[self._starts[:-1]].astype(np.int64)
        self._holders = Holders(sets, np.unique(conditions[conditions != ANY]))

    def steps(self, nodes: Ints, wanted: Ints) -> tuple[Ints, Ints]:
        """For each node, how many children to look at, or else how many conditions to look up, at most."""
        children = self._starts[nodes + 1] - self._starts[nodes] - self._has_any[nodes]
        return np.where(wanted == ANY, 0, children), self._holders.estimate(wanted)

    def children(self, nodes: Ints, wanted: Ints, steps: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """All pairs of a place in ``nodes`` and a child of the node there whose condition holds."""
        to_look_at, to_look_up = steps
        few = to_look_at <= to_look_up
        indifferent = np.flatnonzero(self._has_any[nodes])
        looked_at = self._by_children(np.flatnonzero(few & (to_look_at > 0)), to_look_at, nodes, wanted)
        looked_up = self._by_holders(np.flatnonzero(~few & (to_look_up > 0)), nodes, wanted)
        rows = np.concatenate((indifferent, looked_at[0], looked_up[0]))
        return rows, np.concatenate((self._starts[nodes[indifferent]], looked_at[1], looked_up[1]))

    def _by_children(self, places: Ints, counts: Ints, nodes: Ints, wanted: Ints) -> tuple[Ints, Ints]:
        starts = self._starts[nodes[places]] + self._has_any[nodes[places]]
        rows, below = expand(starts, counts[places])
        rows = places[rows]
        kept = self._sets.within(wanted[rows], self._conditions[below])
        return rows[kept], below[kept]

    def _by_holders(self, places: Ints, nodes: Ints, wanted: Ints) -> tuple[Ints, Ints]:
        distinct, back = np.unique(wanted[places], return_inverse=True)
        owners, holders = self._holders.of(distinct)
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(distinct) + 1))
        rows, at = expand(starts[back], np.diff(starts)[back])
        rows = places[rows]
        keys = nodes[rows] * self._width + holders[order][at] + 1
        below = np.searchsorted(self._keys, keys)
        kept = self._keys[np.minimum(below, len(self._keys) - 1)] == keys
        return rows[kept], below[kept]
