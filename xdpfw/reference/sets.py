# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic sets: who is in them, and who is banned."""

from __future__ import annotations

from xdpfw.compiler import ir
from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import Instant, Memory


class Sets:
    """The dynamic sets of a policy at one moment."""

    def __init__(self, policy: ir.Policy, memory: Memory, now: Instant) -> None:
        self.policy = policy
        self.memory = memory
        self.now = now

    def is_banned(self, packet: Packet) -> bool:
        """Whether the source is banned, and nothing says that it never is."""
        del packet
        return False

    def having(self, family: ir.Family, address: int | None) -> frozenset[str]:
        """The names of the sets that an address is in."""
        del family, address
        return frozenset()

    def add(self, add_to: ir.AddTo, packet: Packet) -> None:
        """Puts the packet's source into a set."""
