# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN cookies: which packets to protected ports are not passed as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdpfw.compiler import ir
from xdpfw.packet.decode import Packet

if TYPE_CHECKING:
    from xdpfw.reference.interpreter import Decision


def challenged(policy: ir.Policy, packet: Packet, state: ir.State) -> Decision | None:
    """What becomes of a packet that is to pass; None: it does."""
    del policy, packet, state
    return None
