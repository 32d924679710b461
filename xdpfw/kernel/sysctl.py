# SPDX-License-Identifier: GPL-2.0-or-later
"""The one setting of the TCP stack that the firewall changes: net.ipv4.tcp_syncookies, of IPv6, too.

A socket takes a cookie back only if it has made some itself lately, which it does for every SYN where the setting is
2 (Linux, net/ipv4/tcp_ipv4.c and syncookies.c). It is a network namespace's: all here is about the caller's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple

from xdpfw.errors import KernelError

PATH: Final = Path("/proc/sys/net/ipv4/tcp_syncookies")
ALWAYS: Final = 2

_REMEDY: Final = "sysctl -w net.ipv4.tcp_syncookies=2 where the network namespace is managed, then apply again"


class Syncookies(NamedTuple):
    """What was found before the firewall changed it, and in which network namespace: the inode of its file in nsfs.

    ``netns`` is its name, if the firewall knows it by one.
    """

    before: int
    namespace: int
    netns: str | None = None


def syncookies() -> int:
    """Raises KernelError where this kernel was built without."""
    try:
        return int(PATH.read_text(encoding="ascii"))
    except OSError as error:
        hint = "a kernel with CONFIG_SYN_COOKIES=y" if error.errno == errno.ENOENT else None
        raise KernelError("read", str(PATH), error.errno or errno.EIO, hint=hint) from None


def set_syncookies(value: int) -> None:
    """Raises KernelError, which says what to do, where it cannot be set from here: in many containers, say."""
    try:
        PATH.write_text(str(value), encoding="ascii")
    except OSError as error:
        raise KernelError("write", str(PATH), error.errno or errno.EIO, hint=_REMEDY) from None


def present_namespace() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def put_back(known: Syncookies) -> bool:
    """Sets it to what it was, unless somebody has changed it since or this is another namespace; True if it did."""
    if known.before == ALWAYS or known.namespace != present_namespace() or syncookies() != ALWAYS:
        return False
    set_syncookies(known.before)
    return True
