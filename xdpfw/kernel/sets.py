# SPDX-License-Identifier: GPL-2.0-or-later
"""Where dynamic sets are: each has a slot of the maps ``set_heads`` and ``dynamic_sets``.

Which slot is which set's is with the names of a generation. What is in a set is xdpfw.kernel.members'.
"""

from __future__ import annotations

import errno
import sys
from typing import Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.libbpf import check, libbpf
from xdpfw.kernel.maps import KEY_BYTES, ArrayMap, HashMap

FLAG_NO_PREALLOC: Final = 1
"""A set takes up memory for what is in it (and 16 bytes for each that there is room for)."""


def create_members(size: int) -> HashMap:
    """A new map of members, which has room for ``size`` of them. Raises KernelError."""
    return HashMap.create("members", abi.size_of("member_key"), abi.size_of("member"), size, map_flags=FLAG_NO_PREALLOC)


def members_at(dynamic_sets: ArrayMap, slot: int) -> HashMap | None:
    """The members of the set in a slot; None where there is no set. Raises KernelError."""
    number = map_id(dynamic_sets, slot)
    if number is None:
        return None
    return HashMap(check(libbpf().bpf_map_get_fd_by_id(number), "open", f"the set in slot {slot}"))


def put_members(dynamic_sets: ArrayMap, slot: int, members: HashMap) -> None:
    """Makes ``members`` what programs find in a slot. No program that found others is running any more then."""
    dynamic_sets.write(slot, members.fileno().to_bytes(KEY_BYTES, sys.byteorder))


def make_set(set_heads: ArrayMap, dynamic_sets: ArrayMap, slot: int, size: int) -> None:
    """Puts a new, empty set into a slot that no program uses. Raises KernelError; then nothing is there."""
    remove_set(set_heads, dynamic_sets, slot)  # a process that was killed may have left one
    with create_members(size) as members:
        put_members(dynamic_sets, slot, members)


def remove_set(set_heads: ArrayMap, dynamic_sets: ArrayMap, slot: int) -> None:
    """Leaves a slot that no program uses empty; it may be already."""
    if map_id(dynamic_sets, slot) is None:
        return
    result = libbpf().bpf_map_delete_elem(dynamic_sets.fileno(), slot.to_bytes(KEY_BYTES, sys.byteorder))
    check(result, "remove", f"the set in slot {slot}")
    set_heads.write(slot, bytes(set_heads.value_size))


def map_id(dynamic_sets: ArrayMap, slot: int) -> int | None:
    """The kernel's number of the map of members in a slot: no other map ever has it. None where there is no set."""
    try:
        return int.from_bytes(dynamic_sets.read(slot), sys.byteorder)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
