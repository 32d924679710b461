# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic sets: who is in them, and who is banned."""

from __future__ import annotations

from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family
from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import ADDRESS_BITS, Event, EventKind, Instant, Member, MemberKey, Memory

SECOND_NS: Final = 1_000_000_000
LONGEST_SWEEP_INTERVAL_NS: Final = 10 * SECOND_NS
SWEEP_MEMBERS: Final = 8192
"""One packet looks at no more; at which of them is the kernel's affair."""

BANS_SIZE: Final = 1 << 18
"""Of the bans, where the policy says nothing of them."""


class Sets:
    """The dynamic sets of a policy at one moment."""

    def __init__(self, policy: ir.Policy, memory: Memory, now: Instant) -> None:
        self.policy = policy
        self.memory = memory
        self.now = now
        self.events: list[Event] = []
        self._sets = {ir.BANS: ir.DynamicSet(ir.BANS, BANS_SIZE), **{each.name: each for each in policy.dynamic_sets}}

    def is_banned(self, packet: Packet) -> bool:
        """Whether the source is banned, and nothing says that it never is."""
        return self._has(ir.BANS, packet.family, packet.src) and not self._is_never_banned(packet)

    def having(self, family: Family, address: int | None) -> frozenset[str]:
        """The names of the sets that an address is in."""
        return frozenset(name for name in self._sets if self._has(name, family, address))

    def add(self, add_to: ir.AddTo, packet: Packet) -> None:
        """Puts the packet's source into a set, or has it stay longer, never shorter.

        A set is not written for less than a second more, or a quarter of the time where that is less. The bans do not
        take those whom no ban is for.
        """
        if packet.src is None:
            return
        members = self.memory.members.setdefault(add_to.set, {})
        key = MemberKey(packet.family, packet.src, ADDRESS_BITS[packet.family])
        time_ns = self._sets[add_to.set].timeout_ns if add_to.timeout_ns is None else add_to.timeout_ns
        until_ns = None if time_ns is None else self.now.boot_ns + time_ns
        held = members.get(key)
        is_new = held is None or held.is_over(self.now)
        if held is not None and held.until_ns is None:
            return
        if held is not None and not is_new and until_ns is not None and time_ns is not None:
            assert held.until_ns is not None
            if until_ns < held.until_ns + min(SECOND_NS, time_ns // 4):
                return
        if add_to.set == ir.BANS and self._is_never_banned(packet):
            return
        if held is None and not self._has_room(add_to.set):
            self.memory.sets_refused[add_to.set] = self.memory.sets_refused.get(add_to.set, 0) + 1
            return
        members[key] = Member(until_ns, self.now.boot_ns if held is None or is_new else held.added_ns)
        if is_new:
            self.events.append(Event(EventKind.SET_ADD, None, set=add_to.set, duration_ns=time_ns or 0))

    def _has(self, name: str, family: Family, address: int | None) -> bool:
        if address is None:
            return False
        bits = ADDRESS_BITS[family]
        return any(
            key.family is family and (key.prefix ^ address) >> bits - key.prefix_bits == 0
            for key, member in self.memory.members.get(name, {}).items()
            if not member.is_over(self.now)
        )

    def _is_never_banned(self, packet: Packet) -> bool:
        never = self.policy.never_ban
        if never is None or packet.src is None:
            return False
        return never.contains(packet.family, packet.src) or any(
            self._has(name, packet.family, packet.src) for name in never.dynamic
        )

    def _has_room(self, name: str) -> bool:
        """Makes some, at most once a second, and where nothing was over, not before a member's time may be."""
        members, now_ns = self.memory.members[name], self.now.boot_ns
        if len(members) < self._sets[name].size:
            return True
        if now_ns < self.memory.sweep_sets_from_ns.get(name, 0):
            return False
        seen = list(members.items())[:SWEEP_MEMBERS]
        over = [key for key, member in seen if member.is_over(self.now)]
        for key in over:
            del members[key]
        ends = [member.until_ns for _, member in seen if member.until_ns is not None]
        first_ns = min([*ends, now_ns + LONGEST_SWEEP_INTERVAL_NS])
        self.memory.sweep_sets_from_ns[name] = max(first_ns, now_ns + SECOND_NS)
        return len(members) < self._sets[name].size
