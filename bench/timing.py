# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs and packets in turn, round by round, so that a machine that slows down does so for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from xdpfw.kernel.features import null_program
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.loader import Program

MIN_FRAME_BYTES = 60

Timer = Callable[[], int]


def timer(program: Program, frame: bytes, repeat: int) -> Timer:
    """A call that gives the mean duration of a run, in whole ns as the kernel has it."""
    frame = frame.ljust(MIN_FRAME_BYTES, b"\0")
    data = ffi.from_buffer(frame)
    run = options("bpf_test_run_opts", data_size_in=len(frame), repeat=repeat)

    def duration_ns() -> int:
        run.data_in = data  # cffi keeps alive what Python refers to, not what a struct points to
        check(libbpf().bpf_prog_test_run_opts(program.fileno(), run), "time", "a test run")
        return int(run.duration)

    return duration_ns


class Times:
    """Durations of each row, by round."""

    def __init__(self, found: Mapping[str, list[int]], null: list[int]) -> None:
        self.found = found
        self.null = null

    @classmethod
    def of(cls, timers: Mapping[str, Timer], rounds: int, repeat: int) -> Times:
        """Each row right behind a run of the null program, which it is compared with."""
        found: dict[str, list[int]] = {name: [] for name in timers}
        null: list[int] = []
        with null_program() as program:
            null_ns = timer(program, b"", repeat)
            for _ in range(rounds):
                null.append(null_ns())
                for name, duration_ns in timers.items():
                    found[name].append(duration_ns())
        return cls(found, null)

    @property
    def null_ns(self) -> float:
        return statistics.median(self.null)

    def above_null(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(time - null for time, null in zip(self.found[name], self.null, strict=True))

    def above(self, name: str, other: str) -> float:
        """How much dearer one row is than another, in the same rounds: the median."""
        pairs = zip(self.found[name], self.found[other], strict=True)
        return statistics.median(time - base for time, base in pairs)
