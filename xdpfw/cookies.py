# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``protect`` needs of the TCP stack: asked for by apply, kept in the generation's metadata, put back in the end.

A socket takes the cookies back that XDP sends in its name only where net.ipv4.tcp_syncookies is 2.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from xdpfw.errors import KernelError
from xdpfw.kernel import sysctl
from xdpfw.kernel.features import syn_cookies
from xdpfw.kernel.pins import Pins, instances
from xdpfw.kernel.sysctl import Syncookies
from xdpfw.observe import metadata

_SETTING = "net.ipv4.tcp_syncookies"


def before(pins: Pins, number: int | None) -> Syncookies | None:
    """What the generation in force, of this number, has to put back."""
    return None if number is None else metadata.read(pins.generation(number)).syncookies


@contextlib.contextmanager
def wanted(known: Syncookies | None) -> Iterator[tuple[Syncookies, tuple[str, ...]]]:
    """Sees to the setting, of the caller's namespace: what is to be put back, and notes for the user.

    Where the context raises, it is as it was. Raises KernelError where this kernel can't do what ``protect`` needs.
    """
    check = syn_cookies()
    if not check.ok:
        raise KernelError("set up", f"protect: {check.detail}", errno.EOPNOTSUPP, hint=check.fix)
    found = sysctl.syncookies()
    with sysctl.always(known) as kept:
        changed = f"{_SETTING} is {sysctl.ALWAYS} now, as protect needs it; it was {found}, and is again after detach"
        yield kept, (changed,) if found != sysctl.ALWAYS else ()


def put_back(pins: Pins, known: Syncookies) -> tuple[str, ...]:
    """Puts the setting back to what it was, in the caller's namespace; returns notes for the user.

    Raises KernelError.
    """
    if known.before == sysctl.ALWAYS:
        return ()
    for other in instances(pins.bpffs):
        if other != pins.instance and _needs(Pins(other, pins.bpffs), known.namespace):
            return (f"{_SETTING} stays {sysctl.ALWAYS}: instance {other} needs it",)
    return (f"{_SETTING} is {known.before} again",) if sysctl.put_back(known) else ()


def left_by(pins: Pins) -> Syncookies | None:
    """What is to be put back once the instance is gone; None: nothing is."""
    for number in reversed(pins.generations()):
        with contextlib.suppress(KernelError, KeyError, TypeError, ValueError):
            return before(pins, number)
    return None


def _needs(pins: Pins, inode: int) -> bool:
    left = left_by(pins)
    return left is not None and left.namespace == inode
