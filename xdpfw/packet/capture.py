# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures, packet by packet: pcap and pcapng, of either byte order.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng. Everything that a file claims is held against a bound
before memory is given to it. Link types without an Ethernet header but with IP inside get one put in front.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from xdpfw.errors import PolicyError
from xdpfw.packet.decode import ETHERTYPE_IPV4, ETHERTYPE_IPV6

MAX_PACKET_BYTES: Final = 256 * 1024  # libpcap's MAXIMUM_SNAPLEN; more is garbage
MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024  # of a pcapng block that is read and not skipped
SKIP_BYTES: Final = 64 * 1024  # at a time
NS_PER_S: Final = 1_000_000_000

LINKTYPE_NULL: Final = 0
LINKTYPE_ETHERNET: Final = 1
LINKTYPES_RAW: Final = (12, 14, 101)  # 12 and 14 are what some systems wrote for 101
LINKTYPE_LOOP: Final = 108
LINKTYPE_LINUX_SLL: Final = 113
LINKTYPE_IPV4: Final = 228
LINKTYPE_IPV6: Final = 229
LINKTYPE_LINUX_SLL2: Final = 276

# AF_INET is 2 everywhere, AF_INET6 differs by system.
_ETHERTYPE_OF_AF: Final = {2: ETHERTYPE_IPV4} | dict.fromkeys((10, 23, 24, 28, 30), ETHERTYPE_IPV6)

# Devices whose "protocol" in LINUX_SLL is no ethertype: Frame Relay, GRE, 802.11 radiotap, netlink.
_ARPHRD_WITHOUT_ETHERTYPE: Final = (770, 778, 803, 824)


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One packet of a capture."""

    number: int  # from 1
    time_ns: int  # since 1970; 0 where the capture does not say
    frame: bytes | None  # Ethernet, no FCS; None where the link type or the packet has no Ethernet equivalent
    cut: bool  # the capture has fewer bytes of the packet than there were
    link_type: int  # LINKTYPE_ number, https://www.tcpdump.org/linktypes.html


def read_capture(path: Path) -> Iterator[CapturedFrame]:
    """The packets of a pcap or pcapng file, in its order, read as they are asked for.

    Raises PolicyError with the byte offset where the file is cut short or makes no sense, after the packets before.
    """
    try:
        with path.open("rb") as file:
            stream = _Stream(file, str(path))
            magic = stream.take(4, "the file header")
            if magic == _SECTION_MAGIC:
                yield from _read_pcapng(stream)
            elif magic in _PCAP_MAGICS:
                yield from _read_pcap(stream, *_PCAP_MAGICS[magic])
            else:
                message = f"a file that begins with {magic.hex(' ')} is no capture, pcap or pcapng"
                raise stream.error(message, 0, "write one with tcpdump -w FILE")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PolicyError(f"cannot read {path}: {reason}") from error


class _Stream:
    """A file that is only read forwards, so that a pipe will do, and that knows where it is."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.offset = 0

    def take(self, size: int, what: str) -> bytes:
        data = self.take_unless_end(size, what)
        if data is None:
            raise self.error(f"the file ends where {what} should begin", self.offset)
        return data

    def take_unless_end(self, size: int, what: str) -> bytes | None:
        """``size`` bytes, or None if the file ends right here."""
        start = self.offset
        data = self.file.read(size)
        self.offset += len(data)
        if len(data) < size:
            if not data:  # and so size is not 0
                return None
            raise self.error(f"{what} is cut short: {len(data)} of {size} bytes", start)
        return data

    def skip(self, size: int, what: str) -> None:
        while size > 0:
            size -= len(self.take(min(size, SKIP_BYTES), what))

    def error(
        self, message: str, at: int, hint: str = "the file is damaged or not whole: copy or capture it again"
    ) -> PolicyError:
        return PolicyError(f"{self.name}: byte {at}: {message}", hint=hint)


_MICROSECONDS: Final = 1000
_NANOSECONDS: Final = 1
_RECORD: Final = "IIII"
_RECORD_KUZNETZOV: Final = "IIIIIHBx"

# First bytes of the file: byte order, ns a tick, form of a record's header.
_PCAP_MAGICS: Final = {
    magic.to_bytes(4, "big" if order == ">" else "little"): (order, tick_ns, record)
    for magic, tick_ns, record in (
        (0xA1B2C3D4, _MICROSECONDS, _RECORD),
        (0xA1B23C4D, _NANOSECONDS, _RECORD),
        (0xA1B2CD34, _MICROSECONDS, _RECORD_KUZNETZOV),
    )
    for order in "<>"
}


def _read_pcap(stream: _Stream, order: str, tick_ns: int, record_form: str) -> Iterator[CapturedFrame]:
    """All behind the magic number. A record's header begins with seconds, ticks, bytes kept, bytes there were."""
    # The upper half of the link type tells of an FCS.
    link_type = struct.unpack(f"{order}16xI", stream.take(20, "the file header"))[0] & 0xFFFF
    record = struct.Struct(order + record_form)
    number = 0
    while True:
        start = stream.offset
        header = stream.take_unless_end(record.size, f"the header of packet {number + 1}")
        if header is None:
            return
        number += 1
        seconds, ticks, kept_bytes, packet_bytes, *_ = record.unpack(header)
        if kept_bytes > MAX_PACKET_BYTES:
            message = (
                f"packet {number} claims {kept_bytes} bytes, more than the {MAX_PACKET_BYTES} that a packet may have"
            )
            raise stream.error(message, start)
        data = stream.take(kept_bytes, f"packet {number}")
        time_ns = seconds * NS_PER_S + ticks * tick_ns
        yield CapturedFrame(number, time_ns, _to_ethernet(link_type, data), kept_bytes < packet_bytes, link_type)


_SECTION_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
_SECTION_HEADER: Final = 0x0A0D0D0A  # in both byte orders
_INTERFACE_DESCRIPTION: Final = 1
_OBSOLETE_PACKET: Final = 2
_SIMPLE_PACKET: Final = 3
_ENHANCED_PACKET: Final = 6
_PACKETS: Final = (_OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET)

_OPTION_END: Final = 0
_OPTION_IF_TSRESOL: Final = 9
_OPTION_IF_TSOFFSET: Final = 14


@dataclass(frozen=True, slots=True)
class _Interface:
    link_type: int
    kept_bytes: int  # of a packet at most; 0: all
    ticks_per_s: int
    offset_s: int


class _Block:
    """A pcapng block; reads beyond its end are errors with the offset of the block."""

    def __init__(self, stream: _Stream, start: int, order: str, type: int, body: bytes) -> None:
        self.stream = stream
        self.start = start
        self.order = order
        self.type = type
        self.body = body

    def unpack(self, form: str) -> tuple[int, ...]:
        """Take the fields of ``form`` off the front."""
        layout = struct.Struct(self.order + form)
        return layout.unpack(self.take(layout.size))

    def take(self, size: int) -> bytes:
        if size > len(self.body):
            raise self.error(f"{size} bytes stand in a block that has {len(self.body)} left")
        data, self.body = self.body[:size], self.body[size:]
        return data

    def error(self, message: str) -> PolicyError:
        return self.stream.error(message, self.start)


def _read_pcapng(stream: _Stream) -> Iterator[CapturedFrame]:
    """All behind the first block's type."""
    number = 0
    interfaces: list[_Interface] = []
    for block in _read_blocks(stream):
        if block.type == _SECTION_HEADER:
            interfaces = []
        elif block.type == _INTERFACE_DESCRIPTION:
            interfaces.append(_read_interface(block))
        elif block.type in _PACKETS:
            number += 1
            yield _read_packet(block, interfaces, number)


def _read_blocks(stream: _Stream) -> Iterator[_Block]:
    """The blocks, of which only those of interfaces and packets have a body here."""
    order = "<"
    type_bytes: bytes | None = _SECTION_MAGIC
    while type_bytes is not None:
        start = stream.offset - 4
        length_bytes = stream.take(4, "a block's length")
        if type_bytes == _SECTION_MAGIC:
            order = _section_order(stream)
        block_type, block_bytes = struct.unpack(f"{order}II", type_bytes + length_bytes)
        body_bytes = block_bytes - (stream.offset - start) - 4
        if body_bytes < 0 or block_bytes % 4:
            raise stream.error(f"a block claims a length of {block_bytes} bytes", start, "a multiple of 4, from 12 on")
        if block_type != _INTERFACE_DESCRIPTION and block_type not in _PACKETS:
            stream.skip(body_bytes, "a block")
            body = b""
        elif body_bytes > MAX_BLOCK_BYTES:
            raise stream.error(f"a block claims {block_bytes} bytes, more than {MAX_BLOCK_BYTES}", start)
        else:
            body = stream.take(body_bytes, "a block")
        if stream.take(4, "a block's second length") != length_bytes:
            raise stream.error("a block's two lengths differ", start)
        yield _Block(stream, start, order, block_type, body)
        type_bytes = stream.take_unless_end(4, "a block's type")


def _section_order(stream: _Stream) -> str:
    """The byte order that a section header's byte-order magic tells."""
    magic = stream.take(4, "a section's byte order")
    if magic not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
        raise stream.error(f"{magic.hex(' ')} tells no byte order", stream.offset - 4, "1a 2b 3c 4d or its reverse")
    return "<" if magic[0] == 0x4D else ">"


def _read_interface(block: _Block) -> _Interface:
    link_type, _, kept_bytes = block.unpack("HHI")
    ticks_per_s = 1_000_000
    offset_s = 0
    while len(block.body) >= 4:
        code, size = block.unpack("HH")
        if code == _OPTION_END:
            break
        value = block.take(size)
        block.take(-size % 4)
        if code == _OPTION_IF_TSRESOL and size == 1:
            ticks_per_s = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _OPTION_IF_TSOFFSET and size == 8:
            (offset_s,) = struct.unpack(f"{block.order}q", value)
    return _Interface(link_type, kept_bytes, ticks_per_s, offset_s)


def _read_packet(block: _Block, interfaces: list[_Interface], number: int) -> CapturedFrame:
    if block.type == _SIMPLE_PACKET:
        index, ticks = 0, None
        (packet_bytes,) = block.unpack("I")
        kept_bytes = min(packet_bytes, len(block.body))
    else:
        form = "IIIII" if block.type == _ENHANCED_PACKET else "HxxIIII"
        index, ticks_high, ticks_low, kept_bytes, packet_bytes = block.unpack(form)
        ticks = ticks_high << 32 | ticks_low
    if index >= len(interfaces):
        raise block.error(f"packet {number} is of interface {index}, but the section describes {len(interfaces)}")
    interface = interfaces[index]
    if block.type == _SIMPLE_PACKET and interface.kept_bytes:
        kept_bytes = min(kept_bytes, interface.kept_bytes)
    if kept_bytes > MAX_PACKET_BYTES:
        raise block.error(f"packet {number} claims {kept_bytes} bytes, more than the {MAX_PACKET_BYTES} it may have")
    data = block.take(kept_bytes)
    time_ns = 0 if ticks is None else ticks * NS_PER_S // interface.ticks_per_s + interface.offset_s * NS_PER_S
    frame = _to_ethernet(interface.link_type, data)
    return CapturedFrame(number, time_ns, frame, kept_bytes < packet_bytes, interface.link_type)


def _to_ethernet(link_type: int, data: bytes) -> bytes | None:
    """``data`` behind an Ethernet header with both addresses zero, if its link header tells the ethertype."""
    if link_type == LINKTYPE_ETHERNET:
        return data
    ethertype, header_bytes = _link_header(link_type, data)
    if ethertype is None:
        return None
    return bytes(12) + ethertype.to_bytes(2) + data[header_bytes:]


def _link_header(link_type: int, data: bytes) -> tuple[int | None, int]:
    """The ethertype, None if there is none, and the length of the header that tells it."""
    if link_type in LINKTYPES_RAW:
        return (ETHERTYPE_IPV6 if data[:1] and data[0] >> 4 == 6 else ETHERTYPE_IPV4), 0
    if link_type == LINKTYPE_IPV4:
        return ETHERTYPE_IPV4, 0
    if link_type == LINKTYPE_IPV6:
        return ETHERTYPE_IPV6, 0
    if link_type in (LINKTYPE_NULL, LINKTYPE_LOOP) and len(data) >= 4:
        # LOOP is big-endian, NULL of the writer's byte order; address families are small numbers.
        address_family = min(int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
        return _ETHERTYPE_OF_AF.get(address_family), 4
    if link_type == LINKTYPE_LINUX_SLL and len(data) >= 16:
        hardware, ethertype = struct.unpack_from("!2xH10xH", data)
        return (None if hardware in _ARPHRD_WITHOUT_ETHERTYPE else ethertype), 16
    if link_type == LINKTYPE_LINUX_SLL2 and len(data) >= 20:
        ethertype, hardware = struct.unpack_from("!H6xH", data)
        return (None if hardware in _ARPHRD_WITHOUT_ETHERTYPE else ethertype), 20
    return None, 0
