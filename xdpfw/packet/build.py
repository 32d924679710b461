# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames from fields: the smallest right header of each protocol, with right lengths and checksums."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet import decode

IDENTIFICATION: Final = 1  # the same in all fragments
LATER_FRAGMENT_OFFSET: Final = 185  # in 8 bytes: behind a first fragment that fills 1,500 bytes
SYN: Final = 0x02
ACK: Final = 0x10
DCCP_DATA: Final = 2  # RFC 4340, section 5.1: a packet type that may have the short header


@dataclass(frozen=True, slots=True, kw_only=True)
class IpPacket:
    """What varies in an IP packet. Fields that the protocol lacks are not looked at."""

    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address  # of the same version
    proto: int
    sport: int = 0
    dport: int = 0
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    ttl: int = 64
    dscp: int = 0
    fragment: Fragment = Fragment.NONE
    options: bool = False  # three no-operations in IPv4, an empty hop-by-hop header in IPv6
    transport_header: bool = True  # False: the payload follows the IP headers
    payload: bytes = b""

    @property
    def family(self) -> Family:
        return Family.IPV4 if isinstance(self.src, IPv4Address) else Family.IPV6


def build_ethernet(payload: bytes, ethertype: int, *, src_mac: int, dst_mac: int, tags: Sequence[int] = ()) -> bytes:
    """A frame around ``payload``. ``tags`` are VLAN ids, outermost first: all but the last are 802.1ad's."""
    header = dst_mac.to_bytes(6) + src_mac.to_bytes(6)
    for number, tag in enumerate(tags, 1):
        header += struct.pack("!HH", decode.ETHERTYPE_VLAN if number == len(tags) else decode.ETHERTYPE_QINQ, tag)
    return header + struct.pack("!H", ethertype) + payload


def build_arp_request(src: IPv4Address, dst: IPv4Address, *, src_mac: int) -> bytes:
    """RFC 826: who has ``dst``, tell ``src``."""
    return (
        struct.pack("!HHBBH", 1, decode.ETHERTYPE_IPV4, 6, 4, 1)
        + src_mac.to_bytes(6)
        + src.packed
        + bytes(6)
        + dst.packed
    )


def build_ip(packet: IpPacket) -> bytes:
    """The packet from its IP header on. The caller sees to it that it fits into the 16-bit length."""
    data = _transport(packet) if packet.transport_header else packet.payload
    return _ipv4(packet, data) if packet.family is Family.IPV4 else _ipv6(packet, data)


def _ipv4(packet: IpPacket, data: bytes) -> bytes:
    options = bytes((1, 1, 1, 0)) if packet.options else b""
    fragment = {Fragment.NONE: 0, Fragment.FIRST: 0x2000, Fragment.LATER: LATER_FRAGMENT_OFFSET}[packet.fragment]

    def header(checksum: int) -> bytes:
        fixed = struct.pack(
            "!BBHHHBBH",
            0x45 + len(options) // 4,
            packet.dscp << 2,
            20 + len(options) + len(data),
            IDENTIFICATION,
            fragment,
            packet.ttl,
            packet.proto,
            checksum,
        )
        return fixed + packet.src.packed + packet.dst.packed + options

    return header(internet_checksum(header(0))) + data


def _ipv6(packet: IpPacket, data: bytes) -> bytes:
    next_header = packet.proto
    if packet.fragment is not Fragment.NONE:
        position = 1 if packet.fragment is Fragment.FIRST else LATER_FRAGMENT_OFFSET << 3
        data = struct.pack("!BxHI", next_header, position, IDENTIFICATION) + data
        next_header = decode.PROTO_FRAGMENT
    if packet.options:
        data = _empty_extension(next_header) + data
        next_header = decode.PROTO_HOP_BY_HOP
    first_word = 6 << 28 | packet.dscp << 22
    return (
        struct.pack("!IHBB", first_word, len(data), next_header, packet.ttl)
        + packet.src.packed
        + packet.dst.packed
        + data
    )


def _empty_extension(next_header: int) -> bytes:
    """8 bytes that are right as any extension header but AH: six times Pad1, an atomic fragment, routing type 0."""
    return bytes((next_header, 0, 0, 0, 0, 0, 0, 0))


def _transport(packet: IpPacket) -> bytes:
    """The transport header and the payload behind it. A fragment's checksum is that of the fragment alone."""
    header, checksum_at = _transport_header(packet)
    segment = header + packet.payload
    if checksum_at is None:
        return segment
    if packet.proto == decode.PROTO_SCTP:
        checksum = crc32c(segment).to_bytes(4, "little")
    elif packet.proto == decode.PROTO_ICMP:
        checksum = internet_checksum(segment).to_bytes(2)
    else:
        # RFC 9293, section 3.1 and RFC 8200, section 8.1. UDP writes a sum of 0 as its complement: RFC 768.
        pseudo_header = packet.src.packed + packet.dst.packed + struct.pack("!II", len(segment), packet.proto)
        checksum = (internet_checksum(pseudo_header + segment) or 0xFFFF).to_bytes(2)
    return segment[:checksum_at] + checksum + segment[checksum_at + len(checksum) :]


def _transport_header(packet: IpPacket) -> tuple[bytes, int | None]:
    """The header of ``packet.proto`` with a checksum of 0, and the offset of the checksum if it has one."""
    ports = struct.pack("!HH", packet.sport, packet.dport)
    match packet.family, packet.proto:
        case _, decode.PROTO_TCP:
            # Of a connection that both sides began with 0: what acknowledges a SYN fits it.
            seq, ack = int(not packet.tcp_flags & SYN), int(bool(packet.tcp_flags & ACK))
            return ports + struct.pack("!IIBBHHH", seq, ack, 5 << 4, packet.tcp_flags, 0xFFFF, 0, 0), 16
        case _, decode.PROTO_UDP:
            return ports + struct.pack("!HH", 8 + len(packet.payload), 0), 6
        case _, decode.PROTO_UDPLITE:
            return ports + struct.pack("!HH", 0, 0), 6
        case _, decode.PROTO_SCTP:
            return ports + struct.pack("!II", 0, 0), 8
        case _, decode.PROTO_DCCP:
            return ports + struct.pack("!BBHI", 3, 0, 0, DCCP_DATA << 25), 6
        case (Family.IPV4, decode.PROTO_ICMP) | (Family.IPV6, decode.PROTO_ICMPV6):
            return struct.pack("!BBHI", packet.icmp_type, packet.icmp_code, 0, 0), 2
        case _, decode.PROTO_GRE:
            return struct.pack("!HH", 0, decode.ETHERTYPE_IPV4), None
        case _, decode.PROTO_ESP:
            return struct.pack("!II", 1, 1), None
        case _, decode.PROTO_AH:
            return struct.pack("!BBHII", decode.PROTO_NO_NEXT_HEADER, 4, 0, 1, 1) + bytes(12), None
        case Family.IPV6, proto if proto in decode.EXTENSION_HEADERS:
            return _empty_extension(decode.PROTO_NO_NEXT_HEADER), None
        case _:
            return b"", None


def internet_checksum(data: bytes) -> int:
    """RFC 1071. ``data`` holds 0 where the checksum will stand."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A: Castagnoli's polynomial, reflected."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF
