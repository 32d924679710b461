# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed maps, against the kernel's own."""

from __future__ import annotations

import errno
import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xdpfw.errors import KernelError
from xdpfw.kernel import abi, maps
from xdpfw.kernel.libbpf import check, ffi, libbpf
from xdpfw.kernel.maps import FLAG_MMAPABLE, ArrayMap, Blob, Counter, CounterMap, KnockCounter, KnockCounterMap

pytestmark = pytest.mark.needs("privileges", "libbpf", "mmapable arrays")

TYPE_PERCPU_ARRAY = 6


def test_array_keeps_what_is_written() -> None:
    with ArrayMap.create("array", 8, 3) as array:
        assert (array.name, array.value_size, array.max_entries) == ("array", 8, 3)
        array.write(2, b"last one")
        assert [array.read(index) for index in range(3)] == [bytes(8), bytes(8), b"last one"]


@pytest.mark.parametrize("flags", [0, FLAG_MMAPABLE], ids=["in a batch", "through memory"])
def test_fill_writes_from_the_first_element_on(flags: int) -> None:
    with ArrayMap.create("array", 64, 5000, map_flags=flags) as array:
        array.fill(b"".join(number.to_bytes(64, "little") for number in range(4999)))
        assert array.read(0) == bytes(64)
        assert array.read(4998) == (4998).to_bytes(64, "little")
        assert array.read(4999) == bytes(64)
        array.fill(b"")
        assert array.read(1) == (1).to_bytes(64, "little")


def test_what_does_not_fit_is_refused_before_the_kernel_sees_it() -> None:
    with ArrayMap.create("array", 4, 2) as array:
        with pytest.raises(ValueError, match="elements of 4 bytes, not 3"):
            array.write(0, b"abc")
        with pytest.raises(ValueError, match="12 bytes do not fit map array"):
            array.fill(bytes(12))
        with pytest.raises(ValueError, match="5 bytes do not fit"):
            array.fill(bytes(5))


def test_an_element_beyond_the_end_is_an_error_that_names_it() -> None:
    with ArrayMap.create("array", 4, 2) as array:
        with pytest.raises(KernelError, match=r"write map array\[2\]: Argument list too long") as caught:
            array.write(2, bytes(4))
        assert caught.value.errno == errno.E2BIG
        with pytest.raises(KernelError, match=r"read map array\[2\]") as caught:
            array.read(2)
        assert caught.value.errno == errno.ENOENT


def per_cpu_counters(entries: int) -> CounterMap:
    return CounterMap(
        check(libbpf().bpf_map_create(TYPE_PERCPU_ARRAY, b"counters", 4, 16, entries, ffi.NULL), "create", "")
    )


def set_counter(counters: CounterMap, index: int, of_each_cpu: list[Counter]) -> None:
    values = b"".join(struct.pack("QQ", *counter) for counter in of_each_cpu)
    key = ffi.new("__u32 *", index)
    check(libbpf().bpf_map_update_elem(counters.fileno(), key, ffi.from_buffer(values), 0), "write", "counters")


def test_counters_are_summed_over_all_cpus() -> None:
    cpus = maps.possible_cpus()
    with per_cpu_counters(3) as counters:
        set_counter(counters, 0, [Counter(cpu + 1, 100) for cpu in range(cpus)])
        set_counter(counters, 2, [Counter(1 << 62, (1 << 62) + cpu) for cpu in range(2)] + [Counter(0, 0)] * (cpus - 2))
        assert counters.read() == [
            Counter(cpus * (cpus + 1) // 2, cpus * 100),
            Counter(0, 0),
            Counter(1 << 63, (1 << 63) + 1),
        ]


def test_counters_of_knocks_are_summed_too() -> None:
    cpus = maps.possible_cpus()
    fd = libbpf().bpf_map_create(TYPE_PERCPU_ARRAY, b"knocks", 4, abi.size_of("knock_counter"), 2, ffi.NULL)
    with KnockCounterMap(check(fd, "create", "")) as counters:
        members = {name: 10 + number for number, name in enumerate(KnockCounter._fields)}
        values = abi.pack("knock_counter", members) * cpus
        key = ffi.new("__u32 *", 1)
        check(libbpf().bpf_map_update_elem(counters.fileno(), key, ffi.from_buffer(values), 0), "write", "knocks")
        expected = KnockCounter(*(cpus * value for value in members.values()))
        assert counters.read() == [KnockCounter(), expected]


def test_ten_thousand_counters_are_read_by_one_call() -> None:
    with per_cpu_counters(10_020) as counters:
        started = time.perf_counter()
        values = counters.read()
        print(f"10,020 counters of {maps.possible_cpus()} CPUs: {(time.perf_counter() - started) * 1e3:.1f} ms")
        assert len(values) == 10_020


@pytest.mark.parametrize("length", [0, 1, mmap.PAGESIZE - 8, mmap.PAGESIZE - 7, 5 << 20])
def test_blob_gives_back_its_bytes(length: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    with Blob.create("meta", data[:length]) as blob:
        assert blob.read() == data[:length]


@pytest.mark.needs("bpffs")
def test_blob_outlives_its_descriptor_while_it_is_pinned(bpffs: Path) -> None:
    with Blob.create("meta", b"{}") as blob:
        blob.pin(str(bpffs / "meta"))
    with Blob.open(str(bpffs / "meta")) as blob:
        assert blob.read() == b"{}"
    with pytest.raises(KernelError, match="No such file") as caught:
        Blob.open(str(bpffs / "other"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.needs("bpffs")
def test_nobody_changes_a_blob(bpffs: Path) -> None:
    with Blob.create("meta", b"as it was") as blob:
        blob.pin(str(bpffs / "meta"))
    with ArrayMap.open(str(bpffs / "meta")) as array, pytest.raises(KernelError) as caught:
        array.write(0, bytes(array.value_size))
    assert caught.value.errno == errno.EPERM


def test_waiting_for_programs_leaves_no_descriptor(open_descriptors: Callable[[], set[str]]) -> None:
    maps.wait_for_programs()
    before = open_descriptors()
    maps.wait_for_programs()
    assert open_descriptors() == before
