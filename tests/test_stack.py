# SPDX-License-Identifier: GPL-2.0-or-later
"""How deep the program's stack can get, as Linux before 6.8 counts it.

Functions behind each other have 512 bytes. Later kernels round each one up to 16 bytes, earlier ones to 32, so that
what loads here may not load there (kernel/bpf/verifier.c, check_max_stack_depth).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

from xdpfw.kernel.loader import EGRESS, OBJECT, PROGRAM

MOST_BYTES = 512
ROUNDED_TO = 32
CALLED_BACK = {"sweep_grants": ["sweep_entry"], "add_source": ["sweep_member"]}
"""Functions that a helper calls: no call instruction names them."""

pytestmark = pytest.mark.skipif(not shutil.which("llvm-objdump-16"), reason="needs llvm-objdump-16 (llvm-16)")


@cache
def functions() -> dict[str, tuple[int, frozenset[str]]]:
    """Stack bytes of each function, and whom it calls."""
    listing = subprocess.run(
        ["llvm-objdump-16", "-dr", str(OBJECT)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found: dict[str, tuple[int, frozenset[str]]] = {}
    for part in re.split(r"(?m)^(?=[0-9a-f]+ <[a-z]\w*>:$)", listing)[1:]:
        name = part[part.index("<") + 1 : part.index(">")]
        depth = max((int(offset, 16) for offset in re.findall(r"r10 [-+] -?0x([0-9a-f]+)", part)), default=0)
        calls = frozenset(re.findall(r"R_BPF_64_32\s+(\w+)", part)) | frozenset(CALLED_BACK.get(name, ()))
        found[name] = (-(-max(depth, 1) // ROUNDED_TO) * ROUNDED_TO, calls)
    return found


def deepest(name: str) -> tuple[int, list[str]]:
    """The bytes of the longest way down from a function, and the functions on it."""
    own, calls = functions()[name]
    below, path = max((deepest(called) for called in calls), default=(0, []))
    return own + below, [name, *path]


@pytest.mark.parametrize("program", [PROGRAM, EGRESS])
def test_the_stack_is_deep_enough_on_older_kernels(program: str) -> None:
    depth, path = deepest(program)
    assert program == EGRESS or len(path) > 2
    assert depth <= MOST_BYTES, " → ".join(f"{name} {functions()[name][0]}" for name in path)


def test_all_that_is_called_back_is_known() -> None:
    called = {name for _, calls in functions().values() for name in calls}
    assert set(functions()) - called == {PROGRAM, EGRESS}
