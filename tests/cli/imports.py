# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command imports, which is most of what a quick one takes."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

SLOW_IMPORTS: Final = {"numpy", "pydantic", "pyroute2", "rich", "scapy", "yaml"}
"""Each takes some 50 to 200 ms, of the 200 that ``stats``, ``status`` and ``--help`` have."""


def imported(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules)); "
        "from xdpfw.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, check=True, text=True, timeout=30
    )
    return set(done.stdout.rpartition("MODULES")[2].split())
