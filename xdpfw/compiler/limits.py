# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits -> what the program in the kernel goes by: ``struct xdpfw_rate`` of bpf/abi_limit.h."""

from __future__ import annotations

import hashlib
from typing import Final

from xdpfw.compiler import ir
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.abi import LimitPer, LimitUnit, Verdict

MOST_PACKETS_PER_SECOND: Final = 1_000_000_000
MOST_BYTES_PER_SECOND: Final = 100_000_000_000
"""Beyond these, what a packet of 60 bytes takes up would be too few units for 1 %."""

LONG_NS: Final = 1_000_000_000
"""Of a burst that takes as long, a tick, which is 10 ms at most, is no more than 1 %."""

NS_PER_S: Final = 1_000_000_000
WORD: Final = (1 << 64) - 1

_PER: Final = {
    ir.Per.RULE: LimitPer.RULE,
    ir.Per.SRC: LimitPer.SRC,
    ir.Per.FLOW: LimitPer.FLOW,
}


def limit_value(rule: ir.Rule) -> bytes:
    """``struct xdpfw_rate`` of the rule's limit. Raises CapacityError for one that its numbers have no room for."""
    limit = rule.limit
    assert limit is not None
    shift, cost, depth = _units(rule.name, limit)
    return abi.pack(
        "rate",
        {
            "id": _identity(rule.name, limit),
            "cost": cost,
            "depth": depth,
            "v4_mask": _mask(limit.v4_bits) << 32 & WORD,
            "v6_mask_high": _mask(limit.v6_bits, 128) >> 64,
            "v6_mask_low": _mask(limit.v6_bits, 128) & WORD,
            "per": _PER[limit.per],
            "in_bytes": limit.bytes,
            "cost_shift": shift,
            "by_tick": depth >= LONG_NS << LimitUnit.LIMIT_FRACTION_BITS,
            "exceed": Verdict.PASS if limit.exceed is ir.Verdict.PASS else Verdict.DROP,
        },
    )


def _units(name: str, limit: ir.Limit) -> tuple[int, int, int]:
    """Bits of the fraction of ``cost``, what a packet or byte takes up, and what a whole burst does."""
    most = MOST_BYTES_PER_SECOND if limit.bytes else MOST_PACKETS_PER_SECOND
    if limit.amount * NS_PER_S > most * limit.window_ns:
        unit = "bytes" if limit.bytes else "packets"
        raise CapacityError(f'rule "{name}": {most:,} {unit} a second are the highest rate of a limit')
    units = limit.window_ns << LimitUnit.LIMIT_FRACTION_BITS
    if not limit.bytes:
        shift, cost = 0, _divided(units, limit.amount)
    else:
        for shift in range(LimitUnit.LIMIT_COST_SHIFT, -1, -1):
            cost = _divided(units << shift, limit.amount)
            if cost >> LimitUnit.LIMIT_COST_BITS == 0:
                break
        else:
            raise CapacityError(
                f'rule "{name}": its limit is below a byte in four minutes; a higher rate, or one of packets, will do'
            )
    depth = limit.burst * cost >> shift
    if depth >> LimitUnit.LIMIT_DEPTH_BITS:
        raise CapacityError(
            f'rule "{name}": at its rate, {limit.burst:,} at once take longer than 104 days to come back; '
            "a smaller burst or a higher rate will do"
        )
    return shift, cost, depth


def _divided(number: int, by: int) -> int:
    """To the nearest."""
    return (2 * number + by) // (2 * by)


def _mask(bits: int, width: int = 32) -> int:
    """The highest ``bits`` of ``width``."""
    return ((1 << bits) - 1) << width - bits


def _identity(name: str, limit: ir.Limit) -> int:
    """64 bits that are the same for the same rule with the same limit, in whatever policy."""
    text = repr(
        (name, limit.amount, limit.window_ns, limit.burst, limit.per, limit.v4_bits, limit.v6_bits, limit.bytes)
    )
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
