# SPDX-License-Identifier: GPL-2.0-or-later
r"""Packets as people write them: SPEC's PACKET.

    PACKET   = "pcap:" FILE "#" N                        the Nth packet of a capture, from 1
             | HEX                                       a whole frame: digits with or without spaces, colons, "0x"
             | "arp" ADDRESS ">" ADDRESS OPTION*         a request, IPv4
             | "ethertype" NUMBER OPTION*
             | PORTS END ">" END [FLAGS] OPTION*         FLAGS: tcp alone; default S
             | ICMP ADDRESS ">" ADDRESS [MESSAGE] OPTION*
             | OTHER ADDRESS ">" ADDRESS OPTION*
    PORTS    = "tcp" | "udp" | "udplite" | "sctp" | "dccp"
    ICMP     = "icmp" | "icmpv6"
    OTHER    = "gre" | "esp" | "ah" | "proto" NUMBER     a proto that has a name is written as its name is
    END      = IPV4 ":" PORT | "[" IPV6 "]" ":" PORT     an ADDRESS with frag=later
    ADDRESS  = IPV4 | IPV6 | "[" IPV6 "]"
    FLAGS    = letters of FSRPAUEC, "." for A and "W" for C as tcpdump has them | "none"
    MESSAGE  = "type" NUMBER ["code" NUMBER] | echo-request, unreachable, ...    default echo-request
    OPTION   = "vlan=" ID | "inner_vlan=" ID             802.1Q; of two tags the outer is 802.1ad
             | "src_mac=" MAC | "dst_mac=" MAC
             | "payload=" HEX                            behind all headers
             and of IP packets:
             | "ttl=" N | "dscp=" N                      default 64 (neighbour discovery: 255) and 0
             | "length=" N                               IP total length (IPv6: payload length + 40); zeros fill it up
             | "frag=" ("first" | "later" | "none")      later: no transport header, unless there are ports
             | "options"                                 IPv4 options, or an IPv6 hop-by-hop header
    NUMBER   = decimal, or hexadecimal behind "0x"

Headers are the shortest that are right, with right checksums; all but HEX and ``pcap:`` give frames that
:func:`xdpfw.packet.decode.decode` takes. ``ah`` in IPv6 is an extension header with nothing behind it.

    tcp 198.51.100.7:40000 > 203.0.113.1:22 S
    udp [2001:db8::7]:53 > [2001:db8::1]:40000 vlan=100 length=1280
    icmpv6 fe80::1 > ff02::1 router-advertisement
    tcp 198.51.100.7 > 203.0.113.1 frag=later payload=0000000000000016
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from xdpfw.compiler.ir import Family, Fragment
from xdpfw.errors import PolicyError, Position
from xdpfw.packet import decode
from xdpfw.packet.build import IpPacket, build_arp_request, build_ethernet, build_ip
from xdpfw.packet.capture import read_capture

SRC_MAC: Final = 0x020000000001
DST_MAC: Final = 0x020000000002
BROADCAST_MAC: Final = 0xFFFFFFFFFFFF

PROTO_NAMES: Final = {
    "icmp": decode.PROTO_ICMP,
    "tcp": decode.PROTO_TCP,
    "udp": decode.PROTO_UDP,
    "dccp": decode.PROTO_DCCP,
    "gre": decode.PROTO_GRE,
    "esp": decode.PROTO_ESP,
    "ah": decode.PROTO_AH,
    "icmpv6": decode.PROTO_ICMPV6,
    "sctp": decode.PROTO_SCTP,
    "udplite": decode.PROTO_UDPLITE,
}

ICMP_NAMES: Final = {
    decode.PROTO_ICMP: {
        "echo-reply": 0,
        "unreachable": 3,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
    },
    decode.PROTO_ICMPV6: {
        "unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "router-solicitation": 133,
        "router-advertisement": 134,
        "neighbor-solicitation": 135,
        "neighbor-advertisement": 136,
        "redirect": 137,
    },
}

TCP_FLAG_LETTERS: Final = "FSRPAUEC"  # from bit 0 on
FRAGMENT_NAMES: Final = {"first": Fragment.FIRST, "later": Fragment.LATER, "none": Fragment.NONE}
NEIGHBOUR_DISCOVERY_TYPES: Final = range(133, 138)

_ETHERNET_OPTIONS: Final = ("vlan", "inner_vlan", "src_mac", "dst_mac", "payload")
_IP_OPTIONS: Final = (*_ETHERNET_OPTIONS, "ttl", "dscp", "length", "frag", "options")


def parse_packet(text: str, *, base_dir: Path = Path(), position: Position | None = None) -> bytes:
    """The Ethernet frame (no FCS) that ``text`` stands for; the grammar is this module's docstring.

    ``base_dir`` is what the FILE of ``pcap:`` is relative to, ``position`` that of the text's first character.
    Raises PolicyError with the position of the offending word.
    """
    if not text.strip():
        raise PolicyError("there is no packet", position, hint="such as tcp 198.51.100.7:40000 > 203.0.113.1:22 S")
    if text.strip().startswith("pcap:"):
        return _from_capture(text.strip(), base_dir, position)
    digits = re.sub(r"[\s:]", "", text.strip().removeprefix("0x"))
    if re.fullmatch(r"[0-9a-fA-F]+", digits):
        if len(digits) % 2:
            raise PolicyError(f"the hex frame has {len(digits)} digits, an odd number", position)
        return bytes.fromhex(digits)
    return _Parser(text, position).packet()


def _from_capture(text: str, base_dir: Path, position: Position | None) -> bytes:
    found = re.fullmatch(r"pcap:(.+)#([0-9]{1,12})", text)
    if found is None or int(found[2]) == 0:
        raise PolicyError(f'"{text}" names no packet of a capture', position, hint="pcap:FILE#N, N from 1")
    try:
        return _nth_frame(base_dir / found[1], int(found[2]))
    except PolicyError as error:
        raise PolicyError(error.message, position, hint=error.hint) from error


def _nth_frame(path: Path, wanted: int) -> bytes:
    count = 0
    for captured in read_capture(path):
        count = captured.number
        if count == wanted:
            if captured.frame is None:
                raise PolicyError(f"{path}: packet {wanted} has no Ethernet equivalent: link type {captured.link_type}")
            return captured.frame
    raise PolicyError(f"{path} has {count} packets, not {wanted}")


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    offset: int  # in the whole text


@dataclass(slots=True)
class _Options:
    vlan: int | None = None
    inner_vlan: int | None = None
    src_mac: int = SRC_MAC
    dst_mac: int = DST_MAC
    payload: bytes = b""
    ttl: int = 64
    dscp: int = 0
    length: int | None = None
    frag: Fragment = Fragment.NONE
    options: bool = False


class _Parser:
    """Reads one packet from left to right."""

    def __init__(self, text: str, position: Position | None) -> None:
        self.position = position
        self.words = [_Word(found[0], found.start()) for found in re.finditer(r">|[^\s>]+", text)]
        self.end = _Word("", len(text.rstrip()))

    def packet(self) -> bytes:
        kind = self.next("a packet")
        if kind.text == "arp":
            return self.arp()
        if kind.text == "ethertype":
            return self.other()
        if kind.text == "proto":
            return self.ip(kind, self.number(self.next("a protocol number"), 255, "protocol"))
        if kind.text in PROTO_NAMES:
            return self.ip(kind, PROTO_NAMES[kind.text])
        names = ", ".join(sorted((*PROTO_NAMES, "arp", "proto N", "ethertype N")))
        raise self.error(kind, f'"{kind.text}" begins no packet', f"one of {names}, a hex frame, or pcap:FILE#N")

    def arp(self) -> bytes:
        addresses = []
        for word in self.pair():
            address, port = self.endpoint(word)
            if not isinstance(address, IPv4Address) or port is not None:
                raise self.error(word, f'"{word.text}" is no IPv4 address, as those of arp are')
            addresses.append(address)
        options = self.options(_ETHERNET_OPTIONS, _Options(dst_mac=BROADCAST_MAC))
        request = build_arp_request(addresses[0], addresses[1], src_mac=options.src_mac)
        return self.ethernet(request + options.payload, decode.ETHERTYPE_ARP, options)

    def other(self) -> bytes:
        word = self.next("an ethertype")
        ethertype = self.number(word, 0xFFFF, "ethertype")
        if ethertype in (decode.ETHERTYPE_IPV4, decode.ETHERTYPE_IPV6):
            raise self.error(word, f"ethertype {word.text} is IP", "name the protocol: tcp, proto 89, ...")
        if ethertype in (decode.ETHERTYPE_VLAN, decode.ETHERTYPE_QINQ):
            raise self.error(word, f"ethertype {word.text} is a VLAN tag", "the payload's ethertype and vlan=ID")
        options = self.options(_ETHERNET_OPTIONS, _Options())
        return self.ethernet(options.payload, ethertype, options)

    def ip(self, kind: _Word, proto: int) -> bytes:
        ends = self.pair()
        (src, sport), (dst, dport) = self.endpoint(ends[0]), self.endpoint(ends[1])
        if src.version != dst.version:
            raise self.error(ends[1], f"{src} and {dst} are of different families")
        if (kind.text, src.version) in (("icmp", 6), ("icmpv6", 4)):
            right = "icmpv6" if src.version == 6 else "icmp"
            raise self.error(kind, f"{kind.text} between IPv{src.version} addresses", f"{right}, or proto {proto}")
        packet = IpPacket(src=src, dst=dst, proto=proto)
        if proto == decode.PROTO_TCP:
            packet = replace(packet, tcp_flags=self.tcp_flags())
        if decode.has_icmp_header(packet.family, proto):
            icmp_type, icmp_code = self.icmp_message(proto)
            packet = replace(packet, icmp_type=icmp_type, icmp_code=icmp_code)
        is_discovery = proto == decode.PROTO_ICMPV6 and packet.icmp_type in NEIGHBOUR_DISCOVERY_TYPES
        options = self.options(_IP_OPTIONS, _Options(ttl=255 if is_discovery else 64))
        packet = replace(
            packet,
            ttl=options.ttl,
            dscp=options.dscp,
            fragment=options.frag,
            options=options.options,
            payload=options.payload,
        )
        packet = self.with_ports(packet, ends, (sport, dport))
        ethertype = decode.ETHERTYPE_IPV4 if packet.family is Family.IPV4 else decode.ETHERTYPE_IPV6
        return self.ethernet(self.fill_up(kind, packet, options.length), ethertype, options)

    def with_ports(self, packet: IpPacket, ends: tuple[_Word, _Word], ports: tuple[int | None, int | None]) -> IpPacket:
        if ports == (None, None) and packet.fragment is Fragment.LATER:
            return replace(packet, transport_header=False)
        has_ports = packet.proto in decode.PORT_HEADER_BYTES
        for word, port in zip(ends, ports, strict=True):
            if has_ports and port is None:
                example = f"{word.text}:80" if packet.family is Family.IPV4 else f"[{word.text.strip('[]')}]:80"
                raise self.error(word, f'"{word.text}" has no port', example)
            if not has_ports and port is not None:
                raise self.error(word, f'"{word.text}" has a port, which this protocol has not')
        return replace(packet, sport=ports[0] or 0, dport=ports[1] or 0)

    def fill_up(self, kind: _Word, packet: IpPacket, length: int | None) -> bytes:
        """The packet, its payload filled up with zeros to the IP length that was asked for."""
        shortest = len(build_ip(replace(packet, payload=b""))) + len(packet.payload)
        longest = 0xFFFF if packet.family is Family.IPV4 else 40 + 0xFFFF
        wanted = shortest if length is None else length
        if not shortest <= wanted <= longest:
            raise self.error(kind, f"a length of {wanted} does not fit this packet", f"{shortest} to {longest}")
        return build_ip(replace(packet, payload=packet.payload + bytes(wanted - shortest)))

    def ethernet(self, payload: bytes, ethertype: int, options: _Options) -> bytes:
        tags = [tag for tag in (options.vlan, options.inner_vlan) if tag is not None]
        return build_ethernet(payload, ethertype, src_mac=options.src_mac, dst_mac=options.dst_mac, tags=tags)

    def tcp_flags(self) -> int:
        word = self.next_if(lambda text: "=" not in text and text != "options")
        if word is None:
            return 1 << TCP_FLAG_LETTERS.index("S")
        if word.text == "none":
            return 0
        flags = 0
        for letter in word.text.replace(".", "A").replace("W", "C"):
            if letter not in TCP_FLAG_LETTERS:
                hint = f"letters of {TCP_FLAG_LETTERS}, or none"
                raise self.error(word, f'"{letter}" in "{word.text}" is no TCP flag', hint)
            flags |= 1 << TCP_FLAG_LETTERS.index(letter)
        return flags

    def icmp_message(self, proto: int) -> tuple[int, int]:
        names = ICMP_NAMES[proto]
        word = self.next_if(lambda text: "=" not in text and text != "options")
        if word is None:
            return names["echo-request"], 0
        if word.text in names:
            return names[word.text], 0
        if word.text != "type":
            raise self.error(word, f'"{word.text}" is no message', f"type N [code N], or one of {', '.join(names)}")
        icmp_type = self.number(self.next("a type"), 255, "type")
        if self.next_if(lambda text: text == "code") is None:
            return icmp_type, 0
        return icmp_type, self.number(self.next("a code"), 255, "code")

    def options(self, known: tuple[str, ...], options: _Options) -> _Options:
        """Reads to the end of the text."""
        seen: set[str] = set()
        while word := self.next_if(lambda _: True):
            name, equals, value = word.text.partition("=")
            if name not in known or (name == "options") == bool(equals):
                forms = ", ".join(option if option == "options" else f"{option}=..." for option in known)
                raise self.error(word, f'"{word.text}" is no option of this packet', f"known are {forms}")
            if name in seen:
                raise self.error(word, f'"{name}" stands twice')
            seen.add(name)
            setattr(options, name, self.option_value(name, _Word(value, word.offset + len(name) + 1)))
        if options.inner_vlan is not None and options.vlan is None:
            raise self.error(self.end, "inner_vlan without vlan", "vlan=ID for the outer tag")
        return options

    def option_value(self, name: str, word: _Word) -> int | bytes | Fragment:
        match name:
            case "vlan" | "inner_vlan":
                return self.number(word, 4095, name)
            case "src_mac" | "dst_mac":
                if not re.fullmatch(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}", word.text):
                    raise self.error(word, f'"{word.text}" is no MAC address', "six bytes such as 02:00:00:00:00:01")
                return int(re.sub("[:-]", "", word.text), 16)
            case "payload":
                if not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", word.text):
                    raise self.error(word, f'payload "{word.text}" is no hex', "two digits a byte")
                return bytes.fromhex(word.text)
            case "ttl":
                return self.number(word, 255, name)
            case "dscp":
                return self.number(word, 63, name)
            case "length":
                return self.number(word, 40 + 0xFFFF, name)
            case "frag":
                if word.text not in FRAGMENT_NAMES:
                    raise self.error(word, f'"{word.text}" is no fragment', "first, later or none")
                return FRAGMENT_NAMES[word.text]
            case _:
                return True

    def pair(self) -> tuple[_Word, _Word]:
        """``A > B``."""
        src = self.next("a source address")
        arrow = self.next('">"')
        if arrow.text != ">":
            raise self.error(arrow, f'"{arrow.text}" stands where ">" should', "SOURCE > DESTINATION")
        return src, self.next("a destination address")

    def endpoint(self, word: _Word) -> tuple[IPv4Address | IPv6Address, int | None]:
        """An address, and the port if there is one."""
        found = re.fullmatch(r"\[([^][]*)\](?::(.*))?|([0-9]+[.][0-9.]*):(.*)", word.text)
        address_text, port_text = (found[1] or found[3], found[2] or found[4]) if found else (word.text, None)
        try:
            address = ipaddress.ip_address(address_text)
        except ValueError:
            address = None
        if address is None or (isinstance(address, IPv6Address) and address.scope_id is not None):
            raise self.error(
                word, f'"{word.text}" is no address', "such as 192.0.2.1, 192.0.2.1:80 or [2001:db8::1]:80"
            )
        if port_text is None:
            return address, None
        return address, self.number(_Word(port_text, word.offset + len(word.text) - len(port_text)), 65535, "port")

    def number(self, word: _Word, highest: int, what: str) -> int:
        if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", word.text):
            raise self.error(word, f'{what} "{word.text}" is no number', f"0 to {highest}")
        value = int(word.text, 16 if word.text[:2] in ("0x", "0X") else 10)
        if value > highest:
            raise self.error(word, f"{what} {word.text} is above {highest}")
        return value

    def next(self, what: str) -> _Word:
        if not self.words:
            raise self.error(self.end, f"the packet ends where {what} should follow")
        return self.words.pop(0)

    def next_if(self, is_wanted: Callable[[str], bool]) -> _Word | None:
        return self.words.pop(0) if self.words and is_wanted(self.words[0].text) else None

    def error(self, word: _Word, message: str, hint: str | None = None) -> PolicyError:
        position = self.position and replace(self.position, column=self.position.column + word.offset)
        return PolicyError(message, position, hint=hint)


def describe(frame: bytes) -> str:
    """A frame on one line: in the notation, without MAC addresses and payload, or why it cannot be parsed."""
    packet = decode.decode(frame)
    if isinstance(packet, decode.Invalid):
        return f"{packet.reason} ({len(frame)} bytes)"
    words = [_describe_head(packet, frame)]
    if packet.vlan is not None:
        words.append(f"vlan={packet.vlan}")
    if packet.inner_vlan is not None:
        words.append(f"inner_vlan={packet.inner_vlan}")
    if packet.family is not Family.OTHER:
        words.append(f"ttl={packet.ttl}")
        if packet.dscp:
            words.append(f"dscp={packet.dscp}")
        words.append(f"length={packet.length}")
        if packet.fragment:
            words.append(f"frag={packet.fragment.name.lower()}")
        if packet.ip_options:
            words.append("options")
    return " ".join(words)


def _describe_head(packet: decode.Packet, frame: bytes) -> str:
    if packet.src is None or packet.dst is None or packet.proto is None:
        if packet.ethertype == decode.ETHERTYPE_ARP:
            at = next(at for at in range(12, len(frame), 4) if frame[at : at + 2] == b"\x08\x06") + 2
            if frame[at : at + 6] == bytes((0, 1, 8, 0, 6, 4)) and len(frame) >= at + 28:
                return f"arp {IPv4Address(frame[at + 14 : at + 18])} > {IPv4Address(frame[at + 24 : at + 28])}"
        return f"ethertype 0x{packet.ethertype:04x}"
    name = next((name for name, proto in PROTO_NAMES.items() if proto == packet.proto), f"proto {packet.proto}")
    if packet.proto in ICMP_NAMES and not decode.has_icmp_header(packet.family, packet.proto):
        name = f"proto {packet.proto}"
    to_address = IPv4Address if packet.family is Family.IPV4 else IPv6Address
    ends = [str(to_address(packet.src)), str(to_address(packet.dst))]
    if packet.sport is not None:
        form = "{}:{}" if packet.family is Family.IPV4 else "[{}]:{}"
        ends = [form.format(end, port) for end, port in zip(ends, (packet.sport, packet.dport), strict=True)]
    words = [f"{name} {ends[0]} > {ends[1]}"]
    if packet.tcp_flags is not None:
        words.append(format_tcp_flags(packet.tcp_flags))
    if packet.icmp_type is not None:
        words.append(f"type {packet.icmp_type} code {packet.icmp_code}")
    return " ".join(words)


def format_tcp_flags(flags: int) -> str:
    """The flag byte as FLAGS of the notation."""
    return "".join(letter for bit, letter in enumerate(TCP_FLAG_LETTERS) if flags >> bit & 1) or "none"
