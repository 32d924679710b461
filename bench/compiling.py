# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policy costs its user: seconds of `check` and `apply`, and memory of the compiler and in the kernel.

The commands are those that a user types, each a process of its own that reads the policy from a YAML file.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from bench.report import Cell, Table
from bench.subjects import INTERFACE, TEN_RULES, TEN_RULES_FILE, filter_set, subject
from bench.written import yaml
from tests.topology import network, unique
from xdpfw.errors import XdpfwError
from xdpfw.kernel.program import LOOPBACK, Generation

COMMAND: Final = Path(sys.executable).with_name("xdpfw")
CHECK_LIMIT_SECONDS: Final = 60
LIMIT_SECONDS: Final = 300
POLL_SECONDS: Final = 0.01
TURNS: Final = 3
LONG_SECONDS: Final = 5
"""What takes longer is not done again."""

MIB: Final = 1 << 20

Say = Callable[[str], None]


class FailedError(XdpfwError):
    """A command that should have worked."""


class Cost(NamedTuple):
    """``seconds`` is None where the time was up."""

    seconds: float | None
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians of a few turns."""

    check: Cost
    apply: Cost
    change: Cost


def measure(names: Sequence[str], say: Say) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        costs = _measure(name, say)
        each = subject(name)
        with Generation.load(each.image, interfaces=[LOOPBACK], targets=[]) as generation:
            kernel_bytes = generation.memory_bytes
        check = costs.check.seconds
        rows.append(
            (
                name,
                each.rules,
                f"over {CHECK_LIMIT_SECONDS}" if check is None else check,
                costs.apply.seconds,
                costs.change.seconds,
                costs.apply.peak_bytes / MIB,
                len(each.image.tables) / MIB,
                kernel_bytes / MIB,
            )
        )
    return Table(
        "Compiling",
        f"Wall time of the commands, start of Python included, from a YAML file; median of {TURNS} where a turn takes "
        f"less than {LONG_SECONDS} s. `check` is ended after {CHECK_LIMIT_SECONDS} s. `apply` puts the policy in force "
        "where none was; then with one rule's action changed. Peak: resident memory of `apply`. Maps: kernel memory of "
        "program and maps, counters of each CPU included.",
        ("policy", "rules", "check s", "apply s", "one rule changed s", "peak MiB", "tables MiB", "maps MiB"),
        rows,
    )


def _measure(name: str, say: Say) -> Costs:
    with _place() as (directory, options):
        before, after = directory / "before.yaml", directory / "after.yaml"
        for path, inverted in ((before, False), (after, True)):
            path.write_text(_policy(name, inverted), encoding="utf-8")
        say(f"{name}: check")
        check = _turns(lambda: _run(("check", str(before)), CHECK_LIMIT_SECONDS, lints=True))
        applied, changed = [], []
        for turn in range(TURNS):
            say(f"{name}: apply, turn {turn + 1}")
            try:
                applied.append(_run(("apply", str(before), *options)))
                changed.append(_run(("apply", str(after), *options)))
            finally:
                _run(("detach", *options))
            if _is_long(applied[-1]):
                break
        return Costs(check, _median(applied), _median(changed))


def _policy(name: str, inverted: bool) -> str:
    """Its text, or that with another action of one rule in the middle."""
    if name != TEN_RULES:
        filters = filter_set(name)
        return yaml(filters, INTERFACE, inverted=len(filters.filters) // 2 if inverted else None)
    text = re.sub(r"\beth0\b", INTERFACE, TEN_RULES_FILE.read_text(encoding="utf-8"))
    return text.replace("dport: 443}, action: pass", "dport: 443}, action: drop") if inverted else text


@contextlib.contextmanager
def _place() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A directory, and the options of a namespace with the interface and of an instance of its own."""
    with TemporaryDirectory() as directory, network() as made:
        here, there = made.namespace("bench", ipv6=False), made.namespace("peer", ipv6=False)
        made.pair(here, INTERFACE, there, "peer0")
        yield Path(directory), ("--netns", here.name, "--instance", unique("bench"))


def _turns(command: Callable[[], Cost]) -> Cost:
    found: list[Cost] = []
    while len(found) < TURNS and not (found and _is_long(found[-1])):
        found.append(command())
    return _median(found)


def _is_long(cost: Cost) -> bool:
    return cost.seconds is None or cost.seconds > LONG_SECONDS


def _median(costs: Sequence[Cost]) -> Cost:
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return Cost(statistics.median(seconds) if seconds else None, max(cost.peak_bytes for cost in costs))


def _run(arguments: Sequence[str], limit_seconds: float = LIMIT_SECONDS, *, lints: bool = False) -> Cost:
    """``lints``: exit status 1, too, is an answer. Raises FailedError."""
    started = time.monotonic()
    peak_bytes = 0
    with subprocess.Popen(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
                if time.monotonic() - started > limit_seconds:
                    return Cost(None, peak_bytes)
                time.sleep(POLL_SECONDS)
            seconds = time.monotonic() - started
            if process.returncode not in ((0, 1) if lints else (0,)):
                assert process.stderr is not None
                raise FailedError(f"xdpfw {arguments[0]}: {process.stderr.read().strip()}")
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
