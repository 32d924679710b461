# SPDX-License-Identifier: GPL-2.0-or-later
"""The notation of a knock's steps: ``7000/tcp``, ``9000/udp``, ``8/icmp``, ``3.1/icmp``, ``128/icmpv6``."""

from __future__ import annotations

import re
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from typing import Final, NamedTuple

MAX_STEPS: Final = 16

ICMP: Final = int(IPPROTO_ICMP)
ICMPV6: Final = int(IPPROTO_ICMPV6)
TCP: Final = int(IPPROTO_TCP)
UDP: Final = int(IPPROTO_UDP)

PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6}

ICMP_TO_ICMPV6: Final = {8: 128, 0: 129}
"""Echo request and echo reply: the types of ICMP that a step of ICMP is met by in IPv6 (RFC 4443 section 4)."""

_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_HOW: Final = "write a step as 7000/tcp, 9000/udp or 8/icmp"


class StepError(ValueError):
    """A step that is wrong. ``message`` goes on from the name of its field: ``sequence`` + ``7000 has no protocol``."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


class Step(NamedTuple):
    """One step of a sequence.

    ``protocol`` is TCP (a bare SYN to port ``number``), UDP (a datagram to it), ICMP or ICMPv6 (a message of type
    ``number`` and, unless None, this code). ICMP stands for both families, see ICMP_TO_ICMPV6. Ports are 1-65535,
    types and codes 0-255.
    """

    protocol: int
    number: int
    code: int | None = None

    def __str__(self) -> str:
        code = "" if self.code is None else f".{self.code}"
        return f"{self.number}{code}/{_NAMES[self.protocol]}"


def parse_step(text: str) -> Step:
    """Raises StepError."""
    number_text, slash, name = text.partition("/")
    if not slash:
        before, _, behind = text.partition(":")
        if behind in PROTOCOLS:  # as Debian's knock has it
            raise StepError(f"{_shown(text)} is not a step", hint=f"write {_shown(before)}/{behind}")
        if _NUMBER.fullmatch(text):
            raise StepError(f"{text} has no protocol", hint=f"write {text}/tcp or {text}/udp")
        raise StepError(f"{_shown(text)} is not a step", hint=_HOW)
    if name not in PROTOCOLS:
        if number_text in PROTOCOLS and _NUMBER.fullmatch(name):
            raise StepError(f"{_shown(text)} is not a step", hint=f"write {name}/{number_text}")
        lower = name.lower()
        known = ", ".join(PROTOCOLS)
        hint = f"write {_shown(number_text)}/{lower}" if lower in PROTOCOLS else f"the protocols of steps are {known}"
        raise StepError(f"{_shown(text)} has no protocol that a step can be of", hint=hint)
    protocol = PROTOCOLS[name]
    if protocol in (TCP, UDP):
        return Step(protocol, _number(text, "port", number_text, 1, 65535))
    type_text, dot, code_text = number_text.partition(".")
    type_ = _number(text, "type", type_text, 0, 255)
    return Step(protocol, type_, _number(text, "code", code_text, 0, 255) if dot else None)


def _number(step: str, what: str, text: str, low: int, high: int) -> int:
    if not _NUMBER.fullmatch(text):
        missing = f"has no {what}" if not text else f"has {_shown(text)} where its {what} belongs"
        raise StepError(f"{_shown(step)} {missing}", hint=f"a {what} is a number from {low} to {high}")
    number = int(text)
    if not low <= number <= high:
        bound = f"above {high}" if number > high else f"below {low}"
        raise StepError(f"{_shown(step)} has {what} {number}, which is {bound}")
    return number


def _shown(text: str) -> str:
    """Bare where it is one short word, else quoted; what is not printable is escaped."""
    cut = text if len(text) <= 40 else text[:37] + "..."
    return cut if re.fullmatch(r"[!-~]+", cut) else ascii(cut)
