# SPDX-License-Identifier: GPL-2.0-or-later
"""Fragments: what became of first ones, which later ones follow. With room for every datagram there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family
from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import Instant, Memory

if TYPE_CHECKING:
    from xdpfw.reference.interpreter import Decision

LIFE_NS: Final = 30 * 1_000_000_000


class Datagram(NamedTuple):
    """What tells datagrams apart (RFC 791, section 3.2; RFC 8200, section 4.5): ``proto`` in IPv4 only."""

    family: Family
    src: int | None
    dst: int | None
    id: int | None
    proto: int | None

    @classmethod
    def of(cls, packet: Packet) -> Datagram:
        proto = packet.proto if packet.family is Family.IPV4 else None
        return cls(packet.family, packet.src, packet.dst, packet.fragment_id, proto)


class First(NamedTuple):
    """What became of a first fragment that ends at byte ``edge`` of the payload. Holds before ``until_ns``."""

    decision: Decision
    edge: int
    until_ns: int


class Fragments:
    """What is known of datagrams' first fragments at one moment."""

    def __init__(self, memory: Memory, now: Instant) -> None:
        self.memory = memory
        self.now = now

    def remember(self, packet: Packet, decision: Decision) -> None:
        """Takes in what became of a first fragment.

        One that was passed stays so for its time, whatever other first fragments come. Packets that are answered with
        cookies are no firsts.
        """
        assert packet.fragment_edge is not None
        if decision.kind == "protect":
            return
        datagram = Datagram.of(packet)
        known = self._live(datagram)
        is_dropped = decision.verdict is ir.Verdict.DROP
        if known is None or (known.decision.verdict is ir.Verdict.DROP and not is_dropped):
            kept = replace(decision, counted=(), acting=None, events=())
            self.memory.fragments[datagram] = First(kept, packet.fragment_edge, self.now.boot_ns + LIFE_NS)
        elif not is_dropped:
            self.memory.fragments[datagram] = known._replace(edge=max(known.edge, packet.fragment_edge))

    def first_of(self, packet: Packet) -> Decision | None:
        """What became of a later fragment's first one; None where that is not known, or where the two overlap."""
        assert packet.fragment_edge is not None
        known = self._live(Datagram.of(packet))
        return None if known is None or packet.fragment_edge < known.edge else known.decision

    def _live(self, datagram: Datagram) -> First | None:
        known = self.memory.fragments.get(datagram)
        return known if known is not None and self.now.boot_ns < known.until_ns else None
