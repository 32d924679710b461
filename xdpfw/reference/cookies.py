# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN cookies: which packets to protected ports are not passed as they are.

Cookies are made from the kernel's secrets: nothing here knows a right one, and no source is known. Whether a socket
listens is not known, either: one is taken to, as in the kernel's test runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import PROTO_TCP, Packet

if TYPE_CHECKING:
    from xdpfw.reference.interpreter import Decision

SYN, STATE_FLAGS = 0x02, 0x17  # of FIN, SYN, RST, ACK; RFC 9293, section 3.1
GROUP_MAC = 1 << 40  # the lowest bit of the first byte


def challenged(policy: ir.Policy, packet: Packet, state: ir.State, decision: Decision) -> Decision:
    """What becomes of a packet for which the decision is to pass."""
    if packet.proto != PROTO_TCP or packet.dport is None or state is ir.State.ESTABLISHED:
        return decision
    if not any(ports.low <= packet.dport <= ports.high for ports in policy.protect_syn):
        return decision
    assert packet.tcp_flags is not None
    is_syn = packet.tcp_flags & STATE_FLAGS == SYN
    if is_syn and packet.fragment is Fragment.NONE and _is_between_hosts(packet):
        return replace(decision, verdict=ir.Verdict.TX, reason="protect.syn_cookie", rule=None)
    return replace(decision, verdict=ir.Verdict.DROP, reason="protect.bad_cookie", rule=None)


def _is_between_hosts(packet: Packet) -> bool:
    assert packet.src is not None
    assert packet.dst is not None
    if (packet.dst_mac | packet.src_mac) & GROUP_MAC:
        return False
    return all(_is_of_a_host(packet.family, address) for address in (packet.src, packet.dst))


def _is_of_a_host(family: Family, address: int) -> bool:
    """Not a group's, not the loopback's, not "this host": RFC 1122, section 3.2.1.3; RFC 4291, section 2.5."""
    if family is Family.IPV4:
        first = address >> 24
        return first not in (0, 127) and first < 224
    return address >> 120 != 0xFF and address > 1
