# SPDX-License-Identifier: GPL-2.0-or-later
"""Large policies in the kernel against the reference."""

from __future__ import annotations

import pytest

from tests.kernel.agreement import agreement
from tests.large_policies import LARGE, frames_at

pytestmark = pytest.mark.needs("privileges", "data plane")


@pytest.mark.parametrize("name", LARGE)
def test_kernel_and_reference_agree(name: str) -> None:
    policy = LARGE[name]()
    with agreement(policy) as both:
        for frame in frames_at(policy, 1000):
            both.run(frame)
