# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed maps: arrays, hashes, per-CPU counters, and blobs of bytes that are pinned beside them."""

from __future__ import annotations

import errno
import functools
import mmap
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, Self

from xdpfw.kernel.libbpf import BpfObject, check, ffi, libbpf, object_info, options

TYPE_HASH: Final = 1
TYPE_ARRAY: Final = 2
TYPE_ARRAY_OF_MAPS: Final = 12
FLAG_MMAPABLE: Final = 1 << 10
KEY_BYTES: Final = 4
WORD_BYTES: Final = 8
BATCH_ENTRIES: Final = 1 << 16


class Counter(NamedTuple):
    """``bytes`` are of whole frames, Ethernet header included."""

    packets: int
    bytes: int


class KnockCounter(NamedTuple):
    """What a knock met: ``struct xdpfw_knock_counter``. ``passed`` and ``dropped`` are packets to its ports."""

    steps: int = 0
    resets: int = 0
    grants: int = 0
    refused: int = 0
    closes: int = 0
    passed: int = 0
    dropped: int = 0


class LimitCounter(NamedTuple):
    """What a limit met: ``struct xdpfw_limit_counter``."""

    exceeded: int = 0
    exceeded_bytes: int = 0
    shared: int = 0


class FlowCounter(NamedTuple):
    """What flows and fragments came to: ``struct xdpfw_flow_counter``."""

    created: int = 0
    evicted: int = 0
    refused: int = 0
    related: int = 0
    sockets: int = 0
    fragments_followed: int = 0
    fragments_unknown: int = 0


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map keeps of each element: one a CPU that may ever come online."""
    return check(libbpf().libbpf_num_possible_cpus(), "count", "possible CPUs")


class Map(BpfObject):
    """A map of any type."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = object_info(fd, "bpf_map_info")
        self.id: Final[int] = info.id
        self.name: Final[str] = ffi.string(info.name).decode()
        self.key_size: Final[int] = info.key_size
        self.value_size: Final[int] = info.value_size
        self.max_entries: Final[int] = info.max_entries
        self.flags: Final[int] = info.map_flags

    @property
    def _label(self) -> str:
        return f"map {self.name}"


class ArrayMap(Map):
    """Elements of ``value_size`` bytes, numbers 0 to ``max_entries`` - 1. A device map is one, too: of interfaces."""

    @classmethod
    def create(cls, name: str, value_size: int, max_entries: int, *, type: int = TYPE_ARRAY, **attributes: int) -> Self:
        """A new array of zeros.

        ``name`` is of up to 15 letters, digits and ``_``; ``attributes`` are members of ``struct bpf_map_create_opts``.
        """
        fd = libbpf().bpf_map_create(
            type, name.encode(), KEY_BYTES, value_size, max_entries, options("bpf_map_create_opts", **attributes)
        )
        return cls(check(fd, "create", f"map {name}"))

    def read(self, index: int) -> bytes:
        value = ffi.new("char[]", self.value_size)
        result = libbpf().bpf_map_lookup_elem(self._fd, ffi.new("__u32 *", index), value)
        check(result, "read", f"{self._label}[{index}]")
        return bytes(ffi.buffer(value))

    def read_all(self) -> bytearray:
        """All elements, one behind the other."""
        values = bytearray(self.max_entries * self.value_size)
        keys = ffi.new("__u32[]", self.max_entries)
        count = ffi.new("__u32 *", self.max_entries)
        result = libbpf().bpf_map_lookup_batch(
            self._fd, ffi.NULL, ffi.new("__u32 *"), keys, ffi.from_buffer(values), count, ffi.NULL
        )
        check(result, "read", self._label)
        return values

    def write(self, index: int, value: bytes) -> None:
        """Sets one element; ``value`` is of ``value_size`` bytes."""
        if len(value) != self.value_size:
            raise ValueError(f"{self._label} holds elements of {self.value_size} bytes, not {len(value)}")
        result = libbpf().bpf_map_update_elem(self._fd, ffi.new("__u32 *", index), ffi.from_buffer(value), 0)
        check(result, "write", f"{self._label}[{index}]")

    def fill(self, data: bytes) -> None:
        """Writes elements from the first on; ``data`` is a whole number of them, at most all."""
        count, rest = divmod(len(data), self.value_size)
        if rest or count > self.max_entries:
            raise ValueError(
                f"{len(data)} bytes do not fit {self._label} ({self.max_entries} of {self.value_size} bytes)"
            )
        if not data:
            return
        if self.flags & FLAG_MMAPABLE:
            with self.mapped(len(data), mmap.PROT_READ | mmap.PROT_WRITE) as memory:
                memory[: len(data)] = data
            return
        keys = array("I", range(count))
        result = libbpf().bpf_map_update_batch(
            self._fd, ffi.from_buffer(keys), ffi.from_buffer(data), ffi.new("__u32 *", count), ffi.NULL
        )
        check(result, "fill", self._label)

    @property
    def stride(self) -> int:
        """Bytes from one element to the next where the map is mapped to memory (kernel/bpf/arraymap.c)."""
        return -(-self.value_size // WORD_BYTES) * WORD_BYTES

    def mapped(self, length: int, protection: int) -> mmap.mmap:
        """The first ``length`` bytes (rounded up to a page) of a map that was made with FLAG_MMAPABLE."""
        pages = -(-length // mmap.PAGESIZE)
        return mmap.mmap(self._fd, pages * mmap.PAGESIZE, mmap.MAP_SHARED, protection)


class HashMap(Map):
    """Values of ``value_size`` bytes by keys of ``key_size`` bytes, at most ``max_entries`` of them."""

    @classmethod
    def create(cls, name: str, key_size: int, value_size: int, max_entries: int, **attributes: int) -> Self:
        """A new, empty hash. ``name`` and ``attributes`` as of ``ArrayMap.create``."""
        fd = libbpf().bpf_map_create(
            TYPE_HASH, name.encode(), key_size, value_size, max_entries, options("bpf_map_create_opts", **attributes)
        )
        return cls(check(fd, "create", f"map {name}"))

    def read(self, key: bytes) -> bytes | None:
        """The value of ``key``; None where there is none."""
        value = ffi.new("char[]", self.value_size)
        result = libbpf().bpf_map_lookup_elem(self._fd, self._checked(key), value)
        if result == -errno.ENOENT:
            return None
        check(result, "read", self._label)
        return bytes(ffi.buffer(value))

    def write(self, key: bytes, value: bytes) -> None:
        """Sets the value of ``key``, which may be new. Raises KernelError, with E2BIG where the map is full."""
        if len(value) != self.value_size:
            raise ValueError(f"{self._label} holds values of {self.value_size} bytes, not {len(value)}")
        check(
            libbpf().bpf_map_update_elem(self._fd, self._checked(key), ffi.from_buffer(value), 0), "write", self._label
        )

    def delete(self, key: bytes) -> bool:
        """Takes ``key`` out; False if it is not there."""
        result = libbpf().bpf_map_delete_elem(self._fd, self._checked(key))
        if result == -errno.ENOENT:
            return False
        check(result, "delete from", self._label)
        return True

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, in no order.

        What is there all the time is met once; what comes or goes meanwhile may be met or not. The kernel copies a
        bucket at a time under its lock (05799638d10a, Linux 5.6).
        """
        for keys, values in self.batches():
            for start in range(len(keys) // self.key_size):
                yield (
                    keys[start * self.key_size : (start + 1) * self.key_size],
                    values[start * self.value_size : (start + 1) * self.value_size],
                )

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """The same, many at a time: keys, and as many values."""
        most = min(self.max_entries, BATCH_ENTRIES)  # more than any bucket has, or else the kernel refuses
        keys = bytearray(most * self.key_size)
        values = bytearray(most * self.value_size)
        place: Any = ffi.NULL
        more = True
        while more:
            count = ffi.new("__u32 *", most)
            next_place = ffi.new("__u32 *")
            result = libbpf().bpf_map_lookup_batch(
                self._fd, place, next_place, ffi.from_buffer(keys), ffi.from_buffer(values), count, ffi.NULL
            )
            more = result != -errno.ENOENT  # which says that this was the last batch
            if more:
                check(result, "read", self._label)
            yield bytes(keys[: count[0] * self.key_size]), bytes(values[: count[0] * self.value_size])
            place = next_place

    def count(self) -> int:
        """How many keys there are."""
        return sum(len(keys) for keys, _ in self.batches()) // self.key_size

    def put_all(self, keys: bytes, values: bytes) -> int:
        """Sets values one after the other, up to the first for which there is no room; returns how many it has set."""
        total = len(keys) // self.key_size
        if not total:
            return 0
        count = ffi.new("__u32 *", total)
        result = libbpf().bpf_map_update_batch(
            self._fd, ffi.from_buffer(keys), ffi.from_buffer(values), count, ffi.NULL
        )
        if result != -errno.E2BIG:
            check(result, "write", self._label)
        return int(count[0])

    def delete_all(self, keys: bytes) -> None:
        """Takes keys out; those that are not there are fine."""
        while keys:
            count = ffi.new("__u32 *", len(keys) // self.key_size)
            result = libbpf().bpf_map_delete_batch(self._fd, ffi.from_buffer(keys), count, ffi.NULL)
            if result != -errno.ENOENT:
                check(result, "delete from", self._label)
                return
            keys = keys[(count[0] + 1) * self.key_size :]

    def _checked(self, key: bytes) -> Any:
        if len(key) != self.key_size:
            raise ValueError(f"{self._label} has keys of {self.key_size} bytes, not {len(key)}")
        return ffi.from_buffer(key)


class PerCpuMap(Map):
    """A per-CPU array of structs of 64-bit words."""

    def sums(self) -> list[list[int]]:
        """The sums over all CPUs, read in one system call: a list for each word of the struct, by element."""
        values = memoryview(self._read_all()).cast("Q")
        words = self.value_size // WORD_BYTES
        stride = possible_cpus() * words
        return [self._sum(values[column::stride] for column in range(word, stride, words)) for word in range(words)]

    def _read_all(self) -> bytearray:
        """All elements, each as ``possible_cpus()`` structs in a row."""
        values = bytearray(self.max_entries * possible_cpus() * self.value_size)
        keys = ffi.new("__u32[]", self.max_entries)
        count = ffi.new("__u32 *", self.max_entries)
        next_batch = ffi.new("__u32 *")
        result = libbpf().bpf_map_lookup_batch(
            self._fd, ffi.NULL, next_batch, keys, ffi.from_buffer(values), count, ffi.NULL
        )
        check(result, "read", self._label)
        return values

    def _sum(self, columns: Iterable[memoryview]) -> list[int]:
        """Adds up columns of ``max_entries`` words each.

        As one long number a column, of which no word ever carries into the next: five times as fast as word by word.
        """
        total = sum(int.from_bytes(column.tobytes(), sys.byteorder) for column in columns)
        words = total.to_bytes(self.max_entries * WORD_BYTES, sys.byteorder)
        return memoryview(words).cast("Q").tolist()


class CounterMap(PerCpuMap):
    """A per-CPU array of ``struct xdpfw_counter``."""

    def read(self) -> list[Counter]:
        return list(map(Counter, *self.sums()))


class KnockCounterMap(PerCpuMap):
    """A per-CPU array of ``struct xdpfw_knock_counter``."""

    def read(self) -> list[KnockCounter]:
        members = self.sums()[: len(KnockCounter._fields)]  # padding follows
        return list(map(KnockCounter, *members))


class LimitCounterMap(PerCpuMap):
    """A per-CPU array of ``struct xdpfw_limit_counter``."""

    def read(self) -> list[LimitCounter]:
        members = self.sums()[: len(LimitCounter._fields)]  # padding follows
        return list(map(LimitCounter, *members))


class FlowCounterMap(PerCpuMap):
    """A per-CPU array of one ``struct xdpfw_flow_counter``."""

    def read(self) -> list[FlowCounter]:
        members = self.sums()[: len(FlowCounter._fields)]  # padding follows
        return list(map(FlowCounter, *members))


class Blob:
    """Bytes in a frozen map, so that they can be pinned: metadata that lives and dies with what it is about."""

    def __init__(self, pages: ArrayMap) -> None:
        self._pages = pages

    @classmethod
    def create(cls, name: str, data: bytes) -> Self:
        """A blob of any length; nobody can change it any more."""
        content = len(data).to_bytes(WORD_BYTES, sys.byteorder) + data
        count = -(-len(content) // mmap.PAGESIZE)
        pages = ArrayMap.create(name, mmap.PAGESIZE, count, map_flags=FLAG_MMAPABLE)
        try:
            pages.fill(content.ljust(count * mmap.PAGESIZE, b"\0"))
            check(libbpf().bpf_map_freeze(pages.fileno()), "freeze", f"map {name}")
        except BaseException:
            pages.close()
            raise
        return cls(pages)

    @classmethod
    def open(cls, path: str) -> Self:
        """The blob that is pinned at ``path``. Raises KernelError."""
        return cls(ArrayMap.open(path))

    def read(self) -> bytes:
        with self._pages.mapped(self._pages.max_entries * mmap.PAGESIZE, mmap.PROT_READ) as memory:
            length = int.from_bytes(memory[:WORD_BYTES], sys.byteorder)
            return memory[WORD_BYTES : WORD_BYTES + length]

    def pin(self, path: str) -> None:
        self._pages.pin(path)

    def close(self) -> None:
        self._pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for_programs() -> None:
    """Returns when no program that ran at the call is still running, so that a replaced one counts no more.

    The kernel does so for each update of a map of maps (1ae80cf31938, Linux 4.21).
    """
    with ArrayMap.create("inner", KEY_BYTES, 1) as inner:
        inner_fd = inner.fileno()
        with ArrayMap.create("outer", KEY_BYTES, 1, type=TYPE_ARRAY_OF_MAPS, inner_map_fd=inner_fd) as outer:
            outer.write(0, inner_fd.to_bytes(KEY_BYTES, sys.byteorder))
