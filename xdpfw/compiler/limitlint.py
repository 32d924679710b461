# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that change nothing, and limits that what is established goes around."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.overlap import Overlap, only
from xdpfw.compiler.regions import Region, icmp_ranges
from xdpfw.policy.names import ICMP, ICMPV6, PROTOCOLS, TCP, UDP

FLAG_SYN: Final = 0x02
FLAG_ACK: Final = 0x10
_FOLLOWED_ICMP: Final = ((ICMP, (0, 3, 8, 11, 12)), (ICMPV6, (1, 2, 3, 4, 128, 129)))
_LETS_ANSWER: Final = frozenset((ir.ActionKind.PASS, ir.ActionKind.REDIRECT, ir.ActionKind.ROUTE, ir.ActionKind.CPU))
"""What these let in may be answered, and then belongs to a flow."""


@dataclass(frozen=True, slots=True)
class RuleLint:
    """``kind``: as in the JSON of check."""

    kind: str
    rule: ir.Rule
    message: str

    def __str__(self) -> str:
        return f'rule "{self.rule.name}": {self.message}'


def limit_lints(policy: ir.Policy) -> list[RuleLint]:
    """In order of the rules."""
    limited = [rule for rule in policy.rules if rule.limit is not None]
    established = set(map(id, _passed_by(policy, limited)))
    found = []
    for rule in limited:
        if _is_idle(rule):
            found.append(RuleLint("limit-idle", rule, _idle_message(rule)))
        elif id(rule) in established:
            found.append(RuleLint("limit-established", rule, _ESTABLISHED_MESSAGE))
    return found


def _is_idle(rule: ir.Rule) -> bool:
    """A rule that does beyond its limit what it does within, and adds nobody to a set for it."""
    if rule.limit is None or (rule.add_to is not None and rule.add_to.exceeded):
        return False
    return rule.action.kind.value == rule.limit.exceed.value


def _idle_message(rule: ir.Rule) -> str:
    assert rule.limit is not None
    verdict = rule.limit.exceed
    other = ir.Verdict.PASS if verdict is ir.Verdict.DROP else ir.Verdict.DROP
    return (
        f"its limit changes nothing: {verdict} within it, and {verdict} beyond it "
        f"(write action: {other}, or exceed: {other}, for what you mean)"
    )


_ESTABLISHED_MESSAGE: Final = (
    "its limit holds until the first answer only: what is established passes by allow.established, before any rule "
    "(add state: new to the match to limit new flows; to limit all packets, write allow: {established: false} and, "
    "behind this rule, one that passes state: established)"
)


def _passed_by(policy: ir.Policy, rules: list[ir.Rule]) -> Iterator[ir.Rule]:
    """Rules of which some packets never come to the rules, once there was an answer."""
    if not policy.allow.established or not rules:
        return
    overlap = Overlap(policy)
    for rule in rules:
        if rule.action.kind in _LETS_ANSWER and any(overlap.meets(rule, region) for region in _followed()):
            yield rule


def _followed() -> Iterator[Region]:
    """What can be established. A bare SYN is always new."""
    state = only(ir.State.ESTABLISHED)
    flags = only(*(flags for flags in range(256) if not flags & FLAG_SYN or flags & FLAG_ACK))
    yield {"proto": only(TCP), "state": state, "tcp_flags": flags}
    yield {"proto": only(UDP, PROTOCOLS["sctp"]), "state": state}
    for proto, types in _FOLLOWED_ICMP:
        codes = ir.Range(0, 255)
        messages = tuple(ir.IcmpMessage(proto, ir.Range(number, number), codes) for number in types)
        yield {"proto": only(proto), "state": state, "icmp": icmp_ranges(messages)}
