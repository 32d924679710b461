# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder against scapy's idea of frames, the list of reasons in abi.h, and garbage."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import (
    INVALID_REASONS,
    MAX_EXTENSION_HEADERS,
    MAX_VLAN_TAGS,
    Invalid,
    Packet,
    decode,
)

ABI = (Path(__file__).parents[1] / "bpf" / "abi.h").read_text()

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = ETHER / IP(src="198.51.100.7", dst="203.0.113.1", ttl=61, tos=46 << 2)
V6 = ETHER / IPv6(src="2001:db8::7", dst="2001:db8::1", hlim=62, tc=34 << 2)


def fields(packet: ScapyPacket) -> Packet:
    decoded = decode(bytes(packet))
    assert isinstance(decoded, Packet), decoded
    return decoded


def reason(frame: ScapyPacket | bytes) -> str:
    decoded = decode(bytes(frame))
    assert isinstance(decoded, Invalid), decoded
    return decoded.reason


def test_reasons_are_those_of_the_abi() -> None:
    names = re.findall(r"^\tXDPFW_REASON_INVALID_(\w+),", ABI, re.MULTILINE)
    assert [f"invalid.{name.lower()}" for name in names] == list(INVALID_REASONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("XDPFW_MAX_VLAN_TAGS", MAX_VLAN_TAGS), ("XDPFW_MAX_EXTENSION_HEADERS", MAX_EXTENSION_HEADERS)],
)
def test_limits_are_those_of_the_abi(name: str, value: int) -> None:
    assert f"{name} = {value}," in ABI


def test_ethernet_alone() -> None:
    packet = fields(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88CC)))
    assert packet == Packet(frame_bytes=14, dst_mac=0x020000000002, src_mac=0x020000000001, ethertype=0x88CC)
    arp = fields(ETHER / ARP())
    assert (arp.family, arp.ethertype, arp.src, arp.proto, arp.ttl) == (Family.OTHER, 0x0806, None, None, None)


def test_ieee_802_3_length_is_an_ethertype_like_another() -> None:
    packet = fields(bytes(12) + b"\x00\x03" + b"abc")
    assert (packet.family, packet.ethertype) == (Family.OTHER, 3)


def test_tcp_over_ipv4() -> None:
    packet = fields(V4 / TCP(sport=40000, dport=22, flags="SEC") / Raw(b"data"))
    assert packet == Packet(
        frame_bytes=14 + 44,
        src_mac=0x020000000001,
        dst_mac=0x020000000002,
        ethertype=0x0800,
        family=Family.IPV4,
        src=int(ip_address("198.51.100.7")),
        dst=int(ip_address("203.0.113.1")),
        fragment=Fragment.NONE,
        length=44,
        ttl=61,
        dscp=46,
        ip_options=False,
        proto=6,
        sport=40000,
        dport=22,
        tcp_flags=0xC2,
        payload=b"data",
    )


def test_udp_over_ipv6() -> None:
    packet = fields(V6 / UDP(sport=53, dport=40000) / Raw(b"data"))
    assert packet == Packet(
        frame_bytes=14 + 52,
        src_mac=0x020000000001,
        dst_mac=0x020000000002,
        ethertype=0x86DD,
        family=Family.IPV6,
        src=int(ip_address("2001:db8::7")),
        dst=int(ip_address("2001:db8::1")),
        fragment=Fragment.NONE,
        length=52,
        ttl=62,
        dscp=34,
        ip_options=False,
        proto=17,
        sport=53,
        dport=40000,
        udp_length=12,
        payload=b"data",
    )


@pytest.mark.parametrize(
    ("tags", "vlan", "inner_vlan"),
    [
        ([], None, None),
        ([Dot1Q(vlan=5, prio=7)], 5, None),
        ([Dot1AD(vlan=0), Dot1Q(vlan=4095)], 0, 4095),
        ([Dot1Q(vlan=1), Dot1AD(vlan=2), Dot1Q(vlan=3), Dot1Q(vlan=4)], 1, 2),
    ],
)
def test_vlan_tags(tags: list[ScapyPacket], vlan: int | None, inner_vlan: int | None) -> None:
    frame = ETHER.copy()
    for tag in tags:
        frame /= tag
    packet = fields(frame / V4[IP].copy() / UDP(dport=7))
    assert (packet.vlan, packet.inner_vlan, packet.ethertype, packet.dport) == (vlan, inner_vlan, 0x0800, 7)


def test_old_q_in_q_ethertype_is_no_tag() -> None:
    packet = fields(ETHER.copy() / Dot1Q(vlan=1, type=0x9100) / Raw(bytes(60)))
    assert (packet.vlan, packet.inner_vlan, packet.ethertype) == (1, None, 0x9100)


def test_ipv4_options_move_the_ports() -> None:
    packet = fields(ETHER / IP(options=[b"\x01"] * 8) / UDP(sport=1, dport=2))
    assert (packet.ip_options, packet.dport, packet.length) == (True, 2, 36)


def test_padding_is_not_looked_at() -> None:
    assert fields(bytes(V4 / UDP(dport=9)) + bytes(18)).length == 28
    assert reason(ETHER / IP(len=39) / TCP()) == "invalid.l4_header"
    assert reason(ETHER / IPv6(plen=7) / UDP()) == "invalid.l4_header"


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        ([IPv6ExtHdrHopByHop()], True),
        ([IPv6ExtHdrRouting(addresses=["::1"])], True),
        ([IPv6ExtHdrDestOpt()], True),
        ([AH(nh=6, payloadlen=4, icv=bytes(12))], True),
        ([IPv6ExtHdrFragment()], False),
        ([IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(), IPv6ExtHdrDestOpt()], True),
        ([IPv6ExtHdrDestOpt()] * 8, True),
    ],
)
def test_ipv6_extension_headers_are_walked(headers: list[ScapyPacket], options: bool) -> None:
    frame = V6.copy()
    for header in headers:
        frame /= header.copy()
    packet = fields(frame / TCP(dport=22, flags="A"))
    assert (packet.proto, packet.dport, packet.ip_options, packet.fragment) == (6, 22, options, Fragment.NONE)


def test_mobility_header_is_walked() -> None:
    packet = fields(ETHER / IPv6(nh=135) / Raw(bytes((17, 0, 0, 0, 0, 0, 0, 0)) + bytes(UDP(dport=4))))
    assert (packet.proto, packet.dport, packet.ip_options) == (17, 4, True)


@pytest.mark.parametrize(
    ("ip", "fragment"),
    [(IP(flags="MF"), Fragment.FIRST), (IP(flags="MF", frag=1), Fragment.LATER), (IP(frag=8191), Fragment.LATER)],
)
def test_ipv4_fragments(ip: IP, fragment: Fragment) -> None:
    packet = fields(ETHER / ip / TCP(dport=22))
    assert packet.fragment is fragment
    assert packet.proto == 6
    assert packet.dport == (22 if fragment is Fragment.FIRST else None)
    assert (packet.tcp_flags is None) == (fragment is Fragment.LATER)


@pytest.mark.parametrize(
    ("offset", "more", "fragment"),
    [(0, 0, Fragment.NONE), (0, 1, Fragment.FIRST), (1, 0, Fragment.LATER), (8191, 1, Fragment.LATER)],
)
def test_ipv6_fragments(offset: int, more: int, fragment: Fragment) -> None:
    packet = fields(V6 / IPv6ExtHdrFragment(offset=offset, m=more) / TCP(dport=22))
    assert packet.fragment is fragment
    assert packet.proto == 6
    assert packet.dport == (None if fragment is Fragment.LATER else 22)


def test_later_fragment_is_not_walked_further() -> None:
    packet = fields(V6 / IPv6ExtHdrFragment(offset=1) / IPv6ExtHdrDestOpt() / TCP())
    assert (packet.proto, packet.ip_options) == (60, False)


def test_icmp_belongs_to_its_family() -> None:
    assert fields(V4 / ICMP(type=3, code=4)).icmp_code == 4
    assert fields(V6 / ICMPv6EchoRequest()).icmp_type == 128
    assert fields(ETHER / IP(proto=58) / Raw(bytes(8))).icmp_type is None
    assert fields(ETHER / IPv6(nh=1) / Raw(b"")).icmp_type is None


@pytest.mark.parametrize(("proto", "header_bytes"), [(17, 8), (136, 8), (132, 12), (33, 12), (6, 20)])
def test_protocols_with_ports(proto: int, header_bytes: int) -> None:
    header = bytearray(bytes(SCTP(sport=7, dport=9)) + bytes(8))[:header_bytes]
    if proto == 6:
        header[12] = 5 << 4
    for ip in (IP(proto=proto), IPv6(nh=proto)):
        packet = fields(ETHER / ip / Raw(bytes(header)))
        assert (packet.proto, packet.sport, packet.dport) == (proto, 7, 9)
        assert reason(ETHER / ip / Raw(bytes(header[:-1]))) == "invalid.l4_header"


def test_udp_length_decides_nothing() -> None:
    packet = fields(V4 / UDP(dport=9, len=60000) / Raw(b"data"))
    assert (packet.dport, packet.udp_length, packet.payload) == (9, 60000, b"data")


@pytest.mark.parametrize("ip", [V4, V6])
def test_payload_ends_with_the_datagram(ip: ScapyPacket) -> None:
    options = TCP(options=[("NOP", None)] * 4)
    for header, payload in ((UDP(), b"data"), (UDP(), b""), (TCP(), b"data"), (options, b"data"), (options, b"")):
        assert fields(bytes(ip / header.copy() / Raw(payload)) + b"padding").payload == payload


def test_payload_is_that_of_tcp_and_udp() -> None:
    assert fields(V4 / ICMP() / Raw(b"data")).payload is None
    assert fields(V4 / SCTP() / Raw(b"data")).payload is None
    assert fields(ETHER / IP(frag=1, proto=17) / Raw(b"data")).payload is None
    assert fields(ETHER / IP(flags="MF") / UDP() / Raw(b"data")).payload == b"data"


IPV4_UDP = bytes(V4 / UDP())
IPV6_UDP = bytes(V6 / UDP())

INVALID_FRAMES = [
    ("invalid.ethernet", b""),
    ("invalid.ethernet", bytes(13)),
    ("invalid.ethernet", bytes(12) + b"\x81\x00\x00\x01\x08"),
    ("invalid.ethernet", bytes(12) + b"\x81\x00\x00\x01" * 4),
    ("invalid.vlan_tags", bytes(12) + b"\x81\x00\x00\x01" * 5 + b"\x08\x00"),
    ("invalid.vlan_tags", bytes(12) + b"\x81\x00\x00\x01" * 4 + b"\x88\xa8"),
    ("invalid.ipv4_header", IPV4_UDP[: 14 + 19]),
    ("invalid.ipv4_header", bytes(12) + b"\x08\x00"),
    ("invalid.ipv4_version", IPV4_UDP[:14] + b"\x65" + IPV4_UDP[15:]),
    ("invalid.ipv4_ihl", ETHER / IP(ihl=4) / UDP()),
    ("invalid.ipv4_ihl", ETHER / IP(ihl=8) / UDP()),
    ("invalid.ipv4_ihl", ETHER / IP(len=19) / UDP()),
    ("invalid.ipv4_ihl", ETHER / IP(len=0) / UDP()),
    ("invalid.ipv4_length", ETHER / IP(len=29) / UDP()),
    ("invalid.ipv6_header", IPV6_UDP[: 14 + 39]),
    ("invalid.ipv6_version", IPV6_UDP[:14] + b"\x45" + IPV6_UDP[15:]),
    ("invalid.ipv6_length", ETHER / IPv6(plen=9) / UDP()),
    ("invalid.extension_headers", ETHER / IPv6(nh=60) / Raw(bytes((60, 0, 0, 0, 0, 0, 0, 0)) * 8)),
    ("invalid.extension", ETHER / IPv6(nh=60) / Raw(b"")),
    ("invalid.extension", ETHER / IPv6(nh=60) / Raw(bytes((17, 1, 0, 0, 0, 0, 0, 0)))),
    ("invalid.extension", ETHER / IPv6(nh=51) / Raw(bytes((17, 1, 0, 0, 0, 0, 0, 0)))),
    ("invalid.extension", ETHER / IPv6(nh=44) / Raw(bytes(7))),
    ("invalid.extension", ETHER / IPv6(nh=0, plen=0) / Raw(bytes(64))),  # a jumbogram
    ("invalid.first_fragment", ETHER / IP(flags="MF", proto=6) / Raw(bytes(16))),
    ("invalid.first_fragment", ETHER / IP(flags="MF", proto=1) / Raw(bytes(4))),
    ("invalid.first_fragment", V6 / IPv6ExtHdrFragment(m=1, nh=60)),
    ("invalid.first_fragment", V6 / IPv6ExtHdrFragment(m=1, nh=6) / Raw(bytes(8))),
    ("invalid.l4_header", ETHER / IP(proto=6) / Raw(bytes(19))),
    ("invalid.l4_header", ETHER / IP(proto=17)),
    ("invalid.l4_header", ETHER / IP(proto=1) / Raw(bytes(7))),
    ("invalid.l4_header", ETHER / IPv6(nh=58) / Raw(bytes(7))),
    ("invalid.l4_header", ETHER / IP() / TCP(dataofs=6)),
    ("invalid.first_fragment", ETHER / IP(flags="MF") / TCP(dataofs=6)),
    ("invalid.tcp_offset", ETHER / IP() / TCP(dataofs=4)),
    ("invalid.tcp_offset", ETHER / IP(flags="MF") / TCP(dataofs=0)),
]


@pytest.mark.parametrize(("expected", "frame"), INVALID_FRAMES)
def test_invalid(expected: str, frame: ScapyPacket | bytes) -> None:
    assert reason(frame) == expected


def test_each_reason_has_a_case() -> None:
    assert {expected for expected, _ in INVALID_FRAMES} == set(INVALID_REASONS)


WHOLE_FRAMES = [
    bytes(V4 / TCP()),
    bytes(V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1) / UDP()),
    bytes(
        ETHER / Dot1AD(vlan=1) / Dot1Q(vlan=2) / IPv6() / AH(nh=58, payloadlen=4, icv=bytes(12)) / ICMPv6EchoRequest()
    ),
]


@pytest.mark.parametrize("frame", WHOLE_FRAMES)
def test_every_prefix_of_an_ip_frame_is_invalid(frame: bytes) -> None:
    fields(frame)
    for size in range(len(frame)):
        assert isinstance(decode(frame[:size]), Invalid), size


@given(st.binary(max_size=200))
def test_garbage_never_raises(frame: bytes) -> None:
    decode(frame)


@given(st.sampled_from(WHOLE_FRAMES), st.lists(st.tuples(st.integers(12, 120), st.integers(0, 255)), max_size=6))
@example(WHOLE_FRAMES[0], [])
def test_damaged_frames_never_raise(frame: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(frame)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    decoded = decode(bytes(damaged))
    if isinstance(decoded, Packet) and decoded.family is not Family.OTHER:
        assert None not in (decoded.src, decoded.dst, decoded.proto, decoded.ttl, decoded.length, decoded.fragment)
        assert (decoded.sport is None) == (decoded.dport is None)
        if decoded.fragment is Fragment.LATER:
            assert (decoded.sport, decoded.tcp_flags, decoded.icmp_type) == (None, None, None)
            assert (decoded.udp_length, decoded.payload) == (None, None)
