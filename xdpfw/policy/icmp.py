# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMP types and codes, whose names mean different numbers in ICMP (RFC 792) and ICMPv6 (RFC 4443)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from xdpfw.policy.names import ICMP, ICMP_CODES, ICMP_TYPES, ICMPV6
from xdpfw.policy.values import Span

ANY = Span(0, 255)


class Message(NamedTuple):
    """Messages of ``protocol`` (1 or 58) with these types and codes."""

    protocol: int
    type: Span
    code: Span


def type_span(protocol: int, type_: Span | str) -> Span | None:
    """The numbers of a type in a protocol, or None where that protocol has no such name."""
    if isinstance(type_, Span):
        return type_
    number = ICMP_TYPES[protocol].get(type_)
    return None if number is None else Span(number, number)


def messages(
    protocols: Collection[int], types: Collection[Span | str] | None, codes: Collection[Span | str] | None
) -> Iterator[Message]:
    """What ``icmp_type`` and ``icmp_code`` mean for these protocols. A code's name implies its type."""
    for protocol in (ICMP, ICMPV6):
        if protocol not in protocols:
            continue
        spans = [ANY] if types is None else [found for each in types if (found := type_span(protocol, each))]
        for code in [ANY] if codes is None else codes:
            if isinstance(code, Span):
                yield from (Message(protocol, span, code) for span in spans)
            elif code in ICMP_CODES[protocol]:
                type_, number = ICMP_CODES[protocol][code]
                if any(span.low <= type_ <= span.high for span in spans):
                    yield Message(protocol, Span(type_, type_), Span(number, number))
