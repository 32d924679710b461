# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of packets that a rule routes, as far as that can be said without the kernel's FIB."""

from __future__ import annotations

import ipaddress
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family
from xdpfw.packet.decode import Packet

LAST_HOP: Final = 1
GROUP_BIT: Final = 1 << 40
"""Of a MAC address: it is not one station's."""

NOT_ROUTED_V4: Final = tuple(
    map(ipaddress.IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
)
NOT_ROUTED_V6: Final = tuple(map(ipaddress.IPv6Network, ("::/64", "fe80::/10", "ff00::/8")))


def routed(packet: Packet) -> ir.Verdict:
    """REDIRECT, as if there were a route for every packet; PASS, up the stack, for those that XDP does not forward."""
    if packet.family is Family.OTHER or packet.vlan is not None or packet.dst_mac & GROUP_BIT:
        return ir.Verdict.PASS
    assert packet.ttl is not None
    if packet.ttl <= LAST_HOP or packet.ip_options:
        return ir.Verdict.PASS
    for address in (packet.src, packet.dst):
        assert address is not None
        if not _is_routable(packet.family, address):
            return ir.Verdict.PASS
    return ir.Verdict.REDIRECT


def _is_routable(family: Family, address: int) -> bool:
    """Whether routers pass on what has this source or destination (RFC 1812 section 5.3.7, RFC 4291 section 2.5)."""
    if family is Family.IPV4:
        v4 = ipaddress.IPv4Address(address)
        return not any(v4 in network for network in NOT_ROUTED_V4)
    v6 = ipaddress.IPv6Address(address)
    return not any(v6 in network for network in NOT_ROUTED_V6)
