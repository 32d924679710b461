# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits: token buckets, each as the time when it is full again.

With room for every bucket there is. The whole numbers are those of bpf/limit.h, which says what they mean.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family
from xdpfw.packet.decode import Packet
from xdpfw.reference.memory import ADDRESS_BITS, Instant, Memory

UNITS_PER_NS: Final = 256
MOST_FRACTION_BITS: Final = 16
MOST_BYTE_COST: Final = 1 << 46
MOST_FRAME_BYTES: Final = 0x1FFFF


class Bucket(NamedTuple):
    """Whose packets share tokens: those for which all of this is equal. A limit that changes has new buckets."""

    rule: str
    limit: ir.Limit
    who: tuple[int | None, ...]


class Limits:
    """The token buckets at one moment."""

    def __init__(self, memory: Memory, now: Instant) -> None:
        self.memory = memory
        self.now = now.boot_ns * UNITS_PER_NS

    def take(self, rule: str, limit: ir.Limit, packet: Packet) -> bool:
        """Takes the packet's tokens out of its bucket; False, and takes none, where they are not all there."""
        bucket = Bucket(rule, limit, _who(limit, packet))
        cost, depth = _cost_and_depth(limit, packet.frame_bytes)
        full_at = max(self.memory.full_at.get(bucket, 0), self.now) + cost
        if full_at - self.now > depth:
            return False
        self.memory.full_at[bucket] = full_at
        return True


def _who(limit: ir.Limit, packet: Packet) -> tuple[int | None, ...]:
    match limit.per:
        case ir.Per.RULE:
            return ()
        case ir.Per.FLOW:
            return (packet.family, packet.src, packet.dst, packet.proto, packet.sport, packet.dport)
        case ir.Per.SRC:
            if packet.src is None:
                return (packet.family,)
            bits = limit.v4_bits if packet.family is Family.IPV4 else limit.v6_bits
            return (packet.family, packet.src >> ADDRESS_BITS[packet.family] - bits)


def _cost_and_depth(limit: ir.Limit, frame_bytes: int) -> tuple[int, int]:
    """What the packet and a whole burst take up, in units of 1/256 ns."""
    units = limit.window_ns * UNITS_PER_NS
    if not limit.bytes:
        cost = _nearest(units, limit.amount)
        return cost, limit.burst * cost
    shift = MOST_FRACTION_BITS
    while (cost := _nearest(units << shift, limit.amount)) >= MOST_BYTE_COST and shift:
        shift -= 1
    return min(frame_bytes, MOST_FRAME_BYTES) * cost >> shift, limit.burst * cost >> shift


def _nearest(number: int, by: int) -> int:
    whole, rest = divmod(number, by)
    return whole + (2 * rest >= by)
