# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that is measured on: what it is, and the one switch of its kernel that changes what is measured."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

STATS_ENABLED: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
RCU_EXPEDITED: Final = Path("/sys/kernel/rcu_expedited")


def bpf_stats(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """kernel.bpf_stats_enabled, put back when the context ends.

    With it the kernel reads the clock twice a run, which costs more than most of what is measured here: it is off
    but where the cost is taken from run_time_ns and run_cnt. Raises OSError.
    """
    return _switch(STATS_ENABLED, enabled)


def short_grace_periods() -> contextlib.AbstractContextManager[None]:
    """rcu_expedited, put back when the context ends.

    A test run of several repetitions waits for two grace periods, some 20 ms, when it may take 1. Nothing that is
    measured waits for one. Left as it is where it cannot be set.
    """
    return _switch(RCU_EXPEDITED, True) if os.access(RCU_EXPEDITED, os.W_OK) else contextlib.nullcontext()


@contextlib.contextmanager
def _switch(path: Path, on: bool) -> Iterator[None]:
    before = path.read_text(encoding="ascii").strip()
    path.write_text(f"{on:d}", encoding="ascii")
    try:
        yield
    finally:
        path.write_text(before, encoding="ascii")


def description() -> dict[str, str]:
    """By what it says of the machine."""
    return {
        "kernel": platform.release(),
        "CPU": f"{os.cpu_count()} x {_cpu_model()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "bpf_stats_enabled": f"{STATS_ENABLED.read_text(encoding='ascii').strip()} as found; 0 for all rows of test "
        "runs and of NAPI threads, 1 while rows of run_time_ns are measured, and put back",
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
