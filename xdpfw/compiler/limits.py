# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits -> what the program in the kernel goes by: ``struct xdpfw_rate`` of bpf/abi_limit.h."""

from __future__ import annotations

from typing import Final

from xdpfw.compiler import ir
from xdpfw.kernel import abi
from xdpfw.kernel.abi import LimitPer, Verdict

_PER: Final = {
    ir.Per.RULE: LimitPer.RULE,
    ir.Per.SRC: LimitPer.SRC,
    ir.Per.FLOW: LimitPer.FLOW,
}


def limit_value(rule: ir.Rule) -> bytes:
    """``struct xdpfw_rate`` of the rule's limit."""
    limit = rule.limit
    assert limit is not None
    return abi.pack(
        "rate",
        {
            "per": _PER[limit.per],
            "in_bytes": limit.bytes,
            "v4_bits": limit.v4_bits,
            "v6_bits": limit.v6_bits,
            "exceed": Verdict.PASS if limit.exceed is ir.Verdict.PASS else Verdict.DROP,
        },
    )
