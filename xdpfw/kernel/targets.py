# SPDX-License-Identifier: GPL-2.0-or-later
"""Where routed and spread packets may go: interfaces that take frames, and CPUs that are there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from xdpfw.kernel.maps import KEY_BYTES, WORD_BYTES, ArrayMap, HashMap

CPU_QUEUE_FRAMES: Final = 2048
"""That wait for a CPU at most; what comes then is lost (kernel/bpf/cpumap.c: bq_flush_to_queue)."""

ONLINE: Final = Path("/sys/devices/system/cpu/online")


class Station(NamedTuple):
    """One of the policy's interfaces, to the rules that route. ``mac``: 6 bytes, in the order on the wire."""

    ifindex: int
    mac: bytes
    takes_frames: bool


def set_stations(directory: Path, stations: Sequence[Station]) -> None:
    """Tells a generation that is pinned in ``directory`` what its interfaces, in their order, are now.

    Raises KernelError.
    """
    with contextlib.ExitStack() as opened:
        routes = opened.enter_context(HashMap.open(str(directory / "routes")))
        macs = opened.enter_context(ArrayMap.open(str(directory / "stations")))
        write_stations(routes, macs, stations)


def write_stations(routes: HashMap, macs: ArrayMap, stations: Sequence[Station]) -> None:
    for number, station in enumerate(stations):
        macs.write(number, station.mac.ljust(WORD_BYTES, b"\0"))
        key = _word(station.ifindex)
        if station.takes_frames:
            routes.write(key, key)
        else:
            routes.delete(key)


def set_cpus(directory: Path, numbers: Iterable[int]) -> None:
    """Lets a generation that is pinned in ``directory`` hand packets to these CPUs. Raises KernelError."""
    with HashMap.open(str(directory / "cpus")) as cpus:
        write_cpus(cpus, numbers)


def write_cpus(cpus: HashMap, numbers: Iterable[int]) -> None:
    """Has the kernel start a thread on each of these CPUs that has none yet. Raises KernelError."""
    for key in map(_word, dict.fromkeys(numbers)):
        if cpus.read(key) is None:
            cpus.write(key, _word(CPU_QUEUE_FRAMES))


def online_cpus() -> tuple[str, frozenset[int]]:
    """As the kernel writes it (``0-3,6``), and one by one."""
    text = ONLINE.read_text(encoding="ascii").strip()
    bounds = ([int(bound) for bound in part.split("-")] for part in text.split(","))
    return text, frozenset(cpu for each in bounds for cpu in range(each[0], each[-1] + 1))


def _word(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, sys.byteorder)
