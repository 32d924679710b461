# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings of events, that of the kernel and that of user space.

A ring overwrites its oldest and knows no readers: any number of them read, each as fast as it likes, and one that is
overtaken is told how many it lost.
"""

from __future__ import annotations

import mmap
import sys
from typing import Final, NamedTuple, Self

from xdpfw.kernel import abi
from xdpfw.kernel.maps import ArrayMap

NUMBER_BYTES: Final = 8
UNFINISHED_READS: Final = 10
"""A record that this many reads found unfinished will never be finished: two writers met in its slot."""

_HALF_BITS: Final = 64
_IPV4_SHIFT: Final = 32


class EventRecord(NamedTuple):
    """``struct xdpfw_event``. Addresses are host-order integers of 32 or 128 bits; 0 where ``family`` has none."""

    kind: int
    time_ns: int = 0
    generation: int = 0
    suppressed: int = 0
    family: int = abi.Family.OTHER
    source: int = 0
    destination: int = 0
    prefix_bits: int = 0
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    interface: int = int(abi.Absent.NO_INTERFACE)
    bytes: int = 0
    knock: int = 0
    step: int = 0
    steps: int = 0
    duration_ns: int = 0
    key_number: int = 0
    service: int = 0
    rule: int = 0
    detail: int = 0


_PLAIN: Final = tuple(name for name in EventRecord._fields if name not in ("source", "destination"))


class Batch(NamedTuple):
    """``next``: the number of the first event that was not read yet; ``lost``: how many were overwritten before."""

    records: list[EventRecord]
    next: int
    lost: int


def halves(family: int, address: int) -> tuple[int, int]:
    """An address as maps have it: from the highest bit down, IPv4 in the upper half of the first number."""
    bits = address << _HALF_BITS + _IPV4_SHIFT if family == abi.Family.IPV4 else address
    return bits >> _HALF_BITS, bits & (1 << _HALF_BITS) - 1


def address(family: int, high: int, low: int) -> int:
    """The other way round."""
    return high >> _IPV4_SHIFT if family == abi.Family.IPV4 else high << _HALF_BITS | low


class Ring:
    """A reader of ``events`` or ``notes``, both made with FLAG_MMAPABLE, and of their element of ``event_heads``."""

    def __init__(self, events: ArrayMap, heads: ArrayMap, index: int) -> None:
        self._slots: Final = events.max_entries
        self._stride: Final = events.stride
        self._index: Final = index
        self._memory = events.mapped(self._slots * self._stride, mmap.PROT_READ)
        self._heads = heads.mapped(heads.max_entries * heads.stride, mmap.PROT_READ)
        self._numbers = memoryview(self._memory).cast("Q")
        self._head_numbers = memoryview(self._heads).cast("Q")
        self._unfinished = (-1, 0)

    @property
    def head(self) -> int:
        """How many events there were, the number of the next one."""
        return self._head_numbers[self._index]

    @property
    def oldest(self) -> int:
        """The number of the first event that is still there."""
        return max(0, self.head - self._slots)

    def read(self, number: int) -> Batch:
        """The events from ``number`` on, up to the first that is still being written."""
        head = self.head
        first = max(number, self.oldest)
        lost = first - number
        records = []
        for current in range(first, head):
            found, data = self._copy(current)
            if found == current + 1:
                records.append(_record(data))
            elif found > current + 1 or self._is_given_up(current):
                lost += 1
            else:
                return Batch(records, current, lost)
        return Batch(records, max(first, head), lost)

    def close(self) -> None:
        for view in (self._numbers, self._head_numbers):
            view.release()
        self._memory.close()
        self._heads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _copy(self, current: int) -> tuple[int, bytes]:
        """The number in the slot of event ``current``, and what else is there; 0 if it changed under the copy.

        The writer puts 0, then the rest, then the number; whoever sees the same number before and after has the rest.
        """
        start = current % self._slots * self._stride
        before = self._numbers[start // NUMBER_BYTES]
        data = self._memory[start : start + abi.size_of("event")]
        after = self._numbers[start // NUMBER_BYTES]
        return (after, data) if before == after else (0, data)

    def _is_given_up(self, current: int) -> bool:
        number, reads = self._unfinished
        self._unfinished = (current, reads + 1 if number == current else 1)
        return self._unfinished[1] > UNFINISHED_READS


def append(events: ArrayMap, heads: ArrayMap, index: int, record: EventRecord) -> int:
    """Adds an event to a ring that only the caller writes, and returns its number."""
    number = int.from_bytes(heads.read(index), sys.byteorder)
    slot = number % events.max_entries
    members = {name: getattr(record, name) for name in _PLAIN}
    members["src_high"], members["src_low"] = halves(record.family, record.source)
    members["dst_high"], members["dst_low"] = halves(record.family, record.destination)
    # A write of an element is no atomic one: whoever reads meanwhile must not see the number before the rest.
    events.write(slot, abi.pack("event", members))
    events.write(slot, abi.pack("event", {**members, "number": number + 1}))
    heads.write(index, (number + 1).to_bytes(NUMBER_BYTES, sys.byteorder))
    return number


def _record(data: bytes) -> EventRecord:
    event = abi.unpack("event", data)
    return EventRecord(
        source=address(event.family, event.src_high, event.src_low),
        destination=address(event.family, event.dst_high, event.dst_low),
        **{name: getattr(event, name) for name in _PLAIN},
    )
