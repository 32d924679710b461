# SPDX-License-Identifier: GPL-2.0-or-later
"""State maps as bpf/maps.h declares them, made by hand: for tests that need no program."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Final

from xdpfw.kernel import abi
from xdpfw.kernel.maps import FLAG_MMAPABLE, KEY_BYTES, TYPE_ARRAY_OF_MAPS, ArrayMap, HashMap
from xdpfw.kernel.ring import EventRecord, halves
from xdpfw.kernel.sets import create_members
from xdpfw.kernel.state import KERNEL_HEAD, State

FLAG_NO_PREALLOC: Final = 1

ARRAYS: Final[dict[str, tuple[str, int]]] = {
    "shared": ("shared", 1),
    "beginnings": ("beginnings", abi.Limit.BEGINNING_BUCKETS),
    "progress": ("progress", abi.Limit.PROGRESS_BUCKETS),
    "spa_times": ("spa_time", abi.Limit.MAX_SPA_KEYS),
    "spa_failures": ("spa_failures", abi.Limit.SPA_FAILURE_SLOTS),
    "events": ("event", abi.Limit.EVENT_SLOTS),
    "event_limits": ("event_limit", 2 * abi.EventKind.EVENT_COUNT),
    "notes": ("event", abi.Limit.EVENT_SLOTS),
    "flow_tags": ("flow_tags", abi.FlowLimit.FLOW_BUCKETS),
    "flows": ("flow", abi.FlowLimit.FLOW_BUCKETS * abi.Limit.BUCKET_SLOTS),
    "incoming": ("incoming", abi.FlowLimit.INCOMING_BUCKETS),
    "fragments": ("fragments", abi.FlowLimit.FRAGMENT_BUCKETS),
    "limit_buckets": ("limit_slots", abi.LimitBound.LIMIT_BUCKETS),
    "acquaintances": ("acquaintances", abi.LimitBound.ACQUAINTANCE_BUCKETS),
    "set_heads": ("set_head", abi.SetLimit.SET_SLOTS),
}
WORD_BYTES: Final = 8
HEADS: Final = 2


@contextlib.contextmanager
def state_maps(**entries: int) -> Iterator[State]:
    """All maps, empty; ``entries``: sizes other than those of the program, by name."""
    with contextlib.ExitStack() as opened:
        maps = {}
        for name, (struct, count) in ARRAYS.items():
            array = ArrayMap.create(name, abi.size_of(struct), entries.get(name, count), map_flags=FLAG_MMAPABLE)
            maps[name] = opened.enter_context(array)
        maps["markers"] = opened.enter_context(ArrayMap.create("markers", abi.size_of("markers"), 1))
        heads = ArrayMap.create("event_heads", WORD_BYTES, HEADS, map_flags=FLAG_MMAPABLE)
        maps["event_heads"] = opened.enter_context(heads)
        with create_members(1) as members:
            sets = ArrayMap.create(
                "dynamic_sets",
                KEY_BYTES,
                abi.SetLimit.SET_SLOTS,
                type=TYPE_ARRAY_OF_MAPS,
                inner_map_fd=members.fileno(),
            )
        maps["dynamic_sets"] = opened.enter_context(sets)
        size = entries.get("grants", abi.Limit.MAX_GRANTS)
        grants = HashMap.create(
            "grants", abi.size_of("grant_key"), abi.size_of("grant"), size, map_flags=FLAG_NO_PREALLOC
        )
        yield State(grants=opened.enter_context(grants), **maps)


def record_in_kernel(state: State, record: EventRecord, *, then: Callable[[], None] = lambda: None) -> int:
    """Writes an event as bpf/event.h does, and returns its number. ``then`` runs before it is finished."""
    number = int.from_bytes(state.event_heads.read(KERNEL_HEAD), sys.byteorder)
    state.event_heads.write(KERNEL_HEAD, (number + 1).to_bytes(WORD_BYTES, sys.byteorder))
    slot = number % state.events.max_entries
    members = record._asdict()
    members["src_high"], members["src_low"] = halves(record.family, members.pop("source"))
    members["dst_high"], members["dst_low"] = halves(record.family, members.pop("destination"))
    state.events.write(slot, abi.pack("event", members))
    then()
    state.events.write(slot, abi.pack("event", {**members, "number": number + 1}))
    return number
