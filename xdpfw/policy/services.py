# SPDX-License-Identifier: GPL-2.0-or-later
"""What knocks are made of: their steps, ``7000/tcp`` and ``8/icmp``, and the ports that they open, ``ssh/tcp``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from xdpfw.knock.steps import ICMP, ICMP_TO_ICMPV6, ICMPV6, TCP, UDP, Step, StepError, parse_step
from xdpfw.policy import values
from xdpfw.policy.values import NotationError, Span, shown, text_of

PROTOCOLS: Final = {"tcp": TCP, "udp": UDP}
_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_BACKWARDS = re.compile(r"(tcp|udp)[/:](.+)|(.+):(tcp|udp)")


class Service(NamedTuple):
    """A port that a knock opens. ``protocol`` is TCP or UDP."""

    protocol: int
    port: int

    def __str__(self) -> str:
        return f"{self.port}/{_NAMES[self.protocol]}"


def service(value: object) -> Service:
    """``PORT/tcp`` or ``PORT/udp``; the port may be a service's name."""
    text = text_of(value)
    if found := _BACKWARDS.fullmatch(text):
        right = f"{found[2] or found[3]}/{found[1] or found[4]}"
        raise NotationError(f"{shown(text)} is not a port and a protocol", hint=f"write {right}")
    port, slash, protocol = text.partition("/")
    if not port or not slash or protocol not in PROTOCOLS:
        if protocol and port:
            raise NotationError(f"{shown(text)} is of {shown(protocol)}, and only ports of tcp and udp can be opened")
        missing = "protocol" if port else "port"
        hint = f"write {shown(port)}/tcp or {shown(port)}/udp" if port else "as in 22/tcp"
        raise NotationError(f"{shown(text)} has no {missing}", hint=hint)
    try:
        found_port = values.port(port)
        if not isinstance(found_port, Span) or found_port.low != found_port.high:
            raise NotationError(f"{shown(port)} is more than one port", hint="list each of them")
        return Service(PROTOCOLS[protocol], values.number(found_port.low, 1, values.MAX_PORT))
    except NotationError as problem:
        raise NotationError(f"{shown(text)}: {problem.message}", hint=problem.hint) from None


def step(value: object) -> Step:
    """``PORT/tcp``, ``PORT/udp``, ``TYPE[.CODE]/icmp`` or ``TYPE[.CODE]/icmpv6``."""
    try:
        return parse_step(text_of(value))
    except StepError as problem:
        raise NotationError(problem.message, hint=problem.hint) from None


def overlap(one: Step, other: Step) -> bool:
    """True if a packet can be both."""
    return any(
        (mine.protocol, mine.number) == (theirs.protocol, theirs.number)
        and (mine.code is None or theirs.code is None or mine.code == theirs.code)
        for mine in _messages(one)
        for theirs in _messages(other)
    )


def _messages(given: Step) -> tuple[Step, ...]:
    """A step, and what else it is met by in IPv6."""
    if given.protocol == ICMP and given.number in ICMP_TO_ICMPV6:
        return given, Step(ICMPV6, ICMP_TO_ICMPV6[given.number], given.code)
    return (given,)
