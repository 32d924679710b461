# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies in rules/ are right and do what their own tests say. In the kernel: tests/kernel/test_rules.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import ReferenceDecider

RULES = Path(__file__).parents[1] / "rules"
BASTION = RULES / "ssh-bastion.yaml"
USABLE = sorted(path for path in RULES.glob("*.yaml") if path != BASTION)


@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_does_what_its_tests_say(path: Path) -> None:
    sources = Sources.from_disk()
    policy = lower(load(str(path), sources))
    results = list(policytest.run(policytest.prepare(policy, sources.files), ReferenceDecider(policy)))
    assert results
    assert [result.to_json() for result in results if not result.ok] == []


@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_every_rule_is_reached(path: Path) -> None:
    assert [str(found) for found in never_reached(lower(load(str(path), Sources.from_disk())))] == []


@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_every_rule_is_tested(path: Path) -> None:
    policy = lower(load(str(path), Sources.from_disk()))
    named = {step.rule for test in policy.tests for step in test.steps}
    assert {rule.name for rule in policy.rules if rule.action.kind != "count"} <= named


def test_the_bastion_lacks_knocks_alone() -> None:
    with pytest.raises(PolicyError) as caught:
        load(str(BASTION), Sources.from_disk())
    line = BASTION.read_text().split("\n").index("knocks:") + 1
    errors = [str(error) for error in (caught.value, *caught.value.others)]
    assert errors == [f"{BASTION}:{line}:1: knocks is not supported yet (leave it out)"]


def test_the_packets_of_the_bastion_can_be_built() -> None:
    text, removed = re.subn(r"(?ms)^knocks:\n.*?(?=^rules:)", "", BASTION.read_text())
    assert removed == 1
    sources = Sources.from_bundle({"bastion.yaml": text})
    assert policytest.prepare(lower(load("bastion.yaml", sources)), sources.files)
