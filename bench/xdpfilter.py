# SPDX-License-Identifier: GPL-2.0-or-later
"""xdp-filter of xdp-tools with a list of addresses: loaded by its own command, then kept by a descriptor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.replay import XDP_DROP, Wire
from tests.topology import run
from xdpfw.errors import XdpfwError
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.loader import Program
from xdpfw.kernel.pins import ensure_bpffs

FEATURES: Final = "ipv4"
MAPS: Final = Path("/sys/fs/bpf/xdp-filter")
LIBXDP: Final = Path("/sys/fs/bpf/xdp")
"""Where libxdp takes its locks, and which it leaves behind."""

SOURCE: Final = "01 00 00 00 00 00 00 00"
"""The value of its map of addresses for one that is a source, and that has no packets yet."""

TEST_ADDRESS: Final = "192.0.2.1"


class RefusedError(XdpfwError):
    """It does not come up here; its own words say why."""


@contextlib.contextmanager
def xdp_filter(between: Wire, addresses: Sequence[int], listed: bytes) -> Iterator[Program]:
    """Its program for IPv4 addresses alone, its fastest, which drops these sources.

    ``listed`` is a frame that it must drop. Its dispatcher takes BPF_PROG_TYPE_EXT; where the kernel has none, it
    loads the program by itself. The list goes into its map by bpftool, as its own command takes one address at a time.
    Nothing of it is left in bpffs; the interface is free. Raises RefusedError, KernelError.
    """
    ensure_bpffs()
    if MAPS.exists():
        raise RefusedError(f"{MAPS} is there: xdp-filter is in use on this machine")
    used_before = LIBXDP.exists()
    try:
        _command(between, "load", between.receiving, "--mode", "native", "--features", FEATURES)
        _command(between, "ip", TEST_ADDRESS, "--mode", "src")
        _fill(between, addresses)
        pinned = next((MAPS / "programs" / between.receiving).iterdir())
        program = Program.open(str(pinned))
    finally:
        between.receiver.run("xdp-filter", "unload", "--all", status=None)
        if LIBXDP.exists() and not used_before:
            LIBXDP.rmdir()
    with program:
        if _verdict(program, listed) != XDP_DROP:
            raise RefusedError("xdp-filter passes an address of its list: its map has another form in this version")
        yield program


def _command(between: Wire, *arguments: str) -> None:
    done = between.receiver.run("xdp-filter", *arguments, status=None)
    if done.returncode != 0:
        words = " ".join(f"{done.stdout} {done.stderr}".split())
        raise RefusedError(f"xdp-filter {arguments[0]}: {words or f'exit status {done.returncode}'}")


def _fill(between: Wire, addresses: Sequence[int]) -> None:
    run("bpftool", "map", "delete", "pinned", MAPS / "filter_ipv4", "key", *TEST_ADDRESS.split("."))  # it takes 10,000
    batch = between.directory / "addresses"
    with batch.open("w", encoding="ascii") as file:
        for address in addresses:
            key = address.to_bytes(4, "big").hex(" ")
            file.write(f"map update pinned {MAPS / 'filter_ipv4'} key hex {key} value hex {SOURCE}\n")
    run("bpftool", "batch", "file", batch)


def _verdict(program: Program, frame: bytes) -> int:
    data = ffi.from_buffer(frame)
    test = options("bpf_test_run_opts", data_in=data, data_size_in=len(frame), repeat=1)
    check(libbpf().bpf_prog_test_run_opts(program.fileno(), test), "test-run", "xdp-filter's program")
    return int(test.retval)
