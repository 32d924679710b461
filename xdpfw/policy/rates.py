# SPDX-License-Identifier: GPL-2.0-or-later
"""The notation of limits: ``100/s``, ``10M/s``, ``src/24``. As in ``values``, what is wrong raises NotationError."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from xdpfw.policy.addresses import V4_BITS, V6_BITS
from xdpfw.policy.values import NotationError, shown, text_of

MAX_AMOUNT: Final = 100 * 10**9
"""Of packets or bytes, in a rate or a burst: 100 Gbyte are more than any interface moves in a second."""

WIDE_V6_BITS: Final = 64
"""Of the IPv6 prefix that shares a bucket where IPv4 shares by prefixes: what a site gives one network, and its hosts
choose from as they like (RFC 4291, section 2.5.4)."""

MIN_BURST_BYTES: Final = 65_536
"""Of a burst that is not given: what an interface joins to one packet is within it."""

_MULTIPLES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_WINDOWS_NS: Final = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_AMOUNT = re.compile(r"([0-9]{1,15})([kMG]?)")
_RATE = re.compile(r"([0-9]{1,15}[kMG]?)/([smh])")
_PER = re.compile(r"src/([1-9][0-9]{0,2})")


class Rate(NamedTuple):
    """So many packets or bytes in ``window_ns``: a second, a minute or an hour."""

    amount: int
    window_ns: int

    def __str__(self) -> str:
        unit = next(unit for unit, window in _WINDOWS_NS.items() if window == self.window_ns)
        return f"{amount_text(self.amount)}/{unit}"


class Per(NamedTuple):
    """Whose packets share a bucket: ``rule``, ``src`` or ``flow``. The bits are those of a source's prefix."""

    whom: str
    v4: int = V4_BITS
    v6: int = V6_BITS

    def __str__(self) -> str:
        if (self.v4, self.v6) == (V4_BITS, V6_BITS):
            return self.whom
        return f"{self.whom} /{self.v4} /{self.v6}"


def amount(value: object) -> int:
    """Packets or bytes: ``2000``, ``64k``. k, M and G are powers of 1000."""
    text = text_of(value)
    if not (found := _AMOUNT.fullmatch(text)):
        raise NotationError(f"{shown(text)} is not a number such as 200, 64k, 10M or 1G")
    result = int(found[1]) * _MULTIPLES[found[2]]
    if result == 0:
        raise NotationError(f"{shown(text)} is nothing at all", hint="to let nothing through, drop")
    if result > MAX_AMOUNT:
        raise NotationError(f"{shown(text)} is above {amount_text(MAX_AMOUNT)}")
    return result


def amount_text(found: int) -> str:
    """As it is written, in the largest unit that it is a whole number of."""
    unit = next(unit for unit, size in reversed(_MULTIPLES.items()) if found % size == 0)
    return f"{found // _MULTIPLES[unit]}{unit}"


def rate(value: object) -> Rate:
    text = text_of(value)
    if not (found := _RATE.fullmatch(text)):
        hint = f"write {text}/s for each second" if _AMOUNT.fullmatch(text) else "as in 100/s, 5/m, 10/h or 10M/s"
        raise NotationError(f"{shown(text)} is not a rate", hint=hint)
    return Rate(amount(found[1]), _WINDOWS_NS[found[2]])


def default_burst(found: Rate, *, in_bytes: bool) -> int:
    """As many as the rate says, all at once."""
    return max(found.amount, MIN_BURST_BYTES) if in_bytes else found.amount


def per(value: object) -> Per:
    """One N stands for both families: up to 32 it is IPv4's, and IPv6 goes by /64; above, IPv4 goes by address."""
    text = text_of(value)
    if text in ("rule", "src", "flow"):
        return Per(text)
    if not (found := _PER.fullmatch(text)):
        hint = "write rule, src, src/24, src/64, flow or {v4: 24, v6: 64}"
        raise NotationError(f"{shown(text)} is not something that packets are limited by", hint=hint)
    bits = int(found[1])
    if bits > V6_BITS:
        raise NotationError(f"{text} has a prefix length above {V6_BITS}")
    return Per("src", bits, WIDE_V6_BITS) if bits <= V4_BITS else Per("src", V4_BITS, bits)
