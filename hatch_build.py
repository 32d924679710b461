# SPDX-License-Identifier: GPL-2.0-or-later
"""Build hook of the wheel: compiles the BPF programs and generates the Python side of their ABI.

Both are made in place, so that an editable install finds them too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GeneratedFiles(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raise SystemExit, below the tools' own messages, where a step fails."""
        root = Path(self.root)
        # No packages: what is missing on the machine is for its owner to install, not for pip.
        make = ["make", "--no-print-directory", "bpf", "BUILD_PACKAGES="]
        try:
            subprocess.run(make, cwd=root, check=True)
            subprocess.run([sys.executable, "xdpfw/kernel/bindings_build.py"], cwd=root, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            remedy = "needs make, clang-16 and libbpf's headers (as root: `make build-packages`); a finished wheel none"
            raise SystemExit(f"{error}\nbuilding xdpfw {remedy}") from None
