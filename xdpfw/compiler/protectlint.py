# SPDX-License-Identifier: GPL-2.0-or-later
"""What forged SYNs to protected ports can use up, and where a protected port is in the way of what is routed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.limitlint import RuleLint
from xdpfw.compiler.overlap import Overlap, only
from xdpfw.compiler.regions import Region
from xdpfw.policy.names import TCP

_SYN: Final = only(*(flags for flags in range(256) if flags & 0x17 == 0x02))  # of FIN, SYN, RST, ACK only SYN
_FOR_STACK: Final = frozenset((ir.ActionKind.PASS, ir.ActionKind.ROUTE, ir.ActionKind.CPU))
"""A cookie is asked for where the stack is to get the packet, which may become of one that is to be routed."""


def protect_lints(policy: ir.Policy) -> list[RuleLint]:
    """In order of the rules."""
    return list(_lints(policy)) if policy.protect_syn else []


def _lints(policy: ir.Policy) -> Iterator[RuleLint]:
    overlap = Overlap(policy)
    syn: Region = {
        "proto": only(TCP),
        "dport": policy.protect_syn,
        "tcp_flags": _SYN,
        "state": only(ir.State.NEW),
    }
    for rule in policy.rules:
        is_plain = rule.limit is None and rule.add_to is None and rule.action.kind is not ir.ActionKind.ROUTE
        if is_plain or rule.action.kind not in _FOR_STACK or not overlap.meets(rule, syn):
            continue
        if rule.limit is not None and rule.limit.per is ir.Per.RULE:
            yield RuleLint("protect-limit", rule, _LIMIT_MESSAGE)
        if rule.add_to is not None:
            yield RuleLint("protect-add-to", rule, _ADD_MESSAGE.format(rule.add_to.set))
        if rule.action.kind is ir.ActionKind.ROUTE:
            yield RuleLint("protect-route", rule, _ROUTE_MESSAGE)


_LIMIT_MESSAGE: Final = (
    "forged SYNs to a protected port take its limit's tokens before a cookie is asked for, and leave others none "
    "(put the limit per: src/64, or on state: established)"
)
_ADD_MESSAGE: Final = (
    'forged SYNs to a protected port put whom they name into set "{}" before a cookie is asked for '
    "(let a rule for state: established add to it, or the command set add)"
)
_ROUTE_MESSAGE: Final = (
    "what XDP cannot route itself goes up the stack, and SYNs to protected ports are answered even where they are for "
    "a host behind this one, if a socket here listens on all addresses: such connections are reset (protect none of "
    "the ports that it routes)"
)
