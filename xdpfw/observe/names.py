# SPDX-License-Identifier: GPL-2.0-or-later
"""What the numbers in events and grants mean: the names that generations have for them.

Events outlive the generations that made them. So the names of those that were replaced are pinned with the state, as
the blob ``names``, by whoever removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import zlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.maps import Blob
from xdpfw.kernel.pins import Pins
from xdpfw.observe import metadata
from xdpfw.observe.inforce import in_force
from xdpfw.observe.metadata import KnockMeta, Metadata, RuleMeta

NAMES: Final = "names"
MOST_REMEMBERED: Final = 16
"""Generations; of events that are older, some names are lost."""

FULL_BITS: Final = {int(abi.Family.IPV4): 32, int(abi.Family.IPV6): 128}


class Names:
    """Remembers generations that are no more, as long as this object lives."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._known: dict[int, Metadata | None] = {}
        self._remembered: dict[int, Metadata] = {}
        self._seen: list[int] = []
        self.refresh()

    def refresh(self) -> None:
        """Reads the names of the generation in force, if there are other generations than at the last look."""
        with contextlib.suppress(KernelError):  # a switch is going on: the next look finds it
            numbers = self._pins.generations()
            if numbers == self._seen:
                return
            number = in_force(self._pins)
            if number is not None:
                self._known[number] = metadata.read(self._pins.generation(number))
            self._seen = numbers

    def generation(self, number: int) -> Metadata | None:
        """None where nobody knows it any more."""
        if number not in self._known:
            self._known[number] = self._find(number)
        return self._known[number]

    def _find(self, number: int) -> Metadata | None:
        with contextlib.suppress(KernelError):
            return metadata.read(self._pins.generation(number))
        # It was replaced. Once is enough: what is replaced from now on, this object has seen in force.
        self._remembered = self._remembered or _remembered(self._pins)
        return self._remembered.get(number)

    def knock(self, identity: int, generation: int | None = None) -> KnockMeta | None:
        """A knock as ``generation`` has it, else as the newest that has it."""
        asked = None if generation is None else self.generation(generation)
        for meta in (asked, *(self._known[number] for number in sorted(self._known, reverse=True))):
            for knock in meta.knocks if meta else ():
                if knock.id == identity:
                    return knock
        return None

    def rule(self, number: int, generation: int) -> str | None:
        meta = self.generation(generation)
        return meta.rules[number].name if meta and number < len(meta.rules) else None

    def dynamic_set(self, slot: int, generation: int) -> str | None:
        meta = self.generation(generation)
        return next((each.name for each in meta.dynamic_sets if each.slot == slot), None) if meta else None

    def interface(self, number: int, generation: int) -> str | None:
        meta = self.generation(generation)
        return meta.interfaces[number].name if meta and number < len(meta.interfaces) else None


def remember(pins: Pins, replaced: Iterable[int]) -> None:
    """Keeps the names of generations that are about to be removed, where there is state. Needs the instance's lock."""
    if not pins.state.exists():
        return
    known = _remembered(pins)
    for number in replaced:
        meta = metadata.read(pins.generation(number))
        rules = tuple(RuleMeta(rule.name, rule.action, "", None, ()) for rule in meta.rules)
        known[number] = dataclasses.replace(meta, rules=rules, sets=())
    newest = sorted(known)[-MOST_REMEMBERED:]
    data = json.dumps({number: json.loads(known[number].to_bytes()) for number in newest}).encode()
    under_way = pins.state / f"new-{NAMES}"
    under_way.unlink(missing_ok=True)  # of a process that was killed
    with Blob.create(NAMES, zlib.compress(data)) as blob:
        blob.pin(str(under_way))
    under_way.rename(pins.state / NAMES)


def _remembered(pins: Pins) -> dict[int, Metadata]:
    """By generation; none is fine."""
    try:
        with Blob.open(str(pins.state / NAMES)) as blob:
            columns: dict[str, Any] = json.loads(zlib.decompress(blob.read()))
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return {}
    return {int(number): Metadata.from_bytes(json.dumps(each).encode()) for number, each in columns.items()}


def address_text(family: int, address: int, prefix_bits: int = 0) -> str:
    """``192.0.2.1``; with ``prefix_bits`` of less than the whole, the prefix that it is in: ``192.0.2.0/24``."""
    text = IPv4Address if family == abi.Family.IPV4 else IPv6Address
    bits = FULL_BITS[family]
    if not 0 < prefix_bits < bits:
        return str(text(address))
    return f"{text(prefix_of(family, address, prefix_bits))}/{prefix_bits}"


def prefix_text(family: int, address: int, bits: int) -> str:
    """``192.0.2.1``, ``192.0.2.0/24``, ``::/0``: unlike in ``address_text``, 0 bits are those of every address."""
    if not bits:
        return "0.0.0.0/0" if family == abi.Family.IPV4 else "::/0"
    return address_text(family, address, bits)


def prefix_of(family: int, address: int, prefix_bits: int) -> int:
    """The first address of the prefix that ``address`` is in."""
    rest = FULL_BITS[family] - prefix_bits
    return address >> rest << rest
