# SPDX-License-Identifier: GPL-2.0-or-later
"""ClassBench's filter sets as policies, packets at their corners, and a linear scan that is fast enough for them.

A line is ``@SRC/LEN  DST/LEN  SPLO : SPHI  DPLO : DPHI  PROTO/MASK  FLAGS/MASK``, the first one first. The flags are
left out; so are ports of protocols that have none.
"""

from __future__ import annotations

import gzip
import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tests import frames
from tests.policies import policy, prefix
from xdpfw.compiler import ir
from xdpfw.compiler.ir import Action, ActionKind, AddressRanges, Match, Range
from xdpfw.packet.decode import EXTENSION_HEADERS

_DIGITS_OF_64_BITS: Final = 20
EVERY_PORT: Final = Range(0, 65535)
EVERY_PROTO: Final = Range(0, 255)


@dataclass(frozen=True, slots=True)
class Filter:
    src: Range
    dst: Range
    sport: Range
    dport: Range
    proto: Range


@dataclass(frozen=True, slots=True)
class Packet:
    src: int
    dst: int
    sport: int
    dport: int
    proto: int


@dataclass(frozen=True, slots=True)
class FilterSet:
    bits: int  # of an address: 32 or 128
    filters: list[Filter]

    def policy(self) -> ir.Policy:
        """A rule a filter, pass and drop in turns; what none matches is passed."""
        rules = [
            ir.Rule(f"r{i}", self._match(each), Action(ActionKind.DROP if i % 2 else ActionKind.PASS))
            for i, each in enumerate(self.filters)
        ]
        return policy(*rules)

    def _match(self, found: Filter) -> Match:
        def addresses(span: Range) -> AddressRanges | None:
            if span == Range(0, (1 << self.bits) - 1):
                return None
            return AddressRanges(v4=(span,)) if self.bits == 32 else AddressRanges(v6=(span,))

        return Match(
            src=addresses(found.src),
            dst=addresses(found.dst),
            sport=None if found.sport == EVERY_PORT else (found.sport,),
            dport=None if found.dport == EVERY_PORT else (found.dport,),
            proto=None if found.proto == EVERY_PROTO else (found.proto,),
        )

    def packets(self, count: int, seed: int = 1) -> list[Packet]:
        """Headers at the corners of filters drawn by a fixed seed: within them, and one beyond."""
        source = random.Random(seed)

        def near(span: Range, highest: int) -> int:
            value = source.choice((span.low, span.high, source.randint(*span), span.low - 1, span.high + 1, span.low))
            return min(max(value, 0), highest)

        found = []
        for chosen in source.choices(self.filters, k=count):
            proto = near(chosen.proto, 255) if chosen.proto == EVERY_PROTO else chosen.proto.low
            if self.bits == 128 and proto in EXTENSION_HEADERS:
                proto = frames.NO_NEXT_HEADER  # the others are no protocols there
            highest = (1 << self.bits) - 1
            ports = (near(chosen.sport, 65535), near(chosen.dport, 65535))
            found.append(Packet(near(chosen.src, highest), near(chosen.dst, highest), *ports, proto))
        return found

    def frame(self, packet: Packet) -> bytes:
        header = frames.PORT_HEADERS.get(packet.proto)
        payload = bytes(8) if header is None else header(packet.sport, packet.dport)
        if self.bits == 32:
            return frames.v4_frame(payload, packet.proto, src=packet.src, dst=packet.dst)
        return frames.v6_frame(payload, packet.proto, src=packet.src, dst=packet.dst)


def read(path: Path) -> FilterSet:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    found = [line.lstrip("@").split() for line in text.splitlines()]
    bits = 128 if ":" in found[0][0] else 32
    return FilterSet(bits, [_filter(words, bits) for words in found])


def _filter(words: Sequence[str], bits: int) -> Filter:
    src, dst, sport_low, _, sport_high, dport_low, _, dport_high, proto, *_ = words
    number, mask = (int(each, 16) for each in proto.split("/"))
    has_ports = mask == 0xFF and number in frames.PORT_HEADERS
    return Filter(
        src=_prefix(src, bits),
        dst=_prefix(dst, bits),
        sport=Range(int(sport_low), int(sport_high)) if has_ports else EVERY_PORT,
        dport=Range(int(dport_low), int(dport_high)) if has_ports else EVERY_PORT,
        proto=Range(number, number) if mask else EVERY_PROTO,
    )


def _prefix(text: str, bits: int) -> Range:
    address, _, length = text.partition("/")
    return prefix(int(ipaddress.ip_address(address)), int(length), bits)


def read_trace(path: Path, bits: int) -> list[Packet]:
    """All headers of a ClassBench trace, in its order: ``SRC DST SPORT DPORT PROTO x FILTER`` in decimals.

    ``bits``: of an address. IPv6 addresses are the high 64 bits followed by the low ones, padded to 20 digits.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    found = []
    for line in text.splitlines():
        src, dst, sport, dport, proto, *_ = line.split()
        found.append(Packet(_address(src, bits), _address(dst, bits), int(sport), int(dport), int(proto)))
    return found


def _address(text: str, bits: int) -> int:
    if bits == 32:
        return int(text)
    high, low = text[:-_DIGITS_OF_64_BITS], text[-_DIGITS_OF_64_BITS:]
    return int(high or "0") << 64 | int(low)


Columns = npt.NDArray[np.uint64]


class LinearScan:
    """The first filter that covers a header, by comparing it with all of them."""

    def __init__(self, filters: FilterSet) -> None:
        self._low, self._high = (
            np.array([self._row(*(span[end] for span in self._spans(each))) for each in filters.filters]).T
            for end in (0, 1)
        )

    @staticmethod
    def _spans(found: Filter) -> tuple[Range, ...]:
        return (found.src, found.dst, found.sport, found.dport, found.proto)

    @staticmethod
    def _row(src: int, dst: int, sport: int, dport: int, proto: int) -> list[int]:
        """All below 2^64, so that comparing column by column is right: prefixes are ranges in each half."""
        halves = (src >> 64, src & (1 << 64) - 1, dst >> 64, dst & (1 << 64) - 1)
        return [np.uint64(value) for value in (*halves, sport, dport, proto)]

    def first(self, packet: Packet) -> int | None:
        values = self._row(packet.src, packet.dst, packet.sport, packet.dport, packet.proto)
        covers = np.ones(self._low.shape[1], dtype=bool)
        for value, low, high in zip(values, self._low, self._high, strict=True):
            covers &= (low <= value) & (value <= high)
        found = int(np.argmax(covers))
        return found if covers[found] else None
