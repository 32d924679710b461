# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures and filter sets that are not part of the project: they lie beside it, or a test skips and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def shared(*names: str) -> Path:
    """The file or folder of that name; skips the test where it is missing."""
    path = FOLDER.joinpath(*names)
    if not path.exists():
        reason = f"{'/'.join(('..', 'shared', 'data', *names))} is missing"
        print(f"skipped: {reason}")
        pytest.skip(reason)
    return path
