# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``protect`` needs of the TCP stack: asked for by apply, put back in the end.

A socket takes the cookies back that XDP sends in its name only where net.ipv4.tcp_syncookies is 2. What was there
before is pinned in the instance's directory before it is changed and until it is put back, so that a process that is
killed in between leaves nothing that the next apply or detach would not know of.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from typing import Final

from xdpfw.errors import KernelError
from xdpfw.kernel import sysctl
from xdpfw.kernel.features import syn_cookies
from xdpfw.kernel.interface import namespace
from xdpfw.kernel.maps import Blob
from xdpfw.kernel.pins import Pins, instances
from xdpfw.kernel.sysctl import Syncookies

_SETTING: Final = "net.ipv4.tcp_syncookies"


@contextlib.contextmanager
def wanted(pins: Pins, netns: str | None) -> Iterator[tuple[str, ...]]:
    """Sees to the setting, of the caller's namespace, which has this name; yields notes for the user.

    Where the context raises, it is as it was. Needs the instance's lock. Raises KernelError where this kernel can't
    do what ``protect`` needs.
    """
    check = syn_cookies()
    if not check.ok:
        raise KernelError("set up", f"protect: {check.detail}", errno.EOPNOTSUPP, hint=check.fix)
    found, here = sysctl.syncookies(), sysctl.present_namespace()
    known = _left_by(pins)
    if known is not None and (found, here) != (sysctl.ALWAYS, known.namespace):
        put_back(pins)  # somebody has changed it since, or the interfaces are elsewhere now
        known = None
    try:
        with pins.lock_all():
            # Read again: another instance may have put it back before this one had the lock.
            found = sysctl.syncookies()
            if known is None:
                before = _before_others(pins, here) if found == sysctl.ALWAYS else found
                _keep(pins, Syncookies(before, here, netns))
            if found != sysctl.ALWAYS:
                sysctl.set_syncookies(sysctl.ALWAYS)
        changed = f"{_SETTING} is {sysctl.ALWAYS} now, as protect needs it; it was {found}, and is again after detach"
        yield (changed,) if found != sysctl.ALWAYS else ()
    except BaseException:
        if known is None:
            with contextlib.suppress(KernelError):
                put_back(pins)
        raise


def put_back(pins: Pins) -> tuple[str, ...]:
    """Puts the setting back to what it was, if this instance has asked for it; returns notes for the user.

    Needs the instance's lock. Raises KernelError.
    """
    known = _left_by(pins)
    if known is None:
        return ()
    notes: tuple[str, ...] = ()
    with pins.lock_all(), contextlib.ExitStack() as entered:
        with contextlib.suppress(KernelError):  # it may be gone
            entered.enter_context(namespace(known.netns))
        other = next(_others_in(pins, known.namespace), None)
        if other is not None:
            notes = (f"{_SETTING} stays {sysctl.ALWAYS}: instance {other[0]} needs it",)
        elif sysctl.put_back(known):
            notes = (f"{_SETTING} is {known.before} again",)
        pins.syncookies.unlink()
    return notes


def _before_others(pins: Pins, inode: int) -> int:
    """What was there before another instance changed it to ALWAYS; ALWAYS if none has."""
    return next((known.before for _, known in _others_in(pins, inode)), sysctl.ALWAYS)


def _others_in(pins: Pins, inode: int) -> Iterator[tuple[str, Syncookies]]:
    """The other instances that need the setting in this namespace."""
    for other in instances(pins.bpffs):
        known = None if other == pins.instance else _left_by(Pins(other, pins.bpffs))
        if known is not None and known.namespace == inode:
            yield other, known


def _keep(pins: Pins, known: Syncookies) -> None:
    with Blob.create("syncookies", json.dumps(known).encode()) as blob:
        blob.pin(str(pins.syncookies))


def _left_by(pins: Pins) -> Syncookies | None:
    """What this instance has to put back; None where it has asked for nothing. Raises KernelError."""
    if not pins.syncookies.exists():
        return None
    try:
        with Blob.open(str(pins.syncookies)) as blob:
            return Syncookies(*json.loads(blob.read()))
    except KernelError as error:
        if error.errno == errno.ENOENT:  # another instance's, which has put it back meanwhile
            return None
        raise
