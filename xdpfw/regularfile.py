# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening files that a user names, so that none keeps a command waiting."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

_GIVEN: Final = re.compile(r"/dev/(stdin|fd/[0-9]+)|/proc/self/fd/[0-9]+")
"""Descriptors that the caller has opened: a pipe there has somebody at its other end."""

_NULL: Final = os.makedev(1, 3)
"""Device numbers of Linux do not change: Documentation/admin-guide/devices.txt."""

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: str, flags: int) -> int:
    """An ``opener`` for ``open``: a descriptor of a regular file, of ``/dev/null``, or of what the caller has opened.

    Raises OSError where the file is something else. Directories are left to ``open``, which refuses them.
    """
    if _GIVEN.fullmatch(path):
        return os.open(path, flags)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO would wait for a writer
    try:
        status = os.fstat(descriptor)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is not None and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
            raise OSError(errno.EINVAL, f"it is {kind}, and no regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
