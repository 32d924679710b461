# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that outlive generations: grants, half-done sequences, last times of SPA keys, events.

They are an instance's. Each generation is loaded with the ones that are there, so that an ``apply`` loses none of it,
and old and new program share them while one takes the other's place. The kernel changes all of them at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.libbpf import check, libbpf
from xdpfw.kernel.maps import ArrayMap, HashMap, Map
from xdpfw.kernel.ring import EventRecord, Ring, address, append, halves
from xdpfw.kernel.sets import members_at

KERNEL_HEAD: Final = 0
NOTES_HEAD: Final = 1
NS_PER_S: Final = 1_000_000_000
WORD_BYTES: Final = 8


class Grant(NamedTuple):
    """One entry of ``grants``: ``knock`` has admitted a source to a port, or, with protocol and port 0, at all.

    ``source``: a prefix's first address, a host-order integer of 32 or 128 bits. Times are of CLOCK_BOOTTIME.
    """

    family: int
    source: int
    prefix_bits: int
    knock: int
    protocol: int
    port: int
    until_ns: int
    granted_ns: int
    key: int = 0  # fingerprint of the SPA key; 0: none
    key_number: int = 0

    def is_live(self, now_ns: int) -> bool:
        return now_ns < self.until_ns


class Shared(NamedTuple):
    """``struct xdpfw_shared``."""

    hash_secret: tuple[int, int]
    tai_offset_ns: int
    swept_ns: int
    grants_refused: int


class SpaTime(NamedTuple):
    """An element of ``spa_times``; ``fingerprint`` 0: it is nobody's.

    ``last_wall_ns`` 0: no message was accepted since ``loaded_ns`` (CLOCK_BOOTTIME; 0: the key always was there).
    """

    fingerprint: int
    last_wall_ns: int
    loaded_ns: int = 0


class SpaFailures(NamedTuple):
    """``prefix``: first address of a /24 or /64, a host-order integer of 32 or 128 bits."""

    family: int
    prefix: int
    packets: int
    last_wall_ns: int


def boot_ns() -> int:
    """The clock that the kernel's state goes by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def present_tai_offset_ns() -> int:
    """CLOCK_TAI - CLOCK_REALTIME, whole seconds: 0 where nobody has told the kernel."""
    difference = time.clock_gettime_ns(time.CLOCK_TAI) - time.clock_gettime_ns(time.CLOCK_REALTIME)
    return round(difference / NS_PER_S) * NS_PER_S


@dataclass(frozen=True, slots=True)
class State:
    """The maps, by their names in bpf/maps.h."""

    shared: ArrayMap
    beginnings: ArrayMap
    progress: ArrayMap
    markers: ArrayMap
    grants: HashMap
    spa_times: ArrayMap
    spa_failures: ArrayMap
    events: ArrayMap
    event_heads: ArrayMap
    event_limits: ArrayMap
    notes: ArrayMap
    flow_tags: ArrayMap
    flows: ArrayMap
    incoming: ArrayMap
    fragments: ArrayMap
    limit_buckets: ArrayMap
    acquaintances: ArrayMap
    set_heads: ArrayMap
    dynamic_sets: ArrayMap

    @classmethod
    def collect(cls, descriptor: Callable[[str], int]) -> Self:
        """All maps; ``descriptor`` opens one by name. Where it raises, those opened before are closed."""
        with contextlib.ExitStack() as opened:
            maps = cls(
                **{
                    name: opened.enter_context(_MAP_CLASSES.get(name, ArrayMap)(descriptor(name)))
                    for name in STATE_MAPS
                }
            )
            opened.pop_all()
        return maps

    @classmethod
    def open(cls, directory: Path) -> Self:
        """What was pinned in ``directory``. Raises KernelError, with ENOENT where nothing is."""
        return cls.collect(lambda name: _open_descriptor(directory / name))

    def pin(self, directory: Path) -> None:
        """Pins each map by its name; the directory is there."""
        for name, map_ in self._by_name():
            map_.pin(str(directory / name))

    def descriptors(self) -> dict[str, int]:
        """The maps' descriptors, which stay this object's, by name: for a generation that is to use them."""
        return {name: map_.fileno() for name, map_ in self._by_name()}

    def is_of_this_version(self) -> bool:
        """True if the maps are as this xdpfw has them: what they hold can be read and gone on with."""
        structs = {name: abi.size_of(struct) for name, struct in _STRUCTS.items()}
        return (
            all(getattr(self, name).value_size == size for name, size in structs.items())
            and self.grants.key_size == abi.size_of("grant_key")
            and self.event_limits.max_entries == 2 * abi.EventKind.EVENT_COUNT
        )

    def of_sizes(self, entries: Mapping[str, int]) -> list[str]:
        """The names of the maps that have as many entries as ``entries`` says, if it says anything."""
        return [name for name, map_ in self._by_name() if entries.get(name, map_.max_entries) == map_.max_entries]

    def sizes_changed(self, other: State) -> tuple[list[str], list[str]]:
        """The names of the maps that have more entries in ``other``, and of those that have fewer."""
        pairs = [(name, map_.max_entries, getattr(other, name).max_entries) for name, map_ in self._by_name()]
        return [name for name, a, b in pairs if b > a], [name for name, a, b in pairs if b < a]

    def pin_anew(self, directory: Path, names: Iterable[str]) -> None:
        """Pins these maps in the place of those that are pinned in ``directory`` by their names."""
        for name in names:
            new = directory / f"new-{name}"
            new.unlink(missing_ok=True)
            try:
                getattr(self, name).pin(str(new))
                new.rename(directory / name)
            finally:
                new.unlink(missing_ok=True)

    @property
    def memory_bytes(self) -> int:
        return sum(map_.locked_bytes for _, map_ in self._by_name())

    def close(self) -> None:
        """Gives all descriptors back; again is harmless."""
        for _, map_ in self._by_name():
            map_.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def initialise(self, hash_secret: tuple[int, int], tai_offset_ns: int) -> None:
        """Sets what all generations share. Only for maps that no program has yet: it writes over the kernel's part."""
        self.shared.write(0, abi.pack("shared", {"hash_secret": hash_secret, "tai_offset_ns": tai_offset_ns}))

    def read_shared(self) -> Shared:
        value = abi.unpack("shared", self.shared.read(0))
        return Shared(
            (value.hash_secret[0], value.hash_secret[1]), value.tai_offset_ns, value.swept_ns, value.grants_refused
        )

    def set_tai_offset(self, tai_offset_ns: int) -> None:
        """Writes this member and no other: the kernel counts in the ones beside it."""
        start = abi.offset_of("shared", "tai_offset_ns")
        with (
            self.shared.mapped(self.shared.stride, mmap.PROT_READ | mmap.PROT_WRITE) as memory,
            memoryview(memory) as whole,
            whole[start : start + 8].cast("q") as member,
        ):
            member[0] = tai_offset_ns

    def list_grants(self) -> list[Grant]:
        """All entries, those that have expired and are not swept yet among them, in no order."""
        return [_grant(key, value) for key, value in self.grants.items()]

    def count_grants(self, now_ns: int) -> int:
        """How many entries are live; quicker than a list of them."""
        until = slice(start := abi.offset_of("grant", "until_ns"), start + 8)
        return sum(int.from_bytes(value[until], sys.byteorder) > now_ns for _, value in self.grants.items())

    def count_flows(self, now_ns: int) -> int:
        """How many flows are live. Without numpy, which xdpfw.kernel.flows takes a while to import."""
        until, width = abi.offset_of("flow", "until_ns") // WORD_BYTES, self.flows.stride // WORD_BYTES
        with _words(self.flow_tags) as tags, _words(self.flows) as flows:
            used = [slot for slot, tag in enumerate(tags[: self.flows.max_entries]) if tag]
            return sum(flows[slot * width + until] > now_ns for slot in used)

    def put_grant(self, grant: Grant) -> None:
        """Raises KernelError, with E2BIG where the map is full."""
        self.grants.write(
            _grant_key(grant),
            abi.pack("grant", {name: getattr(grant, name) for name in ("until_ns", "granted_ns", "key", "key_number")}),
        )

    def delete_grant(self, grant: Grant) -> bool:
        """Ends a grant, whatever it has been extended to; False if it is gone already."""
        return self.grants.delete(_grant_key(grant))

    def end_grants(self, ended: Iterable[Grant], cause: abi.GrantEnd, generation: int) -> list[Grant]:
        """Deletes these entries and notes it, in one event for all that a source has of a knock, else one a port.

        Returns those that were live. Needs the instance's lock. ``generation``: the number of the one in force.
        """
        now_ns = boot_ns()
        deleted = [grant for grant in ended if self.delete_grant(grant) and grant.is_live(now_ns)]
        kept = {_holder(grant) for grant in self.list_grants() if grant.is_live(now_ns)}
        told = set()
        for grant in deleted:
            holder = _holder(grant)
            is_whole = holder not in kept
            if holder in told or (not is_whole and not grant.protocol):
                continue
            if is_whole:
                told.add(holder)
            self.add_note(
                EventRecord(
                    int(abi.EventKind.EVENT_GRANT_END),
                    now_ns,
                    generation,
                    family=grant.family,
                    source=grant.source,
                    prefix_bits=grant.prefix_bits,
                    protocol=0 if is_whole else grant.protocol,
                    dport=0 if is_whole else grant.port,
                    knock=grant.knock,
                    key_number=grant.key_number,
                    detail=int(cause),
                )
            )
        return deleted

    def half_done(self, now_ns: int) -> int:
        """How many sources may be in the middle of a sequence. Sources that fall together count once."""
        now = now_ns >> abi.Marker.SHIFT
        return sum(until >= now for until in memoryview(self.markers.read(0)).cast("I") if until)

    def list_spa_times(self) -> list[SpaTime]:
        """By slot."""
        elements = _elements(self.spa_times, "spa_time")
        return [SpaTime(found.fingerprint, found.last_wall_ns, found.loaded_ns) for found in elements]

    def write_spa_time(self, slot: int, value: SpaTime) -> None:
        """Only for a slot that no key of a running program has: the kernel writes the time."""
        self.spa_times.write(slot, abi.pack("spa_time", value._asdict()))

    def assign_spa_slots(self, fingerprints: Sequence[int], loaded_ns: int) -> dict[int, int]:
        """Where the last times of these keys are, by fingerprint; new keys get a slot, as loaded at ``loaded_ns``.

        Raises CapacityError where none is free.
        """
        found = self.list_spa_times()
        slots = {each.fingerprint: slot for slot, each in enumerate(found) if each.fingerprint}
        free = (slot for slot, each in enumerate(found) if not each.fingerprint)
        for fingerprint in fingerprints:
            if fingerprint not in slots:
                slot = next(free, None)
                if slot is None:
                    raise CapacityError(f"more than {self.spa_times.max_entries:,} SPA keys")
                self.write_spa_time(slot, SpaTime(fingerprint, 0, loaded_ns))
                slots[fingerprint] = slot
        return {fingerprint: slots[fingerprint] for fingerprint in fingerprints}

    def clear(self) -> None:
        """Forgets all but the events. Only for maps that no interface's program has."""
        for grant in self.list_grants():
            self.delete_grant(grant)
        for table in (
            *(self.beginnings, self.progress, self.flow_tags, self.incoming),
            *(self.fragments, self.limit_buckets, self.acquaintances),
        ):
            length = table.max_entries * table.stride
            with table.mapped(length, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
                memory[:length] = bytes(length)
        for slot in range(self.dynamic_sets.max_entries):
            if (members := members_at(self.dynamic_sets, slot)) is not None:
                with members:
                    members.delete_all(b"".join(keys for keys, _ in members.batches()))
                self.set_heads.write(slot, bytes(self.set_heads.value_size))
        self.markers.write(0, bytes(self.markers.value_size))
        for slot, found in enumerate(self.list_spa_times()):
            if found.fingerprint:
                self.write_spa_time(slot, SpaTime(found.fingerprint, 0))
        shared = self.read_shared()
        self.initialise(shared.hash_secret, shared.tai_offset_ns)

    def list_spa_failures(self) -> list[SpaFailures]:
        """The prefixes that most of the failures came from, those with most packets first."""
        found = [
            SpaFailures(each.family, address(each.family, each.prefix, 0), each.packets, each.last_wall_ns)
            for each in _elements(self.spa_failures, "spa_failures")
            if each.packets
        ]
        return sorted(found, key=lambda each: (-each.packets, each.family, each.prefix))

    def suppressed(self) -> dict[int, int]:
        """Events that were only counted since the last of their kind that was recorded, by kind."""
        kinds = range(abi.EventKind.EVENT_COUNT)
        slots = (self.event_limits.read(slot) for slot in range(2 * len(kinds)))
        suppressed = [abi.unpack("event_limit", slot).suppressed for slot in slots]
        return {kind: suppressed[kind] + suppressed[len(kinds) + kind] for kind in kinds}

    def kernel_ring(self) -> Ring:
        return Ring(self.events, self.event_heads, KERNEL_HEAD)

    def notes_ring(self) -> Ring:
        return Ring(self.notes, self.event_heads, NOTES_HEAD)

    def add_note(self, record: EventRecord) -> int:
        """Appends an event of user space, and returns its number. Needs the instance's lock."""
        return append(self.notes, self.event_heads, NOTES_HEAD, record)

    def _by_name(self) -> Iterator[tuple[str, Map]]:
        return ((name, getattr(self, name)) for name in STATE_MAPS)


STATE_MAPS: Final = tuple(field.name for field in dataclasses.fields(State))
_MAP_CLASSES: Final[dict[str, Any]] = {"grants": HashMap}
_STRUCTS: Final = {
    "shared": "shared",
    "beginnings": "beginnings",
    "progress": "progress",
    "markers": "markers",
    "grants": "grant",
    "spa_times": "spa_time",
    "spa_failures": "spa_failures",
    "events": "event",
    "event_limits": "event_limit",
    "notes": "event",
    "flow_tags": "flow_tags",
    "flows": "flow",
    "incoming": "incoming",
    "fragments": "fragments",
    "limit_buckets": "limit_slots",
    "acquaintances": "acquaintances",
    "set_heads": "set_head",
}
"""Of each map's values, but for numbers."""


def _open_descriptor(path: Path) -> int:
    return check(libbpf().bpf_obj_get(os.fsencode(path)), "open", str(path))


@contextlib.contextmanager
def _words(array: ArrayMap) -> Iterator[memoryview]:
    """An array's memory, as numbers of 64 bits."""
    with (
        array.mapped(array.max_entries * array.stride, mmap.PROT_READ) as memory,
        memoryview(memory) as whole,
        whole.cast("Q") as words,
    ):
        yield words


def _elements(array: ArrayMap, struct: str) -> Iterator[Any]:
    """Copies of an array's elements."""
    size = abi.size_of(struct)
    with array.mapped(array.max_entries * array.stride, mmap.PROT_READ) as memory:
        data = memory[: array.max_entries * array.stride]
    for start in range(0, len(data), array.stride):
        yield abi.unpack(struct, data[start : start + size])


def _holder(grant: Grant) -> tuple[int, int, int, int]:
    return grant.family, grant.source, grant.prefix_bits, grant.knock


def _grant(key_bytes: bytes, value_bytes: bytes) -> Grant:
    key, value = abi.unpack("grant_key", key_bytes), abi.unpack("grant", value_bytes)
    return Grant(
        key.family,
        address(key.family, key.high, key.low),
        key.prefix_bits,
        key.knock,
        key.protocol,
        key.port,
        value.until_ns,
        value.granted_ns,
        value.key,
        value.key_number,
    )


def _grant_key(grant: Grant) -> bytes:
    members = {name: getattr(grant, name) for name in ("knock", "port", "protocol", "family", "prefix_bits")}
    members["high"], members["low"] = halves(grant.family, grant.source)
    return abi.pack("grant_key", members)
