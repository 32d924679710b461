# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures of odd and malformed traffic: each packet through the program in the kernel and through the reference."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.frames import QINQ, VLAN
from tests.kernel.agreement import agreement
from tests.policies import INTERFACES
from tests.shared_data import shared
from xdpfw.compiler import grouping, ir
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.packet.capture import read_capture
from xdpfw.packet.decode import INVALID_REASONS, Invalid, Packet, decode
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

pytestmark = pytest.mark.needs("privileges", "data plane")

LONGEST_FRAME = 65_535
FILE_HEADER_BYTES, RECORD_HEADER_BYTES = 24, 16  # https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html


FOLDER = Path(__file__).with_name("captures")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
"""Between them, these policies use every field."""


def policy(name: str) -> ir.Policy:
    return lower(load(str(FOLDER / f"{name}.yaml"), Sources.from_disk()))


def ethernet_frames(path: Path) -> Iterator[bytes]:
    """What the project's own reader makes of a capture, up to where it is cut short."""
    with contextlib.suppress(PolicyError):
        yield from (captured.frame for captured in read_capture(path) if captured.frame is not None)


def records(path: Path) -> Iterator[bytes]:
    """The bytes of each packet of a pcap file whatever its link type is: as Ethernet, some are odder than any other."""
    data = path.read_bytes()
    order = "<" if data[0] in (0xD4, 0x4D) else ">"
    at = FILE_HEADER_BYTES
    while at + RECORD_HEADER_BYTES <= len(data):
        (length,) = struct.unpack_from(f"{order}8xI", data, at)
        at += RECORD_HEADER_BYTES
        yield data[at : at + length]
        at += length


@functools.cache
def frames() -> list[bytes]:
    """Those of all captures, each once, in a fixed order."""
    paths = sorted(shared("pcaps").rglob("*.pcap"))
    found = (frame for path in paths for read in (ethernet_frames, records) for frame in read(path))
    return list(dict.fromkeys(frame for frame in found if len(frame) <= LONGEST_FRAME))


@pytest.mark.parametrize("name", NAMES)
def test_kernel_and_reference_agree(name: str) -> None:
    """On verdict, reason, rule and frame of each packet, and on all counters."""
    with agreement(policy(name)) as both:
        for number, frame in enumerate(frames()):
            both.run(frame, number % len(INTERFACES))
        unused = {rule.name for rule in both.policy.rules if not both.counted(rule.name)}
    assert unused == set()


def test_kernel_and_reference_agree_in_a_large_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where addresses are found through pairs and rows."""
    monkeypatch.setattr(grouping, "WIDE_ONLY", 0)
    with agreement(policy("hosts")) as both:
        for frame in frames():
            both.run(frame)


def damaged(frame: bytes, random: Random) -> bytes:
    """Cut short, with a byte changed among the headers, or with a tag in front."""
    at = random.randrange(12, max(13, min(len(frame), 90)))
    match random.randrange(4):
        case 0:
            return frame[:at]
        case 1:
            return frame[:12] + struct.pack("!HH", random.choice((VLAN, QINQ)), at) + frame[12:]
        case _:
            return frame[:at] + bytes((random.choice((0, 1, 0xFF, random.randrange(256))),)) + frame[at + 1 :]


@pytest.mark.parametrize("name", NAMES)
def test_kernel_and_reference_agree_on_damaged_captures(name: str) -> None:
    random = Random(name)
    with agreement(policy(name)) as both:
        for frame in frames():
            for _ in range(4):
                both.run(damaged(frame, random), random.choice((0, 1, 2, None)))


def test_the_policies_use_every_field() -> None:
    matches = [match for name in NAMES for rule in policy(name).rules for match in (rule.match, rule.unless)]
    # Who has knocked, and which packets are of flows, is in no packet: see test_knock_property.py and test_flows.py.
    fields = {field.name for field in dataclasses.fields(ir.Match)} - {"knocked", "state"}
    assert [name for name in fields if all(getattr(match, name, None) is None for match in matches)] == []


def test_the_captures_are_as_odd_as_this_file_says() -> None:
    found = [packet for packet in map(decode, frames()) if isinstance(packet, Packet)]
    reasons = {packet.reason for packet in map(decode, frames()) if isinstance(packet, Invalid)}
    assert set(INVALID_REASONS) - reasons <= {"invalid.vlan_tags", "invalid.tcp_offset"}
    assert {packet.fragment for packet in found} == {None, *ir.Fragment}
    assert any(packet.inner_vlan is not None for packet in found)
    assert any(packet.ip_options and packet.family is ir.Family.IPV6 for packet in found)
