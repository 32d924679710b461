# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that outlive generations, from the side of who changes the policy: taken over, made anew, tidied."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from typing import Final

from xdpfw.compiler import ir
from xdpfw.errors import CapacityError, KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.members import MemberSet
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.kernel.sets import make_set, remove_set
from xdpfw.kernel.state import Grant, SpaTime, State, boot_ns, present_tai_offset_ns
from xdpfw.observe import metadata
from xdpfw.observe.metadata import DynamicSetMeta, KnockMeta, Metadata, service_name

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


def assigned_sets(pins: Pins, sets: Sequence[ir.DynamicSet], present: int | None) -> tuple[DynamicSetMeta, ...]:
    """The policy's dynamic sets, each in the slot that it has in generation ``present``, or else in one that is free.

    Raises CapacityError where there are not enough. Needs the instance's lock.
    """
    known = {number: metadata.read(pins.generation(number)).dynamic_sets for number in pins.generations()}
    slots = {each.name: each.slot for each in known.get(present, ())} if present is not None else {}
    slots[ir.BANS] = int(abi.SetLimit.BANS_SLOT)
    taken = {each.slot for found in known.values() for each in found}.union(slots.values())
    free = (slot for slot in range(abi.SetLimit.SET_SLOTS) if slot not in taken)
    for each in sets:
        if each.name not in slots:
            slot = next(free, None)
            if slot is None:
                raise CapacityError(
                    "the dynamic sets of this policy and the one before are too many", hint="apply again"
                )
            slots[each.name] = slot
    return tuple(DynamicSetMeta(each.name, slots[each.name], each.size, each.timeout_ns) for each in sets)


@contextlib.contextmanager
def sets_prepared(pins: Pins, state: State, sets: Sequence[DynamicSetMeta], present: int | None) -> Iterator[None]:
    """Makes those that generation ``present`` does not have, for the context, in which the switch to them is.

    An exception in it removes them. Raises CapacityError where a set has more members than it is to have room for.
    Needs the instance's lock.
    """
    before = set()
    if present is not None:
        before = {each.slot for each in metadata.read(pins.generation(present)).dynamic_sets}
    with contextlib.ExitStack() as undo:
        for each in sets:
            found = MemberSet.open(state, each.slot) if each.slot in before else None
            if found is None:
                undo.callback(remove_set, state.set_heads, state.dynamic_sets, each.slot)
                make_set(state.set_heads, state.dynamic_sets, each.slot, each.size)
                continue
            with found:
                _check_size(found, each)
        yield
        undo.pop_all()


def sets_foreseen(pins: Pins, before: Sequence[DynamicSetMeta], sets: Sequence[ir.DynamicSet]) -> list[str]:
    """A line for each dynamic set in force that a policy with ``sets`` has no room for, or has no more.

    Changes nothing, and needs no lock: entries come and go until ``apply``.
    """
    wanted = {each.name: each for each in sets}
    lines = []
    with contextlib.ExitStack() as opened:
        try:
            state = opened.enter_context(State.open(pins.state))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return []
        if not state.is_of_this_version():
            return []
        for each in before:
            found = MemberSet.open(state, each.slot)
            if found is None:
                continue
            opened.enter_context(found)
            if (after := wanted.get(each.name)) is None:
                if live := found.count(boot_ns()):
                    lines.append(
                        f"apply would end dynamic set {each.name}, and with it entries that are live: {live:,}"
                    )
                continue
            try:
                _check_size(found, after)
            except CapacityError as error:
                lines.append(f"apply would refuse: {error}")
    return lines


def _check_size(found: MemberSet, wanted: ir.DynamicSet | DynamicSetMeta) -> None:
    """Raises CapacityError where more entries are live than there is to be room for."""
    if found.size > wanted.size and (live := found.count(boot_ns())) > wanted.size:
        raise CapacityError(
            f"dynamic set {wanted.name}: {live:,} members, and a size of {wanted.size:,}",
            hint=f"a larger size, or xdpfw set flush {wanted.name}",
        )


def settle_sets(state: State, sets: Sequence[DynamicSetMeta]) -> None:
    """Removes the dynamic sets of policies that are no more, and gives the others their sizes. Needs the lock."""
    slots = {each.slot for each in sets}
    for slot in range(state.dynamic_sets.max_entries):
        if slot not in slots:
            remove_set(state.set_heads, state.dynamic_sets, slot)
    for each in sets:
        found = MemberSet.open(state, each.slot)
        if found is None:
            make_set(state.set_heads, state.dynamic_sets, each.slot, each.size)
            continue
        with found:
            if found.size != each.size:
                found.resize(state, each.size, boot_ns())


def tidy(pins: Pins, meta: Metadata, before: int) -> None:
    """Ends what the policy in force no longer grants.

    These are grants of knocks and SPA keys that it does not have, of ports that a knock opens no more, and for another
    scope than it has now. ``before``: the generation whose names their events go by. Needs the instance's lock.
    """
    with State.open(pins.state) as state:
        settle_sets(state, meta.dynamic_sets)
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
