# SPDX-License-Identifier: GPL-2.0-or-later
"""An Ethernet frame, as the rules see it.

The twin of ``bpf/parse.h``, written apart from it and as plainly as can be: the same checks in the same order, so
that both give the same fields or the same reason for every frame, garbage included. Multi-byte fields are read in
network byte order and held in host order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from xdpfw.compiler.ir import Family, Fragment

MAX_VLAN_TAGS: Final = 4
MAX_EXTENSION_HEADERS: Final = 8

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_VLAN: Final = 0x8100  # IEEE 802.1Q
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPE_QINQ: Final = 0x88A8  # IEEE 802.1ad

PROTO_HOP_BY_HOP: Final = 0
PROTO_ICMP: Final = 1
PROTO_TCP: Final = 6
PROTO_UDP: Final = 17
PROTO_DCCP: Final = 33
PROTO_ROUTING: Final = 43
PROTO_FRAGMENT: Final = 44
PROTO_GRE: Final = 47
PROTO_ESP: Final = 50
PROTO_AH: Final = 51
PROTO_ICMPV6: Final = 58
PROTO_NO_NEXT_HEADER: Final = 59
PROTO_DESTINATION_OPTIONS: Final = 60
PROTO_SCTP: Final = 132
PROTO_MOBILITY: Final = 135
PROTO_UDPLITE: Final = 136

EXTENSION_HEADERS: Final = frozenset(
    {PROTO_HOP_BY_HOP, PROTO_ROUTING, PROTO_FRAGMENT, PROTO_AH, PROTO_DESTINATION_OPTIONS, PROTO_MOBILITY}
)

PORT_HEADER_BYTES: Final = {PROTO_TCP: 20, PROTO_UDP: 8, PROTO_UDPLITE: 8, PROTO_SCTP: 12, PROTO_DCCP: 12}
"""The protocols that have ports, and their shortest headers."""

ICMP_HEADER_BYTES: Final = 8

INVALID_REASONS: Final = (
    "invalid.ethernet",
    "invalid.vlan_tags",
    "invalid.ipv4_header",
    "invalid.ipv4_version",
    "invalid.ipv4_ihl",
    "invalid.ipv4_length",
    "invalid.ipv6_header",
    "invalid.ipv6_version",
    "invalid.ipv6_length",
    "invalid.extension_headers",
    "invalid.extension",
    "invalid.first_fragment",
    "invalid.l4_header",
    "invalid.tcp_offset",
)
"""Every reason for which a frame is invalid, in the order of ``enum xdpfw_reason``."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A frame that cannot be parsed, and why: one of ``INVALID_REASONS``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of a frame that can be parsed. ``None`` where the packet lacks the field."""

    frame_bytes: int
    dst_mac: int  # 48 bits, first byte on the wire is the highest; so is src_mac
    src_mac: int
    ethertype: int  # behind VLAN tags
    vlan: int | None = None  # 12 bits
    inner_vlan: int | None = None
    family: Family = Family.OTHER
    src: int | None = None  # 32 or 128 bits
    dst: int | None = None
    fragment: Fragment | None = None
    fragment_id: int | None = None  # of a fragment
    fragment_edge: int | None = None  # bytes of the datagram's payload: where a first one ends, a later one begins
    length: int | None = None  # IP total length in bytes; IPv6: payload length + 40
    ttl: int | None = None  # or hop limit
    dscp: int | None = None
    ip_options: bool | None = None  # IPv6: an extension header other than fragment
    proto: int | None = None  # upper-layer protocol
    sport: int | None = None
    dport: int | None = None
    tcp_flags: int | None = None  # FIN = bit 0 .. CWR = bit 7
    tcp_seq: int | None = field(default=None, compare=False)
    tcp_ack: int | None = field(default=None, compare=False)
    icmp_type: int | None = None  # of ICMP in IPv4 and ICMPv6 in IPv6
    icmp_code: int | None = None
    icmp_rest: bytes | None = field(default=None, repr=False, compare=False)  # behind the checksum, without padding
    udp_length: int | None = None  # as UDP's own header has it
    payload: bytes | None = field(default=None, repr=False)  # of TCP and UDP: behind the header, without padding


def decode(frame: bytes) -> Packet | Invalid:
    """Parse an Ethernet frame (no FCS) down to its transport header.

    Never raises: what cannot be parsed is :class:`Invalid`. Bytes behind the IP total length are padding.
    """
    if len(frame) < 14:
        return Invalid("invalid.ethernet")
    ethertype = _u16(frame, 12)
    at = 14
    tags: list[int] = []
    while ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
        if len(tags) == MAX_VLAN_TAGS:
            return Invalid("invalid.vlan_tags")
        if len(frame) - at < 4:
            return Invalid("invalid.ethernet")
        tags.append(_u16(frame, at) & 0x0FFF)
        ethertype = _u16(frame, at + 2)
        at += 4
    packet = Packet(
        frame_bytes=len(frame),
        dst_mac=int.from_bytes(frame[0:6]),
        src_mac=int.from_bytes(frame[6:12]),
        ethertype=ethertype,
        vlan=tags[0] if tags else None,
        inner_vlan=tags[1] if len(tags) > 1 else None,
    )
    if ethertype == ETHERTYPE_IPV4:
        return _ipv4(packet, frame[at:])
    if ethertype == ETHERTYPE_IPV6:
        return _ipv6(packet, frame[at:])
    return packet


def _ipv4(packet: Packet, data: bytes) -> Packet | Invalid:
    """RFC 791, section 3.1. ``data`` starts at the IPv4 header and may have padding behind the datagram."""
    if len(data) < 20:
        return Invalid("invalid.ipv4_header")
    if data[0] >> 4 != 4:
        return Invalid("invalid.ipv4_version")
    header_bytes = (data[0] & 0x0F) * 4
    total_bytes = _u16(data, 2)
    if header_bytes < 20 or header_bytes > total_bytes:
        return Invalid("invalid.ipv4_ihl")
    if total_bytes > len(data):
        return Invalid("invalid.ipv4_length")
    more_fragments = bool(_u16(data, 6) & 0x2000)
    edge = None
    if _u16(data, 6) & 0x1FFF:
        fragment = Fragment.LATER
        edge = (_u16(data, 6) & 0x1FFF) * 8
    elif more_fragments:
        fragment = Fragment.FIRST
        edge = total_bytes - header_bytes
    else:
        fragment = Fragment.NONE
    packet = replace(
        packet,
        family=Family.IPV4,
        src=int.from_bytes(data[12:16]),
        dst=int.from_bytes(data[16:20]),
        fragment=fragment,
        fragment_id=None if edge is None else _u16(data, 4),
        fragment_edge=edge,
        length=total_bytes,
        ttl=data[8],
        dscp=data[1] >> 2,
        ip_options=header_bytes > 20,
        proto=data[9],
    )
    return _transport(packet, data[header_bytes:total_bytes])


def _ipv6(packet: Packet, data: bytes) -> Packet | Invalid:
    """RFC 8200, sections 3 and 4; AH: RFC 4302, section 2.2. ``data`` starts at the IPv6 header."""
    if len(data) < 40:
        return Invalid("invalid.ipv6_header")
    if data[0] >> 4 != 6:
        return Invalid("invalid.ipv6_version")
    total_bytes = 40 + _u16(data, 4)
    if total_bytes > len(data):
        return Invalid("invalid.ipv6_length")
    data = data[:total_bytes]
    next_header = data[6]
    at = 40
    walked = 0
    fragment = Fragment.NONE
    fragment_id = edge = None
    options = False
    while next_header in EXTENSION_HEADERS:
        if walked == MAX_EXTENSION_HEADERS:
            return Invalid("invalid.extension_headers")
        walked += 1
        cut_short = Invalid("invalid.first_fragment" if fragment is Fragment.FIRST else "invalid.extension")
        if total_bytes - at < 8:
            return cut_short
        if next_header == PROTO_FRAGMENT:
            header_bytes = 8
            if _u16(data, at + 2) & 0xFFF8:
                fragment = Fragment.LATER
                edge = _u16(data, at + 2) & 0xFFF8
                fragment_id = int.from_bytes(data[at + 4 : at + 8])
            elif data[at + 3] & 1:
                fragment = Fragment.FIRST
                edge = total_bytes - at - 8
                fragment_id = int.from_bytes(data[at + 4 : at + 8])
        elif next_header == PROTO_AH:
            header_bytes = (data[at + 1] + 2) * 4
            options = True
        else:
            header_bytes = (data[at + 1] + 1) * 8
            options = True
        if header_bytes > total_bytes - at:
            return cut_short
        next_header = data[at]
        at += header_bytes
        if fragment is Fragment.LATER:
            break
    packet = replace(
        packet,
        family=Family.IPV6,
        src=int.from_bytes(data[8:24]),
        dst=int.from_bytes(data[24:40]),
        fragment=fragment,
        fragment_id=fragment_id,
        fragment_edge=edge,
        length=total_bytes,
        ttl=data[7],
        dscp=_u16(data, 0) >> 6 & 0x3F,
        ip_options=options,
        proto=next_header,
    )
    return _transport(packet, data[at:])


def _transport(packet: Packet, data: bytes) -> Packet | Invalid:
    """The transport header at the start of ``data``, which ends where the IP packet does."""
    if packet.fragment is Fragment.LATER:
        return packet
    cut_short = Invalid("invalid.first_fragment" if packet.fragment is Fragment.FIRST else "invalid.l4_header")
    if packet.proto in PORT_HEADER_BYTES:
        if len(data) < PORT_HEADER_BYTES[packet.proto]:
            return cut_short
        packet = replace(packet, sport=_u16(data, 0), dport=_u16(data, 2))
    if packet.proto == PROTO_TCP:
        header_bytes = (data[12] >> 4) * 4
        if header_bytes < 20:
            return Invalid("invalid.tcp_offset")
        if header_bytes > len(data):
            return cut_short
        seq, ack = int.from_bytes(data[4:8]), int.from_bytes(data[8:12])
        return replace(packet, tcp_flags=data[13], tcp_seq=seq, tcp_ack=ack, payload=data[header_bytes:])
    if packet.proto == PROTO_UDP:
        return replace(packet, udp_length=_u16(data, 4), payload=data[8:])
    if has_icmp_header(packet.family, packet.proto):
        if len(data) < ICMP_HEADER_BYTES:
            return cut_short
        return replace(packet, icmp_type=data[0], icmp_code=data[1], icmp_rest=data[4:])
    return packet


def has_icmp_header(family: Family, proto: int | None) -> bool:
    """Whether this is ICMP: that of IPv4 in IPv6 is not, nor the other way round."""
    return (family, proto) in ((Family.IPV4, PROTO_ICMP), (Family.IPV6, PROTO_ICMPV6))


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]
