# SPDX-License-Identifier: GPL-2.0-or-later
"""The action file by which fail2ban bans through xdpfw."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

ACTION_FILE: Final = "fail2ban.conf"


def action(program: str, options: Sequence[str] = ()) -> str:
    """The text of ``action.d/xdpfw.conf``, calling ``program`` with ``options``.

    By its full path, where it is found: a virtual environment is not in the PATH of a service.
    """
    found = shutil.which(program)
    full = str(Path(found).absolute()) if found is not None else "xdpfw"
    text = files(__package__).joinpath(ACTION_FILE).read_text(encoding="utf-8")
    text = text.replace("\nxdpfw = xdpfw\n", f"\nxdpfw = {_value(shlex.quote(full))}\n")
    return text.replace("\noptions =\n", f"\noptions = {_value(shlex.join(options))}\n".replace(" \n", "\n"))


def _value(text: str) -> str:
    """As fail2ban's configuration has it: ``%`` begins an interpolation."""
    return text.replace("%", "%%")
