# SPDX-License-Identifier: GPL-2.0-or-later
"""Cold: each packet of a trace once, one after the other, as a link brings them.

The next packet touches other tables than the last one did, so that what does not fit in the caches is paid for. Between
two runs there is as little as possible beside the system call: the frames are one buffer, and so are the durations.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.report import Table
from bench.subjects import Subject
from bench.traces import MIN_FRAME_BYTES
from xdpfw.kernel.features import null_program
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.loader import Program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

AGAIN: Final = 2_000
"""Runs of one packet alone."""

Say = Callable[[str], None]


class Shots:
    """A whole trace for one program after the other, each packet once."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        padded = [frame.ljust(MIN_FRAME_BYTES, b"\0") for frame in frames]
        self._lengths = ffi.new("__u32[]", [len(frame) for frame in padded])
        self._frames = ffi.new("char[]", b"".join(padded))
        self._durations = ffi.new("__u32[]", len(padded))
        self._run: Any = options("bpf_test_run_opts", repeat=1)

    def fire(self, program: Program) -> npt.NDArray[np.uint32]:
        """Duration of each packet's run, in ns. Raises KernelError if the last one was refused."""
        run, frame, lengths, durations = self._run, self._frames, self._lengths, self._durations
        test_run, descriptor = libbpf().bpf_prog_test_run_opts, program.fileno()
        was_on = gc.isenabled()
        gc.disable()
        try:
            result = 0
            for index in range(len(durations)):
                length = lengths[index]
                run.data_in = frame
                run.data_size_in = length
                run.data_size_out = 0  # the last run left the length of its frame there, as a limit
                result = test_run(descriptor, run)
                durations[index] = run.duration
                frame += length
        finally:
            if was_on:
                gc.enable()
        check(result, "time", "a test run")
        return np.frombuffer(ffi.buffer(durations), dtype=np.uint32).copy()


def measure(subjects: Sequence[Subject], rounds: int, say: Say) -> Table:
    found: dict[str, list[tuple[float, float, float]]] = {each.name: [] for each in subjects}
    nulls: list[float] = []
    with contextlib.ExitStack() as loaded:
        null = loaded.enter_context(null_program())
        shots = {each.name: Shots(each.frames) for each in subjects}
        again = {each.name: Shots(each.frames[:1] * AGAIN) for each in subjects}
        programs = {}
        for each in subjects:
            say(f"loading {each.name}")
            generation = loaded.enter_context(Generation.load(each.image, interfaces=[LOOPBACK], targets=[]))
            programs[each.name] = generation.program
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, program in programs.items():
                base, ours = pass_of(shots[name], null, program)
                nulls.append(float(base.mean()))
                same = np.median(again[name].fire(program)) - np.median(again[name].fire(null))
                median = np.median(ours) - np.median(base)
                found[name].append((float(ours.mean() - base.mean()), float(median), float(same)))
    rows = [
        (each.name, each.rules, len(each.frames), *map(statistics.median, zip(*found[each.name], strict=True)))
        for each in subjects
    ]
    return Table(
        "Cold",
        "BPF_PROG_TEST_RUN of a whole trace, each packet once, after one pass to warm up, in ns above the null program "
        f"(mean {statistics.median(nulls):.0f} ns) over the same trace. Mean and median over the packets; of each, the "
        f"median of {rounds} rounds, in which the policies take turns. Traces: the filter set's own where there is "
        "one, else a header in each filter. One packet: the first one alone, again and again in the same way, which is "
        "what code costs that the system call before it has put out of the nearest cache.",
        ("policy", "rules", "packets", "mean ns", "median ns", "one packet ns"),
        rows,
    )


def pass_of(shots: Shots, null: Program, program: Program) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Durations of the null program and of ``program``, whose tables a pass before has warmed up."""
    base = shots.fire(null)
    shots.fire(program)
    return base, shots.fire(program)
