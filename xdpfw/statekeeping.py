# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that outlive generations, from the side of who changes the policy: taken over, made anew, tidied."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from typing import Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import Grant, SpaTime, State, present_tai_offset_ns
from xdpfw.observe.metadata import KnockMeta, Metadata, service_name

MAX_WINDOW_NS: Final = 86_400 * 1_000_000_000
"""The longest ``window`` that a policy may give SPA messages."""


@contextlib.contextmanager
def inherited(pins: Pins) -> Iterator[State | None]:
    """The instance's state for a generation to be loaded with; None where there is none that it could use.

    That of a version of xdpfw with other maps is none. Needs the instance's lock.
    """
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
def handed_down(pins: Pins, generation: Generation, before: State | None) -> Iterator[None]:
    """Pins the maps of state that a generation made for itself, in place of those that were there.

    Tables that its policy uses and the one ``before`` did not are there first: nobody has anything in the small ones.
    Those that it does not use any more go when it is in force, which is at the end of the context. Needs the instance's
    lock.
    """
    state = generation.state
    assert state is not None
    if before is None:
        try:
            with pins.new_state() as directory:
                state.pin(directory)
            yield
        except BaseException:
            pins.remove_state()
            raise
        return
    grown, shrunk = before.sizes_changed(state)
    state.pin_anew(pins.state, grown)
    yield
    state.pin_anew(pins.state, shrunk)


def tidy(pins: Pins, meta: Metadata, before: int) -> None:
    """Ends what the policy in force no longer grants.

    These are grants of knocks and SPA keys that it does not have, of ports that a knock opens no more, and for another
    scope than it has now. ``before``: the generation whose names their events go by. Needs the instance's lock.
    """
    with State.open(pins.state) as state:
        keys = {key.fingerprint for knock in meta.knocks for key in knock.keys}
        knocks = {knock.id: knock for knock in meta.knocks}
        grants = state.list_grants()
        gone = {grant for grant in grants if not _is_of(grant, knocks.get(grant.knock))}
        state.end_grants(gone, abi.GrantEnd.KNOCK_REMOVED, before)
        unkeyed = [grant for grant in grants if grant not in gone and grant.key and grant.key not in keys]
        state.end_grants(unkeyed, abi.GrantEnd.KEY_REMOVED, before)
        # A key may come back. Until its messages are too old anyway, the last one that was accepted is remembered.
        outdated_ns = time.time_ns() - MAX_WINDOW_NS
        for slot, found in enumerate(state.list_spa_times()):
            if found.fingerprint and found.fingerprint not in keys and found.last_wall_ns < outdated_ns:
                state.write_spa_time(slot, SpaTime(0, 0))


def _is_of(grant: Grant, knock: KnockMeta | None) -> bool:
    """Whether a knock as it is now could have given the grant."""
    if knock is None:
        return False
    scope = knock.scope_v4 if grant.family == abi.Family.IPV4 else knock.scope_v6
    is_opened = not grant.protocol or service_name(grant.protocol, grant.port) in knock.services
    return is_opened and grant.prefix_bits == scope
