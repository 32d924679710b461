# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies in rules/, through the program in the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from xdpfw.compiler.lower import lower
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import in_kernel

pytestmark = pytest.mark.needs("privileges", "data plane")

RULES = Path(__file__).parents[2] / "rules"


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_does_what_its_tests_say(path: Path) -> None:
    sources = Sources.from_disk()
    policy = lower(load(str(path), sources))
    with in_kernel(policy) as kernel:
        results = list(policytest.run(policytest.prepare(policy, sources.files), kernel))
    assert [result.to_json() for result in results if not result.ok] == []
