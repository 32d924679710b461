# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies in rules/ are right and do what their own tests say. In the kernel: tests/kernel/test_rules.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from xdpfw.compiler.knocklint import knock_lints
from xdpfw.compiler.limitlint import limit_lints
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.compiler.protectlint import protect_lints
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import ReferenceDecider

RULES = Path(__file__).parents[1] / "rules"
POLICIES = sorted(RULES.glob("*.yaml"))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_does_what_its_tests_say(path: Path) -> None:
    sources = Sources.from_disk()
    policy = lower(load(str(path), sources))
    results = list(policytest.run(policytest.prepare(policy, sources.files), ReferenceDecider(policy)))
    assert results
    assert [result.to_json() for result in results if not result.ok] == []


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_rule_is_reached(path: Path) -> None:
    assert [str(found) for found in never_reached(lower(load(str(path), Sources.from_disk())))] == []


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_limits_hold_what_they_seem_to(path: Path) -> None:
    policy = lower(load(str(path), Sources.from_disk()))
    assert [str(found) for found in (*limit_lints(policy), *protect_lints(policy))] == []


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_rule_is_tested(path: Path) -> None:
    policy = lower(load(str(path), Sources.from_disk()))
    named = {step.rule for test in policy.tests for step in test.steps}
    assert {rule.name for rule in policy.rules if rule.action.kind != "count"} <= named


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_no_scan_opens_its_knocks(path: Path) -> None:
    assert [str(found) for found in knock_lints(lower(load(str(path), Sources.from_disk())))] == []
