# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that outlive generations, from the side of who changes the policy: taken over, made anew, tidied."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.pins import Pins, remove_tree
from xdpfw.kernel.program import Generation, Image
from xdpfw.kernel.state import SpaTime, State, present_tai_offset_ns
from xdpfw.observe.metadata import Metadata


@contextlib.contextmanager
def inherited(pins: Pins, image: Image) -> Iterator[State | None]:
    """The instance's state for a generation to be loaded with; None where there is none that it could use.

    That of a version of xdpfw with other maps is none. Needs the instance's lock.
    """
    if not image.has_state:
        yield None
        return
    try:
        state = State.open(pins.state)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        yield None
        return
    with state:
        if not state.is_of_this_version():
            yield None
            return
        state.set_tai_offset(present_tai_offset_ns())
        yield state


@contextlib.contextmanager
def handed_down(pins: Pins, generation: Generation) -> Iterator[None]:
    """Pins the state of a generation that made its own; an exception in the context puts back what was there.

    Needs the instance's lock.
    """
    if generation.state is None:
        yield
        return
    new, old = pins.state_under_way("new"), pins.state_under_way("old")
    for left in (new, old):
        remove_tree(left)
    with contextlib.ExitStack() as undo:
        undo.callback(remove_tree, new)
        new.mkdir(mode=0o700)
        generation.state.pin(new)
        if pins.state.exists():
            undo.callback(old.rename, pins.state)
            pins.state.rename(old)
        undo.callback(remove_tree, pins.state)
        new.rename(pins.state)
        yield
        undo.pop_all()
    remove_tree(old)


def tidy(pins: Pins, meta: Metadata, generation: int) -> None:
    """Ends what the policy in force no longer grants: grants of knocks and SPA keys that it does not have.

    A policy that has no use for state leaves none. Needs the instance's lock.
    """
    if not meta.has_state:
        remove_tree(pins.state)
        return
    with State.open(pins.state) as state:
        keys = {key.fingerprint for knock in meta.knocks for key in knock.keys}
        knocks = {knock.id for knock in meta.knocks}
        grants = state.list_grants()
        gone = [grant for grant in grants if grant.knock not in knocks]
        state.end_grants(gone, abi.GrantEnd.KNOCK_REMOVED, generation)
        unkeyed = [grant for grant in grants if grant.knock in knocks and grant.key and grant.key not in keys]
        state.end_grants(unkeyed, abi.GrantEnd.KEY_REMOVED, generation)
        for slot, found in enumerate(state.list_spa_times()):
            if found.fingerprint and found.fingerprint not in keys:
                state.write_spa_time(slot, SpaTime(0, 0))
