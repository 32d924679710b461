# SPDX-License-Identifier: GPL-2.0-or-later
"""When Python is to look for garbage, and when not."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector. As a decorator, while a function runs.

    Reading and compiling a policy allocates many objects, keeps them all and makes no cycles: the collector would go
    through them again and again, for half of the time. Once a pause ends it does so too, so commands are paused whole.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
