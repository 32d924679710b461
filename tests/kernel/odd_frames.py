# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames at the edge of what can be parsed: just beyond it, by reason, and just within."""

from __future__ import annotations

from tests.frames import (
    AH,
    DCCP,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    QINQ,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    VLAN,
    ethernet,
    extended,
    extension,
    icmp,
    ipv4,
    ipv6,
    sctp,
    tcp,
    udp,
    v4_frame,
    v6_frame,
)

V4, V6 = v4_frame(tcp()), v6_frame(tcp())
V4_HEADER, V6_HEADER = ipv4(tcp()), ipv6(tcp())


def tags(number: int) -> list[tuple[int, int]]:
    return [((VLAN, QINQ)[i % 2], i + 1) for i in range(number)]


def pieces(payload: bytes, proto: int, fragment: int = MORE_FRAGMENTS) -> list[bytes]:
    """``payload`` as an IPv4 and as an IPv6 fragment; ``fragment`` as in IPv4."""
    in_v6 = (fragment & 0x1FFF) << 3 | bool(fragment & MORE_FRAGMENTS)
    return [
        v4_frame(payload, proto, fragment=fragment),
        v6_frame(*extended([FRAGMENT], payload, proto, fragment=in_v6)),
    ]


def both_families(payload: bytes, proto: int) -> list[bytes]:
    return [v4_frame(payload, proto), v6_frame(payload, proto)]


NEXT_TO = {UDP: udp(), UDPLITE: udp(), SCTP: sctp(), DCCP: sctp(), TCP: tcp()}

INVALID = {
    "ethernet": [
        *(bytes(length) for length in (0, 1, 13)),
        *(ethernet(VLAN, bytes(length)) for length in range(4)),
        *(ethernet(QINQ, bytes(length), tags=tags(3)) for length in range(4)),
    ],
    "vlan_tags": [
        ethernet(IPV4, V4_HEADER, tags=tags(5)),
        ethernet(IPV4, V4_HEADER, tags=tags(6)),
        ethernet(VLAN, b"", tags=tags(4)),  # the fifth is cut short besides
    ],
    "ipv4_header": [ethernet(IPV4, V4_HEADER[:length]) for length in (0, 1, 19)] + [ethernet(IPV4, tags=tags(4))],
    "ipv4_version": [v4_frame(tcp(), version=version) for version in (0, 3, 5, 6, 15)] + [ethernet(IPV4, V6_HEADER)],
    "ipv4_ihl": [
        *(v4_frame(tcp(), header_words=words) for words in range(5)),
        v4_frame(tcp(), total_length=19),
        v4_frame(tcp(), total_length=0),
        v4_frame(bytes(60), header_words=6, total_length=23),
        v4_frame(bytes(60), header_words=15, total_length=59),
    ],
    "ipv4_length": [
        v4_frame(tcp(), total_length=41),
        v4_frame(tcp(), total_length=65535),
        V4[:-1],
        ethernet(IPV4, V4_HEADER[:-1], tags=tags(4)),
        v4_frame(bytes(39), header_words=15, total_length=60),  # the options themselves are cut
    ],
    "ipv6_header": [ethernet(IPV6, V6_HEADER[:length]) for length in (0, 20, 39)],
    "ipv6_version": [v6_frame(tcp(), version=version) for version in (0, 4, 5, 7, 15)]
    + [
        ethernet(IPV6, V4_HEADER),
    ],
    "ipv6_length": [v6_frame(tcp(), payload_length=21), v6_frame(tcp(), payload_length=65535), V6[:-1]],
    "extension_headers": [
        v6_frame(*extended([DESTINATION] * 9, tcp())),
        v6_frame(*extended([HOP_BY_HOP, ROUTING, AH, FRAGMENT] * 3, tcp())),
        v6_frame(*extended([DESTINATION] * 8, b"", DESTINATION)),  # the ninth has no bytes
    ],
    "extension": [
        v6_frame(bytes(7), HOP_BY_HOP),
        v6_frame(b"", DESTINATION),
        v6_frame(b"\x06\1" + bytes(14), ROUTING, payload_length=15),
        v6_frame(extension(DESTINATION, TCP, length=255)[:-1], DESTINATION),
        v6_frame(extension(AH, TCP, length=2)[:-1], AH),
        v6_frame(extension(FRAGMENT, TCP)[:7], FRAGMENT),
        v6_frame(extension(DESTINATION, TCP, length=2) + tcp(), DESTINATION, payload_length=23),
        v6_frame(extension(FRAGMENT, DESTINATION) + bytes(4), FRAGMENT),  # atomic
    ],
    "first_fragment": [
        *(frame for proto, header in NEXT_TO.items() for frame in pieces(header[:-1], proto)),
        *pieces(b"", TCP),
        *pieces(tcp(options=bytes(4))[:-1], TCP),
        pieces(icmp()[:7], ICMP)[0],
        pieces(icmp()[:7], ICMPV6)[1],
        v6_frame(extension(FRAGMENT, DESTINATION, fragment=1) + bytes(7), FRAGMENT),
        v6_frame(extension(FRAGMENT, ROUTING, fragment=1) + bytes((6, 1)) + bytes(13), FRAGMENT),
    ],
    "l4_header": [
        *(frame for proto, header in NEXT_TO.items() for frame in both_families(header[:-1], proto)),
        *(frame for proto in NEXT_TO for frame in both_families(b"", proto)),
        *both_families(tcp(header_words=6), TCP),
        *both_families(tcp(header_words=15, options=bytes(39)), TCP),
        v4_frame(icmp()[:7], ICMP),
        v6_frame(icmp()[:7], ICMPV6),
        v4_frame(tcp() + tcp(), total_length=39),  # the frame goes on, the datagram does not
        v6_frame(udp() + udp(), UDP, payload_length=7),
        v6_frame(*extended([FRAGMENT], tcp()[:19])),  # atomic
    ],
    "tcp_offset": [
        *(frame for words in range(5) for frame in both_families(tcp(header_words=words) + bytes(40), TCP)),
        *pieces(tcp(header_words=4), TCP),
    ],
}

VALID = [
    ethernet(0),
    ethernet(IPV4, V4_HEADER, tags=tags(4)),
    ethernet(IPV6, V6_HEADER, tags=tags(4)),
    v4_frame(bytes(20), 255, total_length=20),
    v4_frame(b"", 255, options=bytes(40)),
    v4_frame(tcp(), total_length=40) + bytes(20),
    v6_frame(b"", 255),
    v6_frame(b"", 59, payload_length=0) + bytes(60),
    v6_frame(*extended([DESTINATION] * 8, tcp())),
    v6_frame(*extended([HOP_BY_HOP, ROUTING, AH, FRAGMENT, DESTINATION, 135, DESTINATION, AH], tcp())),
    v6_frame(extension(DESTINATION, TCP, length=255) + tcp(), DESTINATION),
    v6_frame(extension(AH, TCP, length=255) + tcp(), AH),
    v6_frame(extension(FRAGMENT, TCP, length=255) + tcp(), FRAGMENT),  # its length byte is reserved
    *(frame for proto, header in NEXT_TO.items() for frame in both_families(header, proto)),
    *(frame for proto, header in NEXT_TO.items() for frame in pieces(header, proto)),
    *(frame for proto in NEXT_TO for frame in pieces(b"", proto, fragment=1)),
    *both_families(tcp(options=bytes(40)), TCP),
    *both_families(b"", 50),
    v4_frame(b"", ICMPV6),
    v6_frame(b"", ICMP),
]
