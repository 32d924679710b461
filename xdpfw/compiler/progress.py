# SPDX-License-Identifier: GPL-2.0-or-later
"""How far long work has come, told to whoever looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told now and then, at most some thousand times in all, and always at the beginning of a phase.

    ``phase``: what goes on, as in ``compiling``. ``done`` of ``total`` steps are; a ``total`` of 0 says that nobody
    knows.
    """

    def __call__(self, phase: str, done: int, total: int) -> None: ...


def unseen(phase: str, done: int, total: int) -> None:
    """Nobody looks."""
