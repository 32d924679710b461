# SPDX-License-Identifier: GPL-2.0-or-later
"""The firewall as a user drives it: by its command line, in processes of their own.

They are forked from one that has imported everything, which saves most of the time that a command takes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.topology import COMMAND_LIMIT_SECONDS, Namespace, run, unique, wait_for
from xdpfw.cli import main
from xdpfw.kernel.interface import Link, attached, namespace
from xdpfw.kernel.pins import Pins
from xdpfw.observe.stats import Statistics

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(
    [
        "pyroute2",
        "xdpfw.cli.apply",
        "xdpfw.cli.detach",
        "xdpfw.cli.policyfile",
        "xdpfw.cli.stats",
        "xdpfw.cli.status",
        "xdpfw.compiler.image",
        "xdpfw.compiler.lint",
        "xdpfw.controller",
        "xdpfw.simulate.decider",
        "xdpfw.simulate.policytest",
    ]
)
_serial = itertools.count()


def policy(
    *rules: str,
    interfaces: Sequence[str] = ("fw0",),
    default: str = "drop",
    mode: str = "auto",
    allow: str | None = None,
    extra: str = "",
) -> str:
    """A policy whose rules are YAML flow mappings, and its interfaces all of one mode."""
    named = "".join(f"  {name}: {{mode: {mode}}}\n" for name in interfaces)
    listed = "".join(f"  - {rule}\n" for rule in rules)
    allowed = "" if allow is None else f"allow: {allow}\n"
    return (
        f"version: 1\ninterfaces:\n{named}default: {default}\n{allowed}{textwrap.dedent(extra)}"
        f"rules:{' []' if not rules else ''}\n{listed}"
    )


def _main(arguments: Sequence[str], stdout: Path, stderr: Path) -> None:
    """In the new process: what the console script does."""
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["xdpfw", *arguments]
    main()


class Command:
    """A command that runs."""

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        number = next(_serial)
        self._output = directory / f"{number}.out", directory / f"{number}.err"
        self._process = _forked.Process(target=_main, args=(self.arguments, *self._output))
        self._process.start()

    def wait(self, seconds: float = COMMAND_LIMIT_SECONDS) -> bool:
        """True if it has ended in time."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def answer(self) -> subprocess.CompletedProcess[str]:
        """What it said, and its exit status."""
        if not self.wait():
            self.kill()
        status = self._process.exitcode
        assert status is not None
        assert status >= 0, f"{self.arguments} ended by signal {-status}"
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self._output)
        return subprocess.CompletedProcess(self.arguments, status, stdout, stderr)


@dataclass(frozen=True)
class Firewall:
    """One instance. Everything of it is removed when the test ends, however it ended."""

    instance: str
    directory: Path
    home: Namespace

    @property
    def pins(self) -> Pins:
        return Pins(self.instance)

    def write(self, text: str, name: str = "policy.yaml") -> Path:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, command: str, *arguments: str | Path) -> Command:
        return Command(self.directory, [command, *map(str, arguments), "--instance", self.instance])

    def command(self, command: str, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command to its end, which must have this exit status."""
        done = self.start(command, *arguments).answer()
        assert "internal error" not in done.stderr
        assert done.returncode == status, f"{done.args}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def start_apply(self, text: str, name: str = "policy.yaml") -> Command:
        return self.start("apply", self.write(text, name), "--netns", self.home.name)

    def apply(self, text: str, *, status: int = 0, home: Namespace | None = None) -> subprocess.CompletedProcess[str]:
        return self.command("apply", self.write(text), "--netns", (home or self.home).name, status=status)

    def detach(self) -> None:
        self.command("detach")

    def stats(self) -> dict[str, Any]:
        """As a script gets them."""
        found: dict[str, Any] = json.loads(self.command("stats", "--json").stdout)
        check_sums(found)
        return found

    def status(self, *, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json", status=status).stdout)
        return found

    def rule(self, name: str) -> int:
        """Packets that a rule has counted; quick, for polling."""
        statistics = Statistics.read(self.pins)
        assert statistics
        return next(row.counter.packets for row in statistics.by_rule() if row.name == name)

    def reason(self, name: str) -> int:
        """Packets that were decided for a reason; quick, for polling."""
        statistics = Statistics.read(self.pins)
        assert statistics
        return statistics.reasons[name].packets

    def reasons(self) -> dict[str, int]:
        """Packets by the reason that they were decided for, ``rule`` being one."""
        statistics = Statistics.read(self.pins)
        assert statistics
        return {name: counter.packets for name, counter in statistics.reasons.items()}

    def seen(self) -> int:
        """All packets that the program saw; quick, for polling."""
        statistics = Statistics.read(self.pins)
        return sum(counter.packets for counter in statistics.verdicts.values()) if statistics else 0

    def wait_for_rule(self, name: str, packets: int) -> None:
        wait_for(lambda: self.rule(name) >= packets, f"{packets} packets in rule {name}")

    def wait_for_packets(self, packets: int) -> None:
        wait_for(lambda: self.seen() >= packets, f"{packets} packets")

    def mode(self, interface: str, home: Namespace | None = None) -> str | None:
        """``native`` or ``generic``, as the kernel has it; None where no program runs."""
        with namespace((home or self.home).name):
            found = attached(self._index(interface, home))
        return None if found is None else str(found.mode)

    def program(self, interface: str, home: Namespace | None = None) -> int | None:
        """The id of the XDP program that an interface runs, whoever's it is."""
        with namespace((home or self.home).name):
            found = attached(self._index(interface, home))
        return None if found is None else found.program_id

    def _index(self, interface: str, home: Namespace | None) -> int:
        return int((home or self.home).link(interface)["ifindex"])

    def objects(self, below: str = "") -> set[tuple[str, int]]:
        """Kind and id of all that is pinned ``below``, as bpftool sees it, and which the kernel still has."""
        found = set()
        for path in (path for path in (self.pins.root / below).rglob("*") if path.is_file()):
            is_link, is_program = path.parent.name in ("links", "egress"), path.name in ("program", "egress")
            kind = "link" if is_link else "prog" if is_program else "map"
            found.add((kind, int(bpftool(kind, "show", "pinned", str(path))["id"])))
        return found

    def close(self) -> None:
        for path in self.pins.links().values():
            with Link.open(str(path)) as link:
                link.detach()
        self.pins.remove()


def bpftool(*arguments: str) -> Any:
    return json.loads(run("bpftool", "-j", *arguments).stdout)


def exists(kind: str, number: int) -> bool:
    """Whether the kernel has a program, map or link of this id."""
    return run("bpftool", "-j", kind, "show", "id", str(number), status=None).returncode == 0


def check_sums(stats: dict[str, Any]) -> None:
    """Every packet is in exactly one row of each view; rules that only count stand apart."""
    for unit in ("packets", "bytes"):
        interfaces = sum(interface[unit] for interface in stats["interfaces"].values())
        by_interface_verdict = sum(
            counter[unit] for interface in stats["interfaces"].values() for counter in interface["verdicts"].values()
        )
        deciding = sum(rule[unit] for rule in stats["rules"] if rule["action"] != "count")
        rules = deciding + stats["removed_rules"][unit]
        reasons = sum(counter[unit] for counter in stats["reasons"].values())
        verdicts = sum(counter[unit] for counter in stats["verdicts"].values())
        sets = sum(counter[unit] for counter in stats["sets"])
        assert interfaces == by_interface_verdict == reasons == verdicts == sets, (unit, stats)
        assert rules == stats["reasons"]["rule"][unit], (unit, stats)


@contextlib.contextmanager
def firewall(directory: Path, home: Namespace) -> Iterator[Firewall]:
    made = Firewall(unique("fw"), directory, home)
    try:
        yield made
    finally:
        made.close()
