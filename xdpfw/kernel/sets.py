# SPDX-License-Identifier: GPL-2.0-or-later
"""Where dynamic sets are: each has a slot of the maps ``set_heads`` and ``dynamic_sets``.

Which slot is which set's is with the names of a generation. What is in a set is xdpfw.kernel.members'.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Final, Self

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.libbpf import check, libbpf
from xdpfw.kernel.maps import KEY_BYTES, ArrayMap, HashMap
from xdpfw.kernel.ring import halves

FAMILY_BITS: Final = 32
"""That come before the address in a key of ``never_ban``."""

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


class NeverBan(HashMap):
    """The prefixes that no ban is for, of a generation; ``slots`` are of the dynamic sets whose members join them."""

    slots: tuple[int, ...]

    @classmethod
    def open_of(cls, directory: Path) -> Self:
        """That of the generation which is pinned in ``directory``. Raises KernelError."""
        never = cls.open(str(directory / "never_ban"))
        with ArrayMap.open(str(directory / "config")) as pinned:
            config = abi.unpack("config", pinned.read(0))
        never.slots = tuple(
            config.set_slots[number] for number in range(config.set_count) if config.never_ban_sets >> number & 1
        )
        return never

    def has(self, family: int, address: int, bits: int) -> bool:
        """Whether a prefix, whose first address is this, lies in one of them."""
        high, low = halves(family, address)
        address_be = (high << 64 | low).to_bytes(16)
        return self.read(abi.pack("never_ban_key", [FAMILY_BITS + bits, family, address_be])) is not None


def map_id(dynamic_sets: ArrayMap, slot: int) -> int | None:
    """The kernel's number of the map of members in a slot: no other map ever has it. None where there is no set."""
    try:
        return int.from_bytes(dynamic_sets.read(slot), sys.byteorder)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
