# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command gets from outside: where it writes, where bpffs is, and the time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from xdpfw.kernel.pins import Pins

BPFFS = Path("/sys/fs/bpf")
DEFAULT_INSTANCE = "default"


@dataclass(frozen=True, slots=True)
class App:
    """``terminal``: somebody looks at ``stdout``, so colours and progress are welcome. ``clock`` is in s since 1970."""

    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    terminal: bool = False
    bpffs: Path = BPFFS
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def from_environment(cls) -> App:
        return cls(terminal=sys.stdout.isatty())

    def say(self, text: str = "", *, colour: str | None = None) -> None:
        """A line of the command's answer, on a terminal in this colour."""
        if colour and self.terminal and not os.environ.get("NO_COLOR"):
            text = click.style(text, fg=colour)
        self.stdout.write(f"{text}\n")

    def complain(self, text: str) -> None:
        """A line that is no part of the answer."""
        self.stderr.write(f"{text}\n")

    def say_json(self, value: Any, *, one_line: bool = False) -> None:
        indent = None if one_line else 2
        self.say(json.dumps(value, indent=indent, ensure_ascii=False))

    def pins(self, instance: str | None, netns: str | None) -> Pins:
        """The pins of an instance: the one named, else that of the namespace, else the default.

        Raises KernelError where neither the instance nor the namespace exists. One of a namespace that is gone can
        still be told of and detached.
        """
        from xdpfw.kernel.interface import check_namespace
        from xdpfw.kernel.pins import Pins, instances

        name = instance or netns or DEFAULT_INSTANCE
        pins = Pins(name, self.bpffs)
        if netns is not None and name not in instances(self.bpffs):
            check_namespace(netns)
        return pins
