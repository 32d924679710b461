# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames byte by byte, right or wrong: every length, count and offset may be a lie.

xdpfw.packet.build makes right packets only, and scapy is too slow for many. Addresses are host-order integers.
Checksums are 0: nothing here looks at them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

SRC_MAC: Final = 0x020000000001
DST_MAC: Final = 0x020000000002

SRC_V4: Final = 0xC6336407  # 198.51.100.7
DST_V4: Final = 0xCB007101  # 203.0.113.1
SRC_V6: Final = 0x20010DB8 << 96 | 7
DST_V6: Final = 0x20010DB8 << 96 | 1

VLAN: Final = 0x8100
QINQ: Final = 0x88A8

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD

HOP_BY_HOP: Final = 0
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
DCCP: Final = 33
ROUTING: Final = 43
FRAGMENT: Final = 44
GRE: Final = 47
ESP: Final = 50
AH: Final = 51
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59
DESTINATION: Final = 60
SCTP: Final = 132
MOBILITY: Final = 135
UDPLITE: Final = 136

MORE_FRAGMENTS: Final = 0x2000
"""Of IPv4; that of IPv6 is bit 0."""

SYN: Final = 0x02
ACK: Final = 0x10


def ethernet(
    ethertype: int,
    payload: bytes = b"",
    *,
    tags: Sequence[tuple[int, int]] = (),
    src_mac: int = SRC_MAC,
    dst_mac: int = DST_MAC,
) -> bytes:
    """``tags``: TPID and TCI of each, outermost first."""
    header = dst_mac.to_bytes(6, "big") + src_mac.to_bytes(6, "big")
    for tag in tags:
        header += struct.pack("!HH", *tag)
    return header + struct.pack("!H", ethertype) + payload


def ipv4(
    payload: bytes = b"",
    proto: int = TCP,
    *,
    src: int = SRC_V4,
    dst: int = DST_V4,
    ttl: int = 64,
    tos: int = 0,
    fragment: int = 0,
    identification: int = 1,
    options: bytes = b"",
    version: int = 4,
    header_words: int | None = None,
    total_length: int | None = None,
) -> bytes:
    """``fragment``: flags and offset, as on the wire. ``options`` is of a multiple of 4 bytes."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    first = (version << 4 | words, tos, length, identification, fragment, ttl, proto, 0)
    return struct.pack("!BBHHHBBHII", *first, src, dst) + options + payload


def ipv6(
    payload: bytes = b"",
    next_header: int = TCP,
    *,
    src: int = SRC_V6,
    dst: int = DST_V6,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
    version: int = 6,
    payload_length: int | None = None,
) -> bytes:
    length = len(payload) if payload_length is None else payload_length
    first = struct.pack("!IHBB", version << 28 | traffic_class << 20 | flow_label, length, next_header, hop_limit)
    return first + src.to_bytes(16, "big") + dst.to_bytes(16, "big") + payload


def extension(kind: int, next_header: int, *, length: int = 0, fragment: int = 0, identification: int = 1) -> bytes:
    """One extension header of its shortest right size; of more with ``length``, its length byte.

    ``fragment``: offset and flags of a fragment header, as on the wire; ``identification``: its own.
    (RFC 8200 section 4, RFC 4302 section 2.2.)
    """
    if kind == FRAGMENT:
        return struct.pack("!BBHI", next_header, length, fragment, identification)
    if kind == AH:
        length = length or 1
        return struct.pack("!BB", next_header, length) + bytes((length + 2) * 4 - 2)
    return struct.pack("!BB", next_header, length) + bytes((length + 1) * 8 - 2)


def extended(kinds: Sequence[int], payload: bytes = b"", last: int = TCP, *, fragment: int = 0) -> tuple[bytes, int]:
    """Extension headers of these kinds in front of ``payload``, and the first next header: arguments of ipv6()."""
    following = last
    for kind in reversed(kinds):
        payload = extension(kind, following, fragment=fragment) + payload
        following = kind
    return payload, following


def tcp(
    sport: int = 40000,
    dport: int = 22,
    flags: int = SYN,
    *,
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
    header_words: int | None = None,
) -> bytes:
    words = 5 + len(options) // 4 if header_words is None else header_words
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, 0xFFFF, 0, 0) + options


def udp(sport: int = 40000, dport: int = 22, *, length: int = 8) -> bytes:
    """``length``: UDP's own, which the firewall does not look at."""
    return struct.pack("!HHHH", sport, dport, length, 0)


def sctp(sport: int = 40000, dport: int = 22) -> bytes:
    """DCCP's, too, as far as anything here looks at it."""
    return struct.pack("!HHII", sport, dport, 0, 0)


def icmp(type: int = 8, code: int = 0, *, rest: int = 0, body: bytes = b"") -> bytes:
    """``rest``: the second four bytes; of an echo, its id is the upper half of them."""
    return struct.pack("!BBHI", type, code, 0, rest) + body


PORT_HEADERS: Final = {TCP: tcp, UDP: udp, UDPLITE: udp, SCTP: sctp, DCCP: sctp}


def v4_frame(payload: bytes, proto: int = TCP, **header: int | bytes) -> bytes:
    """``header``: arguments of ipv4()."""
    return ethernet(IPV4, ipv4(payload, proto, **header))  # type: ignore[arg-type]


def v6_frame(payload: bytes, next_header: int = TCP, **header: int) -> bytes:
    """``header``: arguments of ipv6()."""
    return ethernet(IPV6, ipv6(payload, next_header, **header))
