# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows: which packets belong to what the firewall's side has sent."""

from __future__ import annotations

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import Instant, Memory


class Flows:
    """The flows at one moment."""

    def __init__(self, memory: Memory, now: Instant) -> None:
        self.memory = memory
        self.now = now

    def state_of(self, packet: Packet) -> ir.State | None:
        """The state of a packet that comes in, which moves its flow on; None: it has none."""
        if packet.family is Family.OTHER or packet.fragment is Fragment.LATER:
            return None
        return ir.State.NEW

    def note_sent(self, packet: Packet) -> None:
        """Takes in that the firewall's side sends a packet."""

    def note_forwarded(self, packet: Packet) -> None:
        """Takes in that a packet that came was sent on through another interface."""
