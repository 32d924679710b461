# SPDX-License-Identifier: GPL-2.0-or-later
"""The progress bar: for whoever looks, and in nobody's way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from xdpfw.cli import progressbar
from xdpfw.cli.app import App
from xdpfw.cli.policyfile import PolicyFile
from xdpfw.cli.progressbar import progress_bar

HIDE_CURSOR = "\x1b[?25l"
SHOW_CURSOR = "\x1b[?25h"
ERASE_LINE = "\x1b[2K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressbar, "PATIENCE_S", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def test_phases_are_shown_on_a_terminal() -> None:
    stderr = Terminal()
    with progress_bar(App(stdout=Terminal(), stderr=stderr, terminal=True)) as progress:
        progress("reading p.yaml", 50, 200)
        progress("reading p.yaml", 100, 200)
        reading = stderr.getvalue()
        progress("compiling", 0, 0)
    assert "reading p.yaml" in reading
    assert "compiling" in stderr.getvalue().removeprefix(reading)


@pytest.mark.parametrize(("terminal", "stderr"), [(False, Terminal()), (True, io.StringIO())])
def test_nothing_is_shown_where_nobody_looks(terminal: bool, stderr: io.StringIO) -> None:
    with progress_bar(App(stdout=io.StringIO(), stderr=stderr, terminal=terminal)) as progress:
        progress("compiling", 1, 2)
    assert stderr.getvalue() == ""


def test_nothing_is_shown_beside_json() -> None:
    stderr = Terminal()
    with progress_bar(App(stdout=Terminal(), stderr=stderr, terminal=True), as_json=True) as progress:
        progress("compiling", 1, 2)
    assert stderr.getvalue() == ""


def test_what_is_done_at_once_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressbar, "PATIENCE_S", 3600)
    stderr = Terminal()
    with progress_bar(App(stdout=Terminal(), stderr=stderr, terminal=True)) as progress:
        progress("compiling", 1, 2)
    assert stderr.getvalue() == ""


def test_a_bar_is_gone_in_the_end() -> None:
    stderr = Terminal()
    with progress_bar(App(stderr=stderr, terminal=True)) as progress:
        progress("compiling", 0, 0)
        assert SHOW_CURSOR not in stderr.getvalue()
    assert ERASE_LINE in stderr.getvalue()[stderr.getvalue().index(SHOW_CURSOR) :]


@pytest.mark.parametrize("step", ["set_live", "show_cursor", "push_render_hook"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_bar_that_is_interrupted_in_its_start_is_gone(
    monkeypatch: pytest.MonkeyPatch, step: str, is_done: bool
) -> None:
    """A signal comes before or after one of the steps that rich starts by."""
    real = getattr(Console, step)
    hit = False

    def interrupted(console: Console, *arguments: Any) -> Any:
        nonlocal hit
        if not hit and not is_done:
            hit = True
            raise KeyboardInterrupt
        found = real(console, *arguments)
        if not hit:
            hit = True
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Console, step, interrupted)
    stderr = Terminal()
    with (
        pytest.raises(KeyboardInterrupt),
        progress_bar(App(stdout=Terminal(), stderr=stderr, terminal=True)) as progress,
    ):
        progress("compiling", 0, 0)
    assert hit
    assert stderr.getvalue().rfind(SHOW_CURSOR) > stderr.getvalue().rfind(HIDE_CURSOR)


def test_reading_tells_how_far_it_has_come(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    rules = "".join(f"  - {{match: {{proto: tcp, dport: {port}}}, action: pass}}\n" for port in range(5000))
    path.write_text(f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: drop\nrules:\n{rules}")
    told: list[tuple[str, int, int]] = []
    PolicyFile.read(str(path), lambda *step: told.append(step))
    reading = [(done, total) for phase, done, total in told if phase == f"reading {path}"]
    checking = [(done, total) for phase, done, total in told if phase == f"checking {path}"]
    assert reading[0] == (0, 5004)
    assert len(reading) > 2
    assert reading == sorted(reading)
    assert checking == [(0, 5000), (2048, 5000), (4096, 5000)]
