# SPDX-License-Identifier: GPL-2.0-or-later
"""Fragments: what became of first ones, which later ones follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import Instant, Memory

if TYPE_CHECKING:
    from xdpfw.reference.interpreter import Decision


class Fragments:
    """What is known of datagrams' first fragments at one moment."""

    def __init__(self, memory: Memory, now: Instant) -> None:
        self.memory = memory
        self.now = now

    def remember(self, packet: Packet, decision: Decision) -> None:
        """Takes in what became of a first fragment."""

    def first_of(self, packet: Packet) -> Decision | None:
        """What became of a later fragment's first one; None where that is not known."""
        del packet
        return None
