# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of packets that a rule routes, as far as that can be said without the kernel's FIB."""

from __future__ import annotations

from xdpfw.compiler import ir
from xdpfw.packet.decode import Packet


def routed(packet: Packet) -> ir.Verdict:
    """REDIRECT, as if there were a route for every packet; PASS, up the stack, for those that XDP does not forward."""
    del packet
    return ir.Verdict.PASS
