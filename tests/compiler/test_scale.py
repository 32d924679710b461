# SPDX-License-Identifier: GPL-2.0-or-later
"""Large policies: their tables against the reference, and within bounds."""

from __future__ import annotations

import pytest

from tests.compiler.walk import Walk
from tests.large_policies import LARGE, frames_at
from xdpfw.compiler.image import compile_policy
from xdpfw.packet.decode import Packet, decode
from xdpfw.reference.interpreter import evaluate

MAX_TABLE_BYTES = 128 << 20


@pytest.mark.parametrize("name", LARGE)
def test_tables_and_reference_agree(name: str) -> None:
    policy = LARGE[name]()
    image = compile_policy(policy)
    assert len(image.tables) < MAX_TABLE_BYTES
    walk = Walk(image)
    hits = set()
    for frame in frames_at(policy, 500, seed=2):
        packet = decode(frame)
        assert isinstance(packet, Packet)
        found = walk.classify(packet).rule
        assert (None if found is None else policy.rules[found].name) == evaluate(policy, frame).rule
        hits.add(found)
    assert len(hits) > min(len(policy.rules), 50)
