# SPDX-License-Identifier: GPL-2.0-or-later
"""The notation of single values: numbers, ranges, durations, names, MAC addresses, TCP flags.

Each function takes what the YAML has (text, int, bool, None, a list or a mapping) and returns the value or raises
NotationError, whose message goes on from the name of the field: ``dport`` + ``70000 is above 65535``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from xdpfw.policy import names

MAX_PORT: Final = 0xFFFF
MAX_VLAN: Final = 4095
MAX_IP_LENGTH: Final = 65535 + 40
MAX_DURATION_NS: Final = 366 * 86_400 * 1_000_000_000
MAX_SAMPLE: Final = (1 << 32) - 1

NO_TAG: Final = -1
"""What ``vlan: none`` is a span of."""


class NotationError(ValueError):
    """A value that is wrong. ``message`` goes on from the field's name."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Span(NamedTuple):
    """Whole numbers ``low``..``high``, both included."""

    low: int
    high: int


class Protocol(NamedTuple):
    """``named``: written as a name. Who writes ``icmp`` means IPv4's; who writes 1 may mean it in IPv6 as well."""

    number: int
    named: bool


class Mac(NamedTuple):
    """A MAC address (48 bits, first byte on the wire is the highest) and which of its bits count."""

    value: int
    mask: int


class Flags(NamedTuple):
    """TCP flags (FIN = bit 0 .. CWR = bit 7, RFC 9293) that must be set, and that must be clear."""

    set: int
    clear: int


class SetName(str):
    """The name of a set, without the ``@`` that it was written with."""

    __slots__ = ()


_DIGITS = re.compile(r"[0-9]{1,19}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}")
_SPAN = re.compile(r"([0-9]{1,19})\s*-\s*([0-9]{1,19})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_ONE_IN = re.compile(r"1/([0-9]{1,19})")
_UNIT_NS: Final = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
}


def shown(value: object) -> str:
    """``value`` as a message shows it: bare where it is one word, else quoted; cut where it is long."""
    text = text_of(value)
    return text if re.fullmatch(r"[!-~]{1,80}", text) else quoted(text)


def quoted(text: str) -> str:
    """``text`` in quotes, cut where it is long; what is not printable is escaped, so that no terminal obeys it."""
    if len(text) > 80:
        text = text[:77] + "..."
    if not text.isprintable():
        text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return f'"{text}"'


def text_of(value: object) -> str:
    """A scalar as text, as it was written. Raises NotationError where it is no scalar or nothing."""
    if isinstance(value, str):
        return value
    refuse_none(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    kind = "a mapping" if isinstance(value, Mapping) else "a list"
    raise NotationError(f"is {kind}, where a single value belongs")


def refuse_none(value: object) -> None:
    if value is None:
        raise NotationError("has no value", hint="give one, or leave the key out")


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text_of(value).lower())
    raise NotationError(f"{shown(value)} is neither true nor false", hint=meant and f"write {meant}")


def choice(value: object, allowed: Mapping[str, str] | tuple[str, ...]) -> str:
    text = text_of(value)
    if text in allowed:
        return text
    raise NotationError(f"{shown(text)} is not one of {', '.join(allowed)}", hint=_near(text, tuple(allowed)))


def number(value: object, low: int, high: int) -> int:
    """A whole number, in decimal or behind ``0x``, between ``low`` and ``high``."""
    if type(value) is not int:
        text = text_of(value)
        if _HEX.fullmatch(text):
            value = int(text, 16)
        elif _DIGITS.fullmatch(text):
            if text[0] == "0" and len(text) > 1:
                raise NotationError(f"{text} has a leading zero", hint=f"write {int(text)}")
            value = int(text)
        else:
            raise NotationError(f"{shown(text)} is not a number from {low} to {high}")
    assert isinstance(value, int)
    if value > high:
        raise NotationError(f"{value} is above {high}")
    if value < low:
        raise NotationError(f"{value} is below {low}")
    return value


def span(value: object, low: int, high: int) -> Span:
    """A number, or two with a hyphen between them: a range that includes both."""
    if type(value) is str and (found := _SPAN.fullmatch(value)):
        first, last = number(found[1], low, high), number(found[2], low, high)
        if first > last:
            raise NotationError(f"{value} is reversed", hint=f"write {last}-{first}")
        return Span(first, last)
    only = number(value, low, high)
    return Span(only, only)


def name(value: object) -> str:
    """The name of a rule or of a set."""
    text = text_of(value)
    if _NAME.fullmatch(text):
        return text
    if not text:
        raise NotationError("is empty")
    raise NotationError(
        f"{shown(text)} is not a name" if len(text) <= 128 else "is longer than 128 characters",
        hint="a name has letters, digits, '.', '_' and '-'",
    )


def set_name(text: str) -> SetName:
    """The name behind an ``@``."""
    if _NAME.fullmatch(text, 1):
        return SetName(text[1:])
    raise NotationError(f"{shown(text)} does not name a set", hint="a set is written @name")


def bare_set_name(value: object) -> str:
    """The name of a set where nothing else can stand, and so without an ``@``."""
    if text_of(value)[:1] == "@":
        raise NotationError(f"{shown(value)} has an @", hint=f"here it is only {shown(text_of(value)[1:])}")
    return name(value)


def text(value: object) -> str:
    """Free text, on one line."""
    found = text_of(value).strip()
    if not found.isprintable():
        raise NotationError("is more than one line of printable text")
    return found


def path(value: object) -> str:
    """The name of a file."""
    if not (found := text(value)):
        raise NotationError("is empty")
    return found


def interface(value: object) -> str:
    """The name of a network interface, as the kernel takes it (dev_valid_name in net/core/dev.c)."""
    text = text_of(value)
    if text in ("", ".", ".."):
        raise NotationError(f"{shown(text)} is not a name that an interface can have")
    if any(character in "/:" or character.isspace() for character in text) or not text.isprintable():
        raise NotationError(f"{shown(text)} has a character that no interface's name can have")
    if len(text.encode()) > 15:
        raise NotationError(f"{shown(text)} is longer than 15 bytes, the longest name that an interface can have")
    return text


FOR_GOOD: Final = ("never", "forever", "permanent", "infinite", "none")
"""What is written for an entry of a set that has no end."""


def duration_ns(value: object) -> int:
    text = text_of(value)
    if not (found := _DURATION.fullmatch(text)):
        hint = f"write {text}s for seconds" if _DIGITS.fullmatch(text) else None
        raise NotationError(f"{shown(text)} is not a duration such as 500ms, 30s, 10m, 2h or 7d", hint=hint)
    result = int(found[1]) * _UNIT_NS[found[2]]
    if result == 0:
        raise NotationError(f"{text} is no time at all")
    if result > MAX_DURATION_NS:
        raise NotationError(f"{text} is longer than a year")
    return result


def duration_between(value: object, shortest: str, longest: str) -> int:
    """A duration in ns, from ``shortest`` to ``longest``, both included."""
    result = duration_ns(value)
    if result < duration_ns(shortest):
        raise NotationError(f"{text_of(value)} is shorter than {shortest}")
    if result > duration_ns(longest):
        raise NotationError(f"{text_of(value)} is longer than {longest}")
    return result


def duration_text(ns: int) -> str:
    """A duration as it is written, in the largest unit that it is a whole number of."""
    unit = next((unit for unit, length in reversed(_UNIT_NS.items()) if ns % length == 0), "ms")
    return f"{ns // _UNIT_NS[unit]}{unit}"


def one_in(value: object) -> int:
    """The N of ``1/N``."""
    text = text_of(value)
    if not (found := _ONE_IN.fullmatch(text)):
        raise NotationError(f"{shown(text)} is not of the form 1/N", hint="1/100 is one in a hundred")
    try:
        return number(found[1], 1, MAX_SAMPLE)
    except NotationError as problem:
        raise NotationError(f"{shown(text)}: {problem.message}", hint=problem.hint) from None


def port(value: object) -> Span | SetName:
    if type(value) is str:
        if value[:1] == "@":
            return set_name(value)
        if value in names.SERVICES:
            return Span(names.SERVICES[value], names.SERVICES[value])
        if value[:1].isalpha():
            raise NotationError(
                f"{shown(value)} is not a service with a known port",
                hint=_near(value, tuple(names.SERVICES)) or "write its number",
            )
        if any(mark in value for mark in ",:"):
            raise NotationError(
                f"{shown(value)} is not a port", hint="write a range as 8000-8099, several as [80, 443]"
            )
    return span(value, 0, MAX_PORT)


def protocol(value: object) -> Protocol:
    if type(value) is str:
        if value in names.PROTOCOLS:
            return Protocol(names.PROTOCOLS[value], named=True)
        if value[:1].isalpha():
            raise NotationError(
                f"{shown(value)} is not a known protocol",
                hint=_near(value, tuple(names.PROTOCOLS)) or "write its number",
            )
    return Protocol(number(value, 0, 255), named=False)


def ethertype(value: object) -> Span:
    if type(value) is str:
        if value in names.ETHERTYPES:
            return Span(*names.ETHERTYPES[value])
        if value[:1].isalpha():
            raise NotationError(
                f"{shown(value)} is not a known ethertype",
                hint=_near(value, tuple(names.ETHERTYPES)) or "write its number, such as 0x88cc",
            )
    found = number(value, 0, 0xFFFF)
    if found in names.TAG_ETHERTYPES:
        raise NotationError(
            f"{found:#06x} is that of a VLAN tag, and ethertype is the one behind all tags", hint="use vlan"
        )
    return Span(found, found)


def vlan(value: object) -> Span:
    if value == "none":
        return Span(NO_TAG, NO_TAG)
    return Span(0, MAX_VLAN) if value == "any" else span(value, 0, MAX_VLAN)


def dscp(value: object) -> Span:
    if type(value) is str:
        if value in names.DSCPS:
            return Span(names.DSCPS[value], names.DSCPS[value])
        if value[:1].isalpha():
            raise NotationError(f"{shown(value)} is not a known DSCP", hint=_near(value, tuple(names.DSCPS)))
    found = number(value, 0, 63)
    return Span(found, found)


def icmp(value: object, tables: Mapping[int, Mapping[str, object]], what: str) -> Span | str:
    """A number or range 0-255, or a name that one of ``tables`` has; which one counts, the rule's proto says."""
    if type(value) is str and value[:1].isalpha():
        if any(value in table for table in tables.values()):
            return value
        known = tuple(name for table in tables.values() for name in table)
        raise NotationError(f"{shown(value)} is not a known {what}", hint=_near(value, known) or "write its number")
    return span(value, 0, 255)


def mac(value: object) -> int:
    """One MAC address, as an int whose highest byte is the first on the wire."""
    text = text_of(value)
    if _MAC.fullmatch(text):
        return int(text.replace(":", ""), 16)
    raise NotationError(f"{shown(text)} is not a MAC address such as 02:00:5e:10:00:01")


def mac_mask(value: object) -> Mac:
    """A MAC address, or one with a mask of the same form behind a slash. Bits outside the mask do not count."""
    address, slash, mask = text_of(value).partition("/")
    bits = (1 << 48) - 1
    if slash:
        if not _MAC.fullmatch(mask):
            raise NotationError(f"{shown(value)} has a mask of another form", hint="write it as ff:ff:ff:00:00:00")
        bits = mac(mask)
    return Mac(mac(address) & bits, bits)


def tcp_flags(value: object) -> Flags:
    """Such as ``syn,!ack``; ``none`` and ``all`` are about all eight flags."""
    text = text_of(value)
    if text == "none":
        return Flags(0, 0xFF)
    if text == "all":
        return Flags(0xFF, 0)
    on = off = 0
    for word in text.split(","):
        flag = word.strip()
        bit = names.TCP_FLAGS.get(flag.removeprefix("!"))
        if bit is None:
            raise NotationError(
                f"{shown(flag)} is not a TCP flag" if flag else f"{shown(text)} has no flag on one side of a comma",
                hint=f"the flags are {', '.join(names.TCP_FLAGS)}; none and all stand alone",
            )
        if flag[0] == "!":
            off |= bit
        else:
            on |= bit
    if on & off:
        raise NotationError(f"{shown(text)} wants a flag both set and clear")
    return Flags(on, off)


def _near(text: str, known: tuple[str, ...]) -> str | None:
    near = names.nearest(text, known)
    return f"did you mean {near}?" if near else None
