# SPDX-License-Identifier: GPL-2.0-or-later
"""A progress bar below the prompt, for work that takes a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from xdpfw.cli.app import App
from xdpfw.compiler.progress import Progress, unseen

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE_S: Final = 0.4
"""Work that is done sooner shows none: it would only flicker, and to load rich takes a tenth of a second."""


@contextmanager
def progress_bar(app: App, *, as_json: bool = False) -> Iterator[Progress]:
    """What to tell progress to while the context lasts. It is shown if somebody looks, and gone in the end."""
    if as_json or not (app.terminal and app.stderr.isatty()):
        yield unseen
        return
    shown = _LateBar(app.stderr)
    try:
        yield shown
    finally:
        shown.stop()


class _LateBar:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due = time.monotonic() + PATIENCE_S
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() < self._due:
                return
            self._bar = _bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task("")
        assert self._task is not None
        if phase != self._phase:
            self._bar.reset(self._task, total=total or None, completed=done, description=phase)
            self._phase = phase
        else:
            self._bar.update(self._task, total=total or None, completed=done)

    def stop(self) -> None:
        if self._bar is None:
            return
        try:
            self._bar.stop()
        except IndexError:
            # Interrupted in its start, rich takes back what it has not set yet, and stops there.
            self._bar.console.show_cursor(True)


def _bar(stream: TextIO) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    return Bar(*columns, console=Console(file=stream), transient=True, refresh_per_second=5)
