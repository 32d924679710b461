# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that a user types, timed: each a process of its own, in a namespace and instance made for it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Final, NamedTuple

from bench.subjects import INTERFACE
from tests.topology import network, unique
from xdpfw.errors import XdpfwError

COMMAND: Final = Path(sys.executable).with_name("xdpfw")
LIMIT_SECONDS: Final = 300
POLL_SECONDS: Final = 0.01


class FailedError(XdpfwError):
    """A command that should have worked."""


class Cost(NamedTuple):
    """``seconds`` is None where the time was up."""

    seconds: float | None
    peak_bytes: int


@contextlib.contextmanager
def place() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A directory, and the options of a namespace with the interface and of an instance of its own."""
    with TemporaryDirectory() as directory, network() as made:
        here, there = made.namespace("bench", ipv6=False), made.namespace("peer", ipv6=False)
        made.pair(here, INTERFACE, there, "peer0")
        yield Path(directory), ("--netns", here.name, "--instance", unique("bench"))


def run(arguments: Sequence[str], limit_seconds: float = LIMIT_SECONDS, *, lints: bool = False) -> Cost:
    """``lints``: exit status 1, too, is an answer. Raises FailedError."""
    started = time.monotonic()
    peak_bytes = 0
    with (
        TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(
            [COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        ) as process,
    ):
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
                if time.monotonic() - started > limit_seconds:
                    return Cost(None, peak_bytes)
                time.sleep(POLL_SECONDS)
            seconds = time.monotonic() - started
            if process.returncode not in ((0, 1) if lints else (0,)):
                said.seek(0)
                raise FailedError(f"xdpfw {arguments[0]}: {said.read().strip()}")
            return Cost(seconds, peak_bytes)
        finally:
            process.kill()


def _peak_bytes(pid: int) -> int:
    """VmHWM. The rusage of a child would do, had it not the memory of the process that it was forked from in it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
