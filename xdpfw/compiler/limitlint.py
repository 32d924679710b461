# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that change nothing: a rule does beyond them what it does within, and adds nobody to a set for it."""

from __future__ import annotations

from dataclasses import dataclass

from xdpfw.compiler import ir


@dataclass(frozen=True, slots=True)
class IdleLimit:
    rule: ir.Rule

    @property
    def message(self) -> str:
        assert self.rule.limit is not None
        verdict = self.rule.limit.exceed
        other = ir.Verdict.PASS if verdict is ir.Verdict.DROP else ir.Verdict.DROP
        return (
            f"its limit changes nothing: {verdict} within it, and {verdict} beyond it "
            f"(write action: {other}, or exceed: {other}, for what you mean)"
        )

    def __str__(self) -> str:
        return f'rule "{self.rule.name}": {self.message}'


def idle_limits(policy: ir.Policy) -> list[IdleLimit]:
    """In order of the rules."""
    return [IdleLimit(rule) for rule in policy.rules if _is_idle(rule)]


def _is_idle(rule: ir.Rule) -> bool:
    if rule.limit is None or (rule.add_to is not None and rule.add_to.exceeded):
        return False
    return rule.action.kind.value == rule.limit.exceed.value
