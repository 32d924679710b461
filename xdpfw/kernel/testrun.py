# SPDX-License-Identifier: GPL-2.0-or-later
"""Test runs: what a generation does with a frame, with nothing sent."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Final, NamedTuple

from xdpfw.kernel import abi
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.loader import Program
from xdpfw.kernel.maps import ArrayMap

LOOPBACK: Final = 1
"""The interface index of ``lo`` in every network namespace, on which test runs arrive."""

ETHERNET_HEADER_BYTES: Final = 14

START_BOOT_NS: Final = 3600 * 1_000_000_000

START_WALL_NS: Final = 1_767_225_600 * 1_000_000_000
"""When test runs take place where nobody says otherwise: an hour after boot, at the beginning of 2026."""

OUTPUT_BYTES: Final = 128 << 10
"""More than the largest frame that a test run can build (17 fragments of a page)."""

_XDP_ACTIONS: Final = ("aborted", "drop", "pass", "tx", "redirect")


class Outcome(NamedTuple):
    """What became of one frame."""

    verdict: str
    """``pass``, ``drop``, ``tx``, ``redirect``; ``aborted`` would be a fault of the program."""
    reason: str | None
    """As ``abi.reason_name`` has it; None if the generation does not trace."""
    rule: int | None
    """The rule that decided, where ``reason`` is ``rule``."""
    frame: bytes
    """The frame as the program left it."""
    duration_ns: int
    """Mean over the repetitions."""


class Runner:
    """Buffers of test runs, made once: a run is one system call and little else."""

    def __init__(
        self, program: Program, trace: ArrayMap | None, set_interface: Callable[[int, int | None], None]
    ) -> None:
        """``trace``: the map of a program that writes its decisions there; ``set_interface``: of its generation."""
        self._set_interface = set_interface
        self._interface: int | None = -1
        self._output = ffi.new("char[]", OUTPUT_BYTES)
        self._options = options("bpf_test_run_opts", data_out=self._output)
        self._program = program.fileno()
        self._test_run = libbpf().bpf_prog_test_run_opts
        self._trace_memory: mmap.mmap | None = None
        if trace is not None:
            memory = trace.mapped(abi.size_of("trace"), mmap.PROT_READ | mmap.PROT_WRITE)
            self._trace_memory = memory
            self._trace = ffi.cast("struct xdpfw_trace *", ffi.from_buffer(self._trace_memory))

    def close(self) -> None:
        if self._trace_memory:
            del self._trace
            self._trace_memory.close()

    def run(self, frame: bytes, interface: int | None, repeat: int, boot_ns: int, wall_ns: int) -> Outcome:
        if self._trace_memory:
            self._trace.boot_ns = boot_ns
            self._trace.wall_ns = wall_ns
        if interface != self._interface and self._trace_memory:
            self._set_interface(LOOPBACK, interface)
            self._interface = interface
        opts = self._options
        opts.data_in = data = ffi.from_buffer(frame)
        opts.data_size_in = len(data)
        opts.data_size_out = OUTPUT_BYTES
        opts.repeat = repeat
        result = self._test_run(self._program, opts)
        if result < 0:
            check(result, "test-run", f"a frame of {len(frame)} bytes")
        verdict = _XDP_ACTIONS[opts.retval]
        output = ffi.buffer(self._output, opts.data_size_out)[:]
        if not self._trace_memory:
            return Outcome(verdict, None, None, output, opts.duration)
        reason = self._trace.reason
        rule = self._trace.rule if reason == abi.Reason.RULE else None
        return Outcome(verdict, abi.reason_name(reason), rule, output, opts.duration)

    def send(self, egress: Program, frame: bytes, forwarded_from: int, boot_ns: int) -> None:
        if self._trace_memory:
            self._trace.boot_ns = boot_ns
        run = options("bpf_test_run_opts", data_size_in=len(frame), repeat=1)
        run.data_in = data = ffi.from_buffer(frame)
        context = ffi.new("struct __sk_buff *", {"ingress_ifindex": forwarded_from})
        run.ctx_in, run.ctx_size_in = context, ffi.sizeof(context[0])
        check(self._test_run(egress.fileno(), run), "test-run", f"a frame of {len(data)} bytes that is sent")
