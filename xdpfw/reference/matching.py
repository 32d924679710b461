# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a packet meets the conditions of a rule, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.packet.decode import Packet

Observation = dict[str, int | None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a packet's addresses beside their numbers: grants, and members of dynamic sets, by name."""

    knocked: frozenset[str] = frozenset()  # knocks that the source holds a grant of
    src_sets: frozenset[str] = frozenset()
    dst_sets: frozenset[str] = frozenset()


NO_STANDING: Final = Standing()


def observe(packet: Packet, interface: int | None, state: ir.State | None = None) -> Observation:
    """The packet's value of each field of ``ir.Match`` that is a plain number; None where it lacks the field."""
    return {
        "interface": interface,
        "family": packet.family,
        "ethertype": packet.ethertype,
        "vlan": ir.NO_TAG if packet.vlan is None else packet.vlan,
        "inner_vlan": ir.NO_TAG if packet.inner_vlan is None else packet.inner_vlan,
        "proto": packet.proto,
        "sport": packet.sport,
        "dport": packet.dport,
        "fragment": packet.fragment,
        "length": packet.length,
        "ttl": packet.ttl,
        "dscp": packet.dscp,
        "ip_options": packet.ip_options,
        "state": state,
    }


def unmet(match: ir.Match, packet: Packet, observation: Observation, standing: Standing = NO_STANDING) -> str | None:
    """The field of ``match`` whose condition is the first that ``packet`` does not meet; None if it meets all."""
    for field, value in observation.items():
        ranges = getattr(match, field)
        if ranges is not None and not _within(ranges, value):
            return field
    if match.src is not None and not _is_among(match.src, packet.family, packet.src, standing.src_sets):
        return "src"
    if match.dst is not None and not _is_among(match.dst, packet.family, packet.dst, standing.dst_sets):
        return "dst"
    if match.src_mac is not None and not any(packet.src_mac & mask == value for value, mask in match.src_mac):
        return "src_mac"
    if match.dst_mac is not None and not any(packet.dst_mac & mask == value for value, mask in match.dst_mac):
        return "dst_mac"
    if match.tcp_flags is not None and not any(_flags_hold(want, packet.tcp_flags) for want in match.tcp_flags):
        return "tcp_flags"
    if match.icmp is not None and not any(_icmp_holds(want, packet) for want in match.icmp):
        return "icmp"
    if match.knocked is not None and not standing.knocked.intersection(match.knocked):
        return "knocked"
    return None


def _is_among(wanted: ir.AddressRanges, family: ir.Family, address: int | None, sets: frozenset[str]) -> bool:
    if address is None:
        return False
    return wanted.contains(family, address) or not sets.isdisjoint(wanted.dynamic)


def _within(ranges: ir.Ranges, value: int | None) -> bool:
    return value is not None and any(low <= value <= high for low, high in ranges)


def _flags_hold(want: ir.TcpFlags, flags: int | None) -> bool:
    return flags is not None and flags & want.set == want.set and flags & want.clear == 0


def _icmp_holds(want: ir.IcmpMessage, packet: Packet) -> bool:
    return (
        packet.icmp_type is not None
        and packet.proto == want.protocol
        and _within((want.type,), packet.icmp_type)
        and _within((want.code,), packet.icmp_code)
    )
