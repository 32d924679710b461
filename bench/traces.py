# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers to send through a policy: a filter set's own trace, one that lies in its filters, and that of ten rules."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.filtersets import FilterSet, Packet
from tests.frames import NO_NEXT_HEADER
from xdpfw.packet.decode import EXTENSION_HEADERS

MIN_FRAME_BYTES: Final = 60
_PCAP_HEADER: Final = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)  # version 2.4, Ethernet


def within(filters: FilterSet, seed: int = 1) -> list[Packet]:
    """A header in each filter, anywhere in it, in an order without order."""
    source = random.Random(seed)
    found = []
    for each in source.sample(filters.filters, len(filters.filters)):
        src, dst, sport, dport, proto = (
            source.randint(*span) for span in (each.src, each.dst, each.sport, each.dport, each.proto)
        )
        if filters.bits == 128 and proto in EXTENSION_HEADERS:
            proto = NO_NEXT_HEADER  # the others are no protocols there
        found.append(Packet(src, dst, sport, dport, proto))
    return found


def spread(frames: Sequence[bytes], count: int) -> list[bytes]:
    """``count`` distinct frames from all over a trace, or all of them."""
    distinct = list(dict.fromkeys(frames))
    return distinct[:: max(1, len(distinct) // count)][:count]


def write_pcap(path: Path, frames: Sequence[bytes]) -> None:
    """As a capture of Ethernet frames, each as long as the shortest that a wire carries, at least."""
    with path.open("wb") as file:
        file.write(_PCAP_HEADER)
        for frame in frames:
            padded = frame.ljust(MIN_FRAME_BYTES, b"\0")
            file.write(struct.pack("<IIII", 0, 0, len(padded), len(padded)) + padded)
