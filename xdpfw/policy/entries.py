# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of prefix sets, by the million: read from text, counted, and packed to be stored."""

from __future__ import annotations

import base64
import functools
import re
import zlib
from collections.abc import Iterable, Iterator
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.addresstable import U32, U64, AddressTable
from xdpfw.policy import values
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses, parse_addresses
from xdpfw.policy.values import NotationError

_COMMENT: Final = re.compile(r"[#;][^\n]*")
_V4_LENGTHS: Final = {str(length): length for length in range(V4_BITS + 1)}
_V6_LENGTHS: Final = {str(length): length for length in range(V6_BITS + 1)}
_CHUNK: Final = 1 << 20
"""So many characters at a time, and the rest of a line, become lines: a file of empty ones is nothing but lines."""

_PACKED: Final = "xdpfw-entries 1 "
_LOW_64: Final = (1 << 64) - 1


class Entries:
    """What is written in a prefix set, each entry once, in order of their addresses.

    ``v4``: shape (n, 2), columns low and high; ``v6``: shape (n, 4), columns the high and low 64 bits of low, then of
    high; host-order, both ends included. Unlike those of an ``AddressTable``, entries may lie within each other.
    ``count`` is how many were written, those that are there twice included. Nothing is ever written to the arrays.
    """

    __slots__ = ("__dict__", "count", "v4", "v6")

    def __init__(self, v4: U32, v6: U64, count: int) -> None:
        """``v4`` and ``v6`` in any order, with or without repetitions."""
        self.v4 = _distinct_v4(v4)
        self.v6 = _distinct_v6(v6)
        self.count = count

    @classmethod
    def of(cls, addresses: Iterable[Addresses]) -> Entries:
        found = list(addresses)
        v4 = [(low, high) for bits, low, high in found if bits == V4_BITS]
        v6 = [_halves(low, high) for bits, low, high in found if bits == V6_BITS]
        return cls(_rows_v4(v4), _rows_v6(v6), len(found))

    @classmethod
    def read(cls, text: str) -> Entries:
        """Those of a file's text. Raises NotationError where one is wrong; ``lines`` tells where.

        A million lines are read in the time that ``parse_addresses`` takes for a hundred thousand: what is not an
        address or a prefix as most are goes there, and masks and host bits are NumPy's.
        """
        v4: list[bytes] = []
        v4_lengths = bytearray()
        v6: list[bytes] = []
        v6_lengths = bytearray()
        others: list[Addresses] = []
        for line in filter(None, _lines(text)):
            address, slash, length_text = line.partition("/")
            try:
                if ":" in address:
                    length = _V6_LENGTHS[length_text] if slash else V6_BITS
                    v6.append(inet_pton(AF_INET6, address))
                    v6_lengths.append(length)
                else:
                    length = _V4_LENGTHS[length_text] if slash else V4_BITS
                    v4.append(inet_pton(AF_INET, address))
                    v4_lengths.append(length)
            except (OSError, ValueError, KeyError):
                if entry := _entry(line):
                    others.append(parse_entry(entry))
        rest = cls.of(others)
        rows_v4 = np.concatenate((_prefixes_v4(b"".join(v4), v4_lengths), rest.v4))
        rows_v6 = np.concatenate((_prefixes_v6(b"".join(v6), v6_lengths), rest.v6))
        return cls(rows_v4, rows_v6, len(v4) + len(v6) + rest.count)

    @functools.cached_property
    def table(self) -> AddressTable:
        """The addresses that they hold together."""
        return AddressTable.of(self.v4, self.v6)

    def __len__(self) -> int:
        """How many entries there are, each counted once."""
        return len(self.v4) + len(self.v6)

    def shared(self, other: Entries) -> int:
        """How many entries are in both."""
        return _shared(self.v4, other.v4) + _shared(self.v6, other.v6)

    def packed(self) -> str:
        """Text that ``unpacked`` makes the same entries of: a third of the length of a file, and quicker to read."""
        sizes = f"{_PACKED}{self.count} {len(self.v4)} {len(self.v6)}\n"
        steps = np.diff(self.v4[:, 0], prepend=np.uint32(0)), self.v4[:, 0] ^ self.v4[:, 1]
        data = b"".join(map(_by_significance, steps))
        low_high, low_low, high_high, high_low = self.v6.T
        halves = np.diff(low_high, prepend=np.uint64(0)), low_low, low_high ^ high_high, low_low ^ high_low
        data += b"".join(map(_by_significance, halves))
        return sizes + base64.b64encode(zlib.compress(data, level=1)).decode()

    @classmethod
    def unpacked(cls, text: str) -> Entries:
        """The entries of a text for which ``is_packed`` holds."""
        head, _, body = text.partition("\n")
        count, v4_length, v6_length = map(int, head.removeprefix(_PACKED).split())
        data = zlib.decompress(base64.b64decode(body))
        columns = np.frombuffer(data, np.uint8, 8 * v4_length).reshape(2, 4, v4_length)
        steps, differ = (_from_bytes(column, np.uint32) for column in columns)
        low = np.cumsum(steps, dtype=np.uint32)
        v4 = np.stack((low, low ^ differ), axis=1)
        columns = np.frombuffer(data, np.uint8, 32 * v6_length, 8 * v4_length).reshape(4, 8, v6_length)
        high_steps, low_low, high_differ, low_differ = (_from_bytes(column, np.uint64) for column in columns)
        low_high = np.cumsum(high_steps, dtype=np.uint64)
        v6 = np.stack((low_high, low_low, low_high ^ high_differ, low_low ^ low_differ), axis=1)
        return cls(v4, v6, count)


def is_packed(text: str) -> bool:
    """Whether ``Entries.packed`` made the text, if a bundle has it; the text of a file never is."""
    return text.startswith(_PACKED)


def lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Line and column, from 1, of each entry of a file's text, and the entry."""
    for number, line in enumerate(_lines(text), 1):
        if line and (entry := _entry(line)):
            yield number, len(line) - len(line.lstrip()) + 1, entry


def parse_entry(text: str) -> Addresses:
    """An entry of a set. Raises NotationError."""
    if text[:1] == "@":
        raise NotationError(f"{values.shown(text)} is a set within a set", hint="list both sets in the rule")
    return parse_addresses(text)


def _lines(text: str) -> Iterator[str]:
    """The lines of a file without comments, and without blanks at their ends, one after the other."""
    start = len("\ufeff") if text.startswith("\ufeff") else 0
    while start <= len(text):
        end = text.find("\n", start + _CHUNK)
        chunk = text[start:] if end < 0 else text[start:end]
        if "#" in chunk or ";" in chunk:
            chunk = _COMMENT.sub("", chunk)
        yield from map(str.rstrip, chunk.split("\n"))
        start = len(text) + 1 if end < 0 else end + 1


def _entry(line: str) -> str:
    """What a line holds, or nothing. Sets that ipset saves are a line ``create ...`` and, for each entry, ``add NAME
    ENTRY``.
    """
    entry = line.strip()
    if entry.startswith(("add ", "create ")):
        words = entry.split()
        return "" if words[0] == "create" else words[2] if len(words) == 3 else entry
    return entry


def _rows_v4(rows: list[tuple[int, int]]) -> U32:
    return np.array(rows, dtype=np.uint32).reshape(-1, 2)


def _rows_v6(rows: list[tuple[int, int, int, int]]) -> U64:
    return np.array(rows, dtype=np.uint64).reshape(-1, 4)


def _halves(low: int, high: int) -> tuple[int, int, int, int]:
    return low >> 64, low & _LOW_64, high >> 64, high & _LOW_64


def _host_masks(lengths: npt.NDArray[np.int16], bits: int) -> U64:
    """The masks of the host bits of prefixes; lengths below 0 and above ``bits`` count as those."""
    free = (bits - np.clip(lengths, 0, bits)).astype(np.uint64)
    half = free >> np.uint64(1)
    masks: U64 = ~(~np.uint64(0) << half << (free - half))  # by two shifts: one by all 64 bits is not defined
    return masks


def _prefixes_v4(packed: bytes, lengths: bytearray) -> U32:
    """``packed``: 4 bytes an address, in network order. Raises NotationError where host bits are set."""
    low = np.frombuffer(packed, ">u4").astype(np.uint32)
    masks = _host_masks(np.frombuffer(lengths, np.uint8).astype(np.int16), V4_BITS).astype(np.uint32)
    if np.any(low & masks):
        raise NotationError("a prefix has host bits set")
    return np.stack((low, low | masks), axis=1)


def _prefixes_v6(packed: bytes, lengths: bytearray) -> U64:
    """``packed``: 16 bytes an address, in network order. Raises NotationError where host bits are set."""
    low = np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)
    prefix_lengths = np.frombuffer(lengths, np.uint8).astype(np.int16)
    masks = np.stack((_host_masks(prefix_lengths, 64), _host_masks(prefix_lengths - 64, 64)), axis=1)
    if np.any(low & masks):
        raise NotationError("a prefix has host bits set")
    return np.concatenate((low, low | masks), axis=1)


def _distinct_v4(rows: U32) -> U32:
    keys = np.sort(rows[:, 0].astype(np.uint64) << np.uint64(32) | rows[:, 1])
    keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    return np.stack((keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)), axis=1).astype(np.uint32)


def _distinct_v6(rows: U64) -> U64:
    ordered = rows[np.lexsort(rows.T[::-1])]
    return ordered[np.append(True, np.any(ordered[1:] != ordered[:-1], axis=1))] if len(ordered) else ordered


def _shared(one: npt.NDArray[np.unsignedinteger], other: npt.NDArray[np.unsignedinteger]) -> int:
    """How many rows are in both, each of which has its own but once."""
    if np.array_equal(one, other):
        return len(one)
    both = np.concatenate((one, other))
    ordered = both[np.lexsort(both.T[::-1])]
    return int(np.count_nonzero(np.all(ordered[1:] == ordered[:-1], axis=1)))


def _by_significance(numbers: npt.NDArray[np.unsignedinteger]) -> bytes:
    """All numbers' lowest bytes, then their second ones, and so on: most of the higher are 0, which packs well."""
    little = np.ascontiguousarray(numbers).astype(numbers.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(numbers), numbers.itemsize).T.tobytes()


def _from_bytes(
    columns: npt.NDArray[np.uint8], kind: type[np.uint32] | type[np.uint64]
) -> npt.NDArray[np.unsignedinteger]:
    """What ``_by_significance`` was given; ``columns``: shape (bytes of a number, numbers)."""
    return np.ascontiguousarray(columns.T).view(np.dtype(kind).newbyteorder("<")).reshape(-1).astype(kind)
