# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures of every form: written here byte by byte, by scapy, and the shared ones."""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, PcapWriter

from xdpfw.errors import PolicyError
from xdpfw.packet.capture import CapturedFrame, read_capture
from xdpfw.packet.decode import decode
from xdpfw.packet.notation import describe

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pcaps"

FRAME = bytes(range(60))
IPV4_PACKET = bytes.fromhex("4500001c000000004011000001020304050607080001000200080000")
IPV6_PACKET = bytes.fromhex("6000000000003b40") + bytes(32)
TIME_NS = 1_700_000_000_123_456_789


def read(path: Path) -> list[CapturedFrame]:
    return list(read_capture(path))


def read_until_error(path: Path) -> tuple[list[CapturedFrame], str | None]:
    frames = []
    try:
        for frame in read_capture(path):
            frames.append(frame)  # noqa: PERF402 - what came before an error counts
    except PolicyError as error:
        return frames, str(error)
    return frames, None


def pcap(
    *packets: bytes,
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    link_type: int = 1,
    tick_ns: int = 1000,
    tail: bytes = b"",
    more_bytes: int = 0,
) -> bytes:
    seconds, rest_ns = divmod(TIME_NS, 1_000_000_000)
    file = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for packet in packets:
        header = (seconds, rest_ns // tick_ns, len(packet), len(packet) + more_bytes)
        file += struct.pack(f"{order}IIII", *header) + tail + packet
    return file


def block(block_type: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", block_type) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, snap_bytes: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link_type, 0, snap_bytes) + options, order)


def enhanced(packet: bytes, index: int = 0, ticks: int = 0, more_bytes: int = 0, order: str = "<") -> bytes:
    fields = (index, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet) + more_bytes)
    return block(6, struct.pack(f"{order}IIIII", *fields) + packet + bytes(-len(packet) % 4), order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "tick_ns", "tail"),
    [(0xA1B2C3D4, 1000, b""), (0xA1B23C4D, 1, b""), (0xA1B2CD34, 1000, bytes(8))],
)
def test_pcap(tmp_path: Path, order: str, magic: int, tick_ns: int, tail: bytes) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(FRAME, b"", order=order, magic=magic, tick_ns=tick_ns, tail=tail))
    time_ns = TIME_NS // tick_ns * tick_ns
    assert read(path) == [CapturedFrame(1, time_ns, FRAME, False, 1), CapturedFrame(2, time_ns, b"", False, 1)]


def test_packets_that_were_cut_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(FRAME, more_bytes=1))
    assert [frame.cut for frame in read(path)] == [True]
    path.write_bytes(section() + interface(snap_bytes=60) + enhanced(FRAME, more_bytes=1))
    assert [frame.cut for frame in read(path)] == [True]


def test_fcs_length_is_no_part_of_the_link_type(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(FRAME, link_type=0x04000001))
    assert read(path)[0].frame == FRAME


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks(tmp_path: Path, order: str) -> None:
    path = tmp_path / "capture"
    seconds_tick = struct.pack(f"{order}HHB3x", 9, 1, 0)
    binary_tick = struct.pack(f"{order}HHB3x", 9, 1, 0x80 | 10) + struct.pack(f"{order}HHqHH", 14, 8, 100, 0, 0)
    name = struct.pack(f"{order}HH4s", 2, 3, b"eth")
    obsolete = struct.pack(f"{order}HHIIII", 1, 0, 0, 7, len(FRAME), len(FRAME)) + FRAME
    path.write_bytes(
        section(order)
        + interface(order=order, options=name)
        + interface(order=order, options=seconds_tick)
        + interface(order=order, options=name + binary_tick)
        + block(0xBAD, b"skip me", order)
        + enhanced(FRAME, ticks=5 << 32, order=order)
        + block(2, obsolete, order)
        + enhanced(FRAME, index=2, ticks=1536, order=order)
        + block(3, struct.pack(f"{order}I", len(FRAME)) + FRAME, order)
    )
    assert [frame.time_ns for frame in read(path)] == [(5 << 32) * 1000, 7 * 10**9, 101_500_000_000, 0]
    assert {frame.frame for frame in read(path)} == {FRAME}


def test_pcapng_sections_have_their_own_order_and_interfaces(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    first = section("<") + interface() + enhanced(FRAME)
    path.write_bytes(first + section(">") + interface(link_type=228, order=">") + enhanced(IPV4_PACKET, order=">"))
    assert [frame.link_type for frame in read(path)] == [1, 228]
    path.write_bytes(first + section(">") + enhanced(FRAME, order=">"))
    with pytest.raises(PolicyError, match=r"packet 2 is of interface 0, but the section describes 0"):
        read(path)


def test_simple_packets_have_the_snap_length_of_their_interface(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(section() + interface(snap_bytes=20) + block(3, struct.pack("<I", 60) + FRAME[:20]))
    assert read(path) == [CapturedFrame(1, 0, FRAME[:20], True, 1)]


@pytest.mark.parametrize("writer", [PcapWriter, PcapNgWriter])
def test_scapy_writes_what_is_read(tmp_path: Path, writer: type[PcapWriter]) -> None:
    path = tmp_path / "capture"
    with writer(str(path)) as file:
        for _ in range(3):
            file.write(Ether(FRAME))
    assert [frame.frame for frame in read(path)] == [FRAME] * 3


@pytest.mark.parametrize(
    ("link_type", "data", "ethertype", "packet"),
    [
        (101, IPV4_PACKET, "0800", IPV4_PACKET),
        (12, IPV6_PACKET, "86dd", IPV6_PACKET),
        (14, b"", "0800", b""),
        (228, IPV4_PACKET, "0800", IPV4_PACKET),
        (229, IPV6_PACKET, "86dd", IPV6_PACKET),
        (0, struct.pack("<I", 2) + IPV4_PACKET, "0800", IPV4_PACKET),
        (0, struct.pack(">I", 30) + IPV6_PACKET, "86dd", IPV6_PACKET),
        (108, struct.pack(">I", 24) + IPV6_PACKET, "86dd", IPV6_PACKET),
        (113, bytes(14) + b"\x08\x00" + IPV4_PACKET, "0800", IPV4_PACKET),
        (276, b"\x86\xdd" + bytes(18) + IPV6_PACKET, "86dd", IPV6_PACKET),
    ],
)
def test_link_types_get_an_ethernet_header(
    tmp_path: Path, link_type: int, data: bytes, ethertype: str, packet: bytes
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(data, link_type=link_type))
    assert read(path)[0].frame == bytes(12) + bytes.fromhex(ethertype) + packet


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (127, FRAME),
        (0, struct.pack("<I", 7) + FRAME),
        (0, b"\x02\x00\x00"),
        (113, bytes(15)),
        (276, bytes(19)),
        (113, b"\x00\x00" + struct.pack("!H", 824) + bytes(12) + FRAME),
    ],
)
def test_what_has_no_ethernet_equivalent_has_no_frame(tmp_path: Path, link_type: int, data: bytes) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(data, link_type=link_type))
    assert read(path) == [CapturedFrame(1, TIME_NS // 1000 * 1000, None, False, link_type)]


@pytest.mark.parametrize(
    "whole",
    [
        pcap(FRAME, FRAME),
        section() + interface() + enhanced(FRAME) + enhanced(FRAME),
    ],
)
def test_files_that_are_cut_short_say_where(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "capture"
    path.write_bytes(whole)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        frames, error = read_until_error(path)
        assert len(frames) <= 1
        assert error is None or f"{path}: byte " in error
        assert [frame.frame for frame in frames] == [FRAME] * len(frames)


def test_the_offset_is_that_of_what_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(FRAME, FRAME)[:-10])
    frames, error = read_until_error(path)
    assert len(frames) == 1
    place = f"{path}: byte {24 + 16 + 60 + 16}"
    hint = "the file is damaged or not whole: copy or capture it again"
    assert error == f"{place}: packet 2 is cut short: 50 of 60 bytes ({hint})"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (pcap() + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0xFFFFFFFF), "byte 24: packet 1 claims 4294967295 bytes"),
        (section() + struct.pack("<II", 1, 0xFFFFFFFC), "byte 28: a block claims 4294967292 bytes"),
        (section() + struct.pack("<II", 0xBAD, 0xFFFFFFFC), "byte 36: the file ends where a block should begin"),
        (section() + struct.pack("<II", 1, 8), "byte 28: a block claims a length of 8 bytes"),
        (section() + struct.pack("<II", 1, 13), "byte 28: a block claims a length of 13 bytes"),
        (section()[:-4] + bytes(4), "byte 0: a block's two lengths differ"),
        (section()[:8] + bytes(20), "byte 8: 00 00 00 00 tells no byte order"),
        (section() + block(1, b""), "byte 28: 8 bytes stand in a block that has 0 left"),
        (section() + interface(options=b"\x02\x00\xff\xff"), "byte 28: 65535 bytes stand in a block that has 0 left"),
        (
            b"\x1f\x8b\x08\x00",
            "byte 0: a file that begins with 1f 8b 08 00 is no capture, pcap or pcapng (write one with tcpdump",
        ),
        (b"", "byte 0: the file ends where the file header should begin"),
    ],
)
def test_nonsense(tmp_path: Path, file: bytes, message: str) -> None:
    path = tmp_path / "capture"
    path.write_bytes(file)
    with pytest.raises(PolicyError) as caught:
        read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("path", ["missing", ".", "\0"])
def test_files_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    with pytest.raises(PolicyError, match="cannot read"):
        read(tmp_path / path)


@given(st.binary(max_size=300), st.sampled_from([pcap(), section(), section() + interface(), section(">")]))
def test_garbage_behind_a_header_is_a_policy_error_or_packets(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, header: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(header + garbage)
    read_until_error(path)


def index() -> list[dict[str, str]]:
    if not (SHARED / "INDEX.tsv").exists():
        print(f"no captures at {SHARED}: skipped")
        return []
    with (SHARED / "INDEX.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.skipif(not SHARED.exists(), reason=f"no captures at {SHARED}")
def test_shared_captures_are_read_whole_and_decoded() -> None:
    rows = index()
    assert rows
    for row in rows:
        frames = read(SHARED / row["path"])
        assert len(frames) == int(row["packets"]), row["path"]
        assert sum(frame.cut for frame in frames) == int(row["snaplen_cut"]), row["path"]
        for frame in frames:
            if frame.frame is not None:
                decode(frame.frame)
                describe(frame.frame)
