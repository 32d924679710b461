# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets as text: what is built, checked by scapy, and what is refused, where."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP

from xdpfw.compiler.ir import Family, Fragment
from xdpfw.errors import PolicyError, Position
from xdpfw.packet.decode import Packet, decode
from xdpfw.packet.notation import describe, parse_packet


def fields(text: str) -> Packet:
    packet = decode(parse_packet(text))
    assert isinstance(packet, Packet), packet
    return packet


TEXTS = [
    "tcp 198.51.100.7:40000 > 203.0.113.1:22 S",
    "tcp 198.51.100.7:40000 > 203.0.113.1:22 SA payload=616263",
    "tcp [2001:db8::7]:40000 > [2001:db8::1]:22 none",
    "udp 198.51.100.7:53 > 203.0.113.1:40000 length=29",
    "udp [2001:db8::7]:53 > [2001:db8::1]:40000 length=1280",
    "udplite 198.51.100.7:1 > 203.0.113.1:2 payload=00ff",
    "udplite [2001:db8::7]:1 > [2001:db8::1]:2",
    "sctp 198.51.100.7:1 > 203.0.113.1:2",
    "sctp [2001:db8::7]:1 > [2001:db8::1]:2",
    "dccp 198.51.100.7:1 > 203.0.113.1:2",
    "dccp [2001:db8::7]:1 > [2001:db8::1]:2 payload=01",
    "icmp 198.51.100.7 > 203.0.113.1 echo-request",
    "icmp 198.51.100.7 > 203.0.113.1 type 3 code 4 payload=45",
    "icmpv6 2001:db8::7 > [2001:db8::1]",
    "icmpv6 fe80::1 > ff02::1 router-advertisement",
    "gre 198.51.100.7 > 203.0.113.1",
    "esp 2001:db8::7 > 2001:db8::1",
    "ah 198.51.100.7 > 203.0.113.1",
    "ah 2001:db8::7 > 2001:db8::1",
    "proto 89 198.51.100.7 > 203.0.113.1 ttl=1 dscp=48",
    "proto 60 2001:db8::7 > 2001:db8::1",
    "proto 44 2001:db8::7 > 2001:db8::1",
    "proto 0x11 198.51.100.7:1 > 203.0.113.1:2",
    "proto 1 2001:db8::7 > 2001:db8::1",
    "tcp 198.51.100.7:1 > 203.0.113.1:22 frag=first options vlan=5",
    "tcp [2001:db8::7]:1 > [2001:db8::1]:22 frag=first options vlan=5 inner_vlan=0",
    "tcp 198.51.100.7 > 203.0.113.1 frag=later",
    "tcp [2001:db8::7]:1 > [2001:db8::1]:22 S frag=later",
    "udp 2001:db8::7 > 2001:db8::1 options frag=later payload=0001",
    "arp 198.51.100.7 > 198.51.100.1",
    "ethertype 0x88cc",
    "ethertype 35020 payload=0102 vlan=1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_built_decodes(text: str) -> None:
    fields(text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_described_is_what_was_built(text: str) -> None:
    again = describe(parse_packet(describe(parse_packet(text))))
    assert again == describe(parse_packet(text))


@pytest.mark.parametrize(("text"), [text for text in TEXTS if not text.startswith(("arp", "ethertype"))])
def test_lengths_and_checksums_are_those_that_scapy_computes(text: str) -> None:
    frame = parse_packet(text)
    packet = Ether(frame)
    for layer in (IP, TCP, UDP, ICMP, SCTP):
        if layer in packet:
            packet[layer].delfieldval("chksum")
    for layer, length in ((IP, "len"), (IPv6, "plen"), (UDP, "len")):
        if layer in packet:
            packet[layer].delfieldval(length)
    for layer in packet.layers():
        if layer.__name__.startswith("ICMPv6"):
            packet[layer].delfieldval("cksum")
    assert bytes(packet) == frame


@pytest.mark.parametrize("text", ["udplite 1.2.3.4:1 > 5.6.7.8:2 payload=010203", "dccp [::1]:1 > [::2]:2"])
def test_checksums_that_scapy_does_not_know(text: str) -> None:
    """RFC 1071: over the pseudo header and all that has the checksum in it, the sum is 0xFFFF."""
    frame = parse_packet(text)
    packet = decode(frame)
    assert isinstance(packet, Packet)
    assert packet.length is not None
    header_bytes, addresses_at, address_bytes = (20, 26, 8) if packet.family is Family.IPV4 else (40, 22, 32)
    segment = frame[14 + header_bytes :]
    data = frame[addresses_at : addresses_at + address_bytes] + struct.pack("!II", len(segment), packet.proto) + segment
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    assert total % 0xFFFF == 0


@pytest.mark.parametrize(
    ("flags", "bits"),
    [("", 0x02), ("S", 0x02), ("FSRPAUEC", 0xFF), ("S.", 0x12), ("SEW", 0xC2), ("none", 0), ("R", 4)],
)
def test_tcp_flags(flags: str, bits: int) -> None:
    assert fields(f"tcp 1.2.3.4:1 > 5.6.7.8:2 {flags} ttl=9").tcp_flags == bits


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("vlan=0", "vlan", 0),
        ("vlan=7 inner_vlan=4095", "inner_vlan", 4095),
        ("src_mac=02:aa:bb:cc:dd:ee", "src_mac", 0x02AABBCCDDEE),
        ("dst_mac=FF-FF-FF-FF-FF-FF", "dst_mac", 0xFFFFFFFFFFFF),
        ("ttl=0", "ttl", 0),
        ("dscp=63", "dscp", 63),
        ("length=1500", "length", 1500),
        ("length=65535", "length", 65535),
        ("frag=first", "fragment", Fragment.FIRST),
        ("frag=later", "fragment", Fragment.LATER),
        ("frag=none", "fragment", Fragment.NONE),
        ("options", "ip_options", True),
        ("payload=0102", "frame_bytes", 14 + 20 + 20 + 2),
    ],
)
@pytest.mark.parametrize("ends", ["1.2.3.4:1 > 5.6.7.8:2", "[::1]:1 > [::2]:2"])
def test_options(ends: str, text: str, field: str, value: int) -> None:
    family_bytes = 20 if field == "frame_bytes" and "[" in ends else 0
    assert getattr(fields(f"tcp {ends} {text}"), field) == value + family_bytes


def test_defaults() -> None:
    assert fields("icmpv6 ::1 > ::2").ttl == 64
    assert fields("icmpv6 ::1 > ::2 neighbor-solicitation").ttl == 255
    assert fields("icmpv6 ::1 > ::2 neighbor-solicitation ttl=1").ttl == 1
    assert fields("icmp 1.2.3.4 > 5.6.7.8").icmp_type == 8


def test_two_tags_are_802_1ad_and_802_1q() -> None:
    assert parse_packet("ethertype 1 vlan=1 inner_vlan=2")[12:] == bytes.fromhex("88a8 0001 8100 0002 0001")


def test_arp_is_a_broadcast_request() -> None:
    packet = Ether(parse_packet("arp 192.0.2.1 > 192.0.2.2 src_mac=02:00:00:00:00:09"))
    assert packet.dst == "ff:ff:ff:ff:ff:ff"
    request = packet[ARP]
    assert (request.op, request.psrc, request.pdst, request.hwsrc) == (1, "192.0.2.1", "192.0.2.2", packet.src)


@pytest.mark.parametrize(
    "text", ["0xdeadbeef0001", "deadbeef0001", "de:ad:be:ef:00:01", " DE AD be ef\n00 01 ", "0x de ad be ef 00 01"]
)
def test_hex_frames(text: str) -> None:
    assert parse_packet(text) == b"\xde\xad\xbe\xef\x00\x01"


def test_packets_of_captures(tmp_path: Path) -> None:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    (tmp_path / "a #1.pcap").write_bytes(
        header + struct.pack("<IIII", 0, 0, 1, 1) + b"x" + struct.pack("<IIII", 0, 0, 2, 2) + b"yz"
    )
    assert parse_packet("pcap:a #1.pcap#2", base_dir=tmp_path) == b"yz"
    with pytest.raises(PolicyError, match=r"a #1.pcap has 2 packets, not 3"):
        parse_packet("pcap:a #1.pcap#3", base_dir=tmp_path)
    (tmp_path / "wifi").write_bytes(header[:20] + struct.pack("<I", 127) + struct.pack("<IIII", 0, 0, 1, 1) + b"x")
    with pytest.raises(PolicyError, match="packet 1 has no Ethernet equivalent: link type 127"):
        parse_packet("pcap:wifi#1", base_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "there is no packet (such as tcp "),
        ("tpc 1.2.3.4:1 > 5.6.7.8:2", 1, '"tpc" begins no packet (one of ah, arp, dccp'),
        ("abc", 1, "the hex frame has 3 digits, an odd number"),
        ("pcap:x", 1, '"pcap:x" names no packet of a capture (pcap:FILE#N, N from 1)'),
        ("pcap:x#0", 1, "names no packet"),
        ("pcap:missing#1", 1, "cannot read missing: No such file"),
        ("tcp 1.2.3.4:1", 14, 'the packet ends where ">" should follow'),
        ("tcp 1.2.3.4:1 >", 16, "the packet ends where a destination address should follow"),
        ("tcp 1.2.3.4:1 5.6.7.8:2", 15, '"5.6.7.8:2" stands where ">" should'),
        ("tcp 1.2.3.4:1>5.6.7.8", 15, '"5.6.7.8" has no port (5.6.7.8:80)'),
        ("tcp ::1 > ::2", 5, '"::1" has no port ([::1]:80)'),
        ("tcp 1.2.3.4:1 > 5.6.7.8:65536", 25, "port 65536 is above 65535"),
        ("tcp 1.2.3.4:1 > [::1]:x", 23, 'port "x" is no number (0 to 65535)'),
        ("tcp 1.2.3:1 > 5.6.7.8:1", 5, '"1.2.3:1" is no address'),
        ("tcp [fe80::1%eth0]:1 > [::1]:1", 5, "is no address"),
        ("tcp 1.2.3.4:1 > [::1]:1", 17, "1.2.3.4 and ::1 are of different families"),
        ("tcp 1.2.3.4:1 > 5.6.7.8:1 SX", 27, '"X" in "SX" is no TCP flag (letters of FSRPAUEC, or none)'),
        ("udp 1.2.3.4:1 > 5.6.7.8:1 S", 27, '"S" is no option of this packet (known are vlan=...'),
        ("icmp 1.2.3.4:1 > 5.6.7.8", 6, '"1.2.3.4:1" has a port, which this protocol has not'),
        ("icmp ::1 > ::2", 1, "icmp between IPv6 addresses (icmpv6, or proto 1)"),
        ("icmpv6 1.2.3.4 > 5.6.7.8", 1, "icmpv6 between IPv4 addresses (icmp, or proto 58)"),
        ("icmp 1.2.3.4 > 5.6.7.8 hello", 24, '"hello" is no message (type N [code N], or one of echo-reply'),
        ("icmp 1.2.3.4 > 5.6.7.8 type 256", 29, "type 256 is above 255"),
        ("icmp 1.2.3.4 > 5.6.7.8 type 3 code", 35, "the packet ends where a code should follow"),
        ("gre 1.2.3.4 > 5.6.7.8 ttl=x", 27, 'ttl "x" is no number (0 to 255)'),
        ("gre 1.2.3.4 > 5.6.7.8 ttl=1 ttl=1", 29, '"ttl" stands twice'),
        ("gre 1.2.3.4 > 5.6.7.8 options=1", 23, '"options=1" is no option'),
        ("gre 1.2.3.4 > 5.6.7.8 vlan", 23, '"vlan" is no option'),
        ("gre 1.2.3.4 > 5.6.7.8 vlan=4096", 28, "vlan 4096 is above 4095"),
        ("gre 1.2.3.4 > 5.6.7.8 inner_vlan=1", 35, "inner_vlan without vlan"),
        ("gre 1.2.3.4 > 5.6.7.8 src_mac=1:2", 31, '"1:2" is no MAC address'),
        ("gre 1.2.3.4 > 5.6.7.8 payload=012", 31, 'payload "012" is no hex (two digits a byte)'),
        ("gre 1.2.3.4 > 5.6.7.8 frag=x", 28, '"x" is no fragment (first, later or none)'),
        ("gre 1.2.3.4 > 5.6.7.8 length=23", 1, "a length of 23 does not fit this packet (24 to 65535)"),
        ("gre 1.2.3.4 > 5.6.7.8 length=65536", 1, "a length of 65536 does not fit this packet (24 to 65535)"),
        ("arp ::1 > ::2", 5, '"::1" is no IPv4 address, as those of arp are'),
        ("arp 1.2.3.4 > 5.6.7.8 ttl=1", 23, '"ttl=1" is no option of this packet'),
        ("ethertype 0x800", 11, "ethertype 0x800 is IP (name the protocol"),
        ("ethertype 0x8100", 11, "ethertype 0x8100 is a VLAN tag"),
        ("ethertype x", 11, 'ethertype "x" is no number (0 to 65535)'),
        ("proto 256 ::1 > ::2", 7, "protocol 256 is above 255"),
    ],
)
def test_errors_say_where_and_what(text: str, column: int, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_packet(text, position=Position("edge.yaml", 3, 1))
    assert caught.value.position == Position("edge.yaml", 3, column)
    assert message in str(caught.value)


def test_columns_count_from_the_text(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_packet("tcp x > y", position=Position("edge.yaml", 3, 20))
    assert str(caught.value.position) == "edge.yaml:3:24"


def test_describe_what_cannot_be_written() -> None:
    assert describe(b"short") == "invalid.ethernet (5 bytes)"
    assert describe(bytes(12) + b"\x08\x06short") == "ethertype 0x0806"
    tags = bytes.fromhex("8100 0806 8100 0002 8100 0003")
    request = parse_packet("arp 1.2.3.4 > 5.6.7.8")
    assert describe(request[:12] + tags + request[12:]) == "arp 1.2.3.4 > 5.6.7.8 vlan=2054 inner_vlan=2"


WORDS = (
    "tcp udp icmp icmpv6 sctp gre ah esp proto arp ethertype 1.2.3.4 1.2.3.4:5 [::1]:5 ::1 [::1] > S none type code "
    "echo-request 3 89 0x88cc vlan=1 inner_vlan=2 ttl=3 length=60 length=9 frag=first frag=later options "
    "payload=00 dscp=4 src_mac=02:00:00:00:00:01 ="
)


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS.split()), max_size=10).map(" ".join)))
def test_any_text_is_a_frame_or_a_policy_error(text: str) -> None:
    try:
        frame = parse_packet(text)
    except PolicyError:
        return
    describe(frame)


@given(
    kind=st.sampled_from(["tcp", "udp", "gre", "ah", "proto 43", "proto 60", "proto 253"]),
    ends=st.sampled_from(["1.2.3.4{0} > 5.6.7.8{0}", "[2001:db8::1]{0} > [2001:db8::2]{0}"]),
    options=st.lists(
        st.sampled_from(["vlan=1", "ttl=3", "length=200", "frag=first", "frag=later", "options", "payload=00"]),
        unique=True,
    ),
)
def test_all_that_is_built_decodes(kind: str, ends: str, options: list[str]) -> None:
    options = [option for option in options if option != "frag=later" or "frag=first" not in options]
    port = ":7" if kind in ("tcp", "udp") else ""
    packet = fields(" ".join([kind, ends.format(port), *options]))
    assert packet.length == 200 or "length=200" not in options
