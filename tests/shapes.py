# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to have the compiler build the tables of a small policy as it does those of a large one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Final

import pytest

from xdpfw.compiler import fields, grouping, rows, trie

Setting = tuple[ModuleType, str, object]

_GROUPED: Final[tuple[Setting, ...]] = ((grouping, "WIDE_ONLY", 0),)

SHAPES: Final[dict[str, tuple[Setting, ...]]] = {
    "bit vectors": (),
    "pairs and rows": _GROUPED,
    "dispatched rows": (*_GROUPED, (rows, "LONGEST_LIST", 1), (trie, "MIN_WIDE_BOUNDARIES", 1)),
    "several field groups": (*_GROUPED, (rows, "LONGEST_LIST", 2), (fields, "MAX_COMBINATIONS", 48)),
    "few narrow addresses": (*_GROUPED, (grouping, "THRESHOLDS", (24,)), (fields, "MAX_COMBINATIONS", 1024)),
}


@contextlib.contextmanager
def shaped(name: str) -> Iterator[None]:
    """The compiler decides for SHAPES[name] where its own thresholds would not have it so."""
    with pytest.MonkeyPatch.context() as patch:
        for module, constant, value in SHAPES[name]:
            patch.setattr(module, constant, value)
        yield
