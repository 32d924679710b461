# SPDX-License-Identifier: GPL-2.0-or-later
"""The notation of addresses: ``192.0.2.1``, ``2001:db8::/32``, ``192.0.2.1-192.0.2.9``, ``@set``."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, NamedTuple

from xdpfw.policy.values import NotationError, SetName, set_name, shown, text_of

V4_BITS: Final = 32
V6_BITS: Final = 128

_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9._-]*|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]+")
_NO_NAMES: Final = "host names are not looked up"
_OCTETS = re.compile(r"[0-9]+(\.[0-9]+)*")


class Addresses(NamedTuple):
    """The addresses ``low``..``high``, both included, as host-order integers of ``bits`` (32 or 128)."""

    bits: int
    low: int
    high: int

    def __str__(self) -> str:
        """In canonical form: address, prefix or range."""
        size = self.high - self.low + 1
        low = _written(self.bits, self.low)
        if size == 1:
            return low
        if size & (size - 1) == 0 and self.low & (size - 1) == 0:
            return f"{low}/{self.bits - size.bit_length() + 1}"
        return f"{low}-{_written(self.bits, self.high)}"


def parse_addresses(text: str) -> Addresses:
    """An address, a prefix or a range. Raises NotationError."""
    address, slash, length_text = text.partition("/")
    try:
        if ":" in address:
            bits, low = V6_BITS, int.from_bytes(inet_pton(AF_INET6, address), "big")
        else:
            bits, low = V4_BITS, int.from_bytes(inet_pton(AF_INET, address), "big")
    except (OSError, ValueError):
        if "-" in text and not _WORD.fullmatch(text):
            return _range(text)
        raise _not_an_address(address, text) from None
    if not slash:
        return Addresses(bits, low, low)
    if "-" in length_text.lstrip("-"):
        return _range(text)
    if not _LENGTH.fullmatch(length_text):
        raise _not_a_length(address, length_text, bits)
    length = int(length_text)
    if length > bits:
        raise NotationError(f"{text} has a prefix length above {bits}")
    host_mask = (1 << (bits - length)) - 1
    if low & host_mask:
        right = Addresses(bits, low & ~host_mask, low | host_mask)
        raise NotationError(f"{text} has host bits set", hint=f"the prefix is {right}; the address alone is {address}")
    return Addresses(bits, low, low | host_mask)


def address(value: object) -> Addresses | SetName:
    """What ``src`` and ``dst`` take."""
    text = text_of(value)
    if text[:1] == "@":
        return set_name(text)
    try:
        return parse_addresses(text)
    except NotationError as problem:
        # Not where addresses alone can stand, as in a set.
        word = text.partition("/")[0]
        if problem.hint == _NO_NAMES and _WORD.fullmatch(word):
            problem.hint = f"a set is written @{word}; {_NO_NAMES}"
        raise


def _written(bits: int, address: int) -> str:
    return inet_ntop(AF_INET if bits == V4_BITS else AF_INET6, address.to_bytes(bits // 8, "big"))


def _range(text: str) -> Addresses:
    first, _, last = text.partition("-")
    if "/" in text:
        raise NotationError(f"{shown(text)} mixes a range and a prefix", hint="write one or the other")
    try:
        low, high = parse_addresses(first.strip()), parse_addresses(last.strip())
    except NotationError as error:
        raise NotationError(f"{shown(text)} is not a range: {error.message}", hint=error.hint) from None
    if low.bits != high.bits:
        raise NotationError(f"{shown(text)} begins in one family and ends in the other")
    if low.low > high.low:
        raise NotationError(f"{shown(text)} is reversed", hint=f"write {high}-{low}")
    return Addresses(low.bits, low.low, high.low)


def _not_an_address(address: str, text: str) -> NotationError:
    """Why ``address``, of the value ``text``, is none."""
    if "%" in address:
        return NotationError(
            f"{shown(text)} has a zone, which no packet carries", hint="leave it out, and match the interface instead"
        )
    if address.startswith("["):
        return NotationError(f"{shown(text)} has brackets", hint="write it without")
    if _OCTETS.fullmatch(address):
        octets = address.split(".")
        if any(len(octet) > 1 and octet[0] == "0" for octet in octets):
            right = ".".join(octet.lstrip("0") or "0" for octet in octets)
            return NotationError(
                f"{shown(text)} has a leading zero, which some read as octal", hint=f"write {right} if it is decimal"
            )
        if len(octets) != 4:
            parts = f"{len(octets)} parts" if len(octets) > 1 else "1 part"
            return NotationError(f"{shown(text)} has {parts}, and an IPv4 address has 4")
        return NotationError(f"{shown(text)} has a part above 255")
    if _WORD.fullmatch(address):
        return NotationError(f"{shown(text)} is not an address", hint=_NO_NAMES)
    return NotationError(f"{shown(text)} is not an IPv4 or IPv6 address, prefix or range")


def _not_a_length(address: str, length: str, bits: int) -> NotationError:
    right = None
    if bits == V4_BITS and "." in length:
        with contextlib.suppress(ValueError):
            right = ipaddress.ip_network(f"0.0.0.0/{length}").prefixlen
    hint = f"write {address}/{right}" if right is not None else f"the length is a number from 0 to {bits}"
    return NotationError(f"{shown(f'{address}/{length}')} has no prefix length behind its slash", hint=hint)
