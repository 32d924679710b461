# SPDX-License-Identifier: GPL-2.0-or-later
"""When grants end by themselves. No packet comes then, so the kernel tells of no such end: the reader works it out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

WHOLE: Final = ""
"""Stands for the knock itself among the services of a grant."""


class Holder(NamedTuple):
    """Who holds grants of what: a prefix's first address, and the identity of a knock."""

    family: int
    source: int
    prefix_bits: int
    knock: int


class Expired(NamedTuple):
    at_ns: int
    holder: Holder
    services: tuple[str, ...]


class Expiry:
    """Until when each holder has which service, as far as was told. Times are of CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self._untils: dict[Holder, dict[str, int]] = {}
        self._queue: list[tuple[int, Holder]] = []

    def grant(self, holder: Holder, services: Sequence[str], until_ns: int) -> int:
        """Extends what is shorter, as the kernel does; returns until when all of ``services`` are granted."""
        held = self._untils.setdefault(holder, {})
        for service in services:
            held[service] = max(held.get(service, 0), until_ns)
        heapq.heappush(self._queue, (until_ns, holder))
        return min(held[service] for service in services)

    def knows(self, holder: Holder, service: str) -> bool:
        return service in self._untils.get(holder, {})

    def end(self, holder: Holder, service: str = WHOLE) -> tuple[str, ...]:
        """Ends one service, or all; returns those that were told of."""
        held = self._untils.get(holder, {})
        ended = tuple(held) if service == WHOLE else (service,) if service in held else ()
        for each in ended:
            del held[each]
        if not held:
            self._untils.pop(holder, None)
        return tuple(each for each in ended if each != WHOLE)

    def next(self) -> int | None:
        """When the next grant ends."""
        while self._queue:
            at_ns, holder = self._queue[0]
            if at_ns in self._untils.get(holder, {}).values():
                return at_ns
            heapq.heappop(self._queue)  # it was extended, or ended otherwise
        return None

    def take(self) -> Expired:
        """What ends at ``next``; all of it that one holder has."""
        at_ns, holder = heapq.heappop(self._queue)
        held = self._untils[holder]
        services = tuple(service for service, until_ns in held.items() if until_ns == at_ns)
        for service in services:
            del held[service]
        if not held:
            del self._untils[holder]
        return Expired(at_ns, holder, services)
