# SPDX-License-Identifier: GPL-2.0-or-later
"""What the numbers in events and grants mean: the names that generations have for them."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.pins import Pins
from xdpfw.observe import metadata
from xdpfw.observe.inforce import in_force
from xdpfw.observe.metadata import KnockMeta, Metadata

_FULL_BITS: Final = {int(abi.Family.IPV4): 32, int(abi.Family.IPV6): 128}


class Names:
    """Remembers generations that are no more, as long as this object lives."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._known: dict[int, Metadata] = {}
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
        """None where it is gone, and was before anybody asked."""
        if number not in self._known:
            with contextlib.suppress(KernelError):
                self._known[number] = metadata.read(self._pins.generation(number))
        return self._known.get(number)

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

    def interface(self, number: int, generation: int) -> str | None:
        meta = self.generation(generation)
        return meta.interfaces[number].name if meta and number < len(meta.interfaces) else None


def address_text(family: int, address: int, prefix_bits: int = 0) -> str:
    """``192.0.2.1``; with ``prefix_bits`` of less than the whole, the prefix that it is in: ``192.0.2.0/24``."""
    text = IPv4Address if family == abi.Family.IPV4 else IPv6Address
    bits = _FULL_BITS[family]
    if not 0 < prefix_bits < bits:
        return str(text(address))
    return f"{text(prefix_of(family, address, prefix_bits))}/{prefix_bits}"


def prefix_of(family: int, address: int, prefix_bits: int) -> int:
    """The first address of the prefix that ``address`` is in."""
    rest = _FULL_BITS[family] - prefix_bits
    return address >> rest << rest
