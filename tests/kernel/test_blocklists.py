# SPDX-License-Identifier: GPL-2.0-or-later
"""Real blocklists as the language reads them, in the kernel: 80 to 213,288 networks, nested and single."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from tests.frames import tcp, v4_frame, v6_frame
from tests.kernel.agreement import agreement
from tests.policies import INTERFACES
from tests.shared_data import shared
from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

pytestmark = pytest.mark.needs("privileges", "data plane")

LISTS = [
    "bitwire_inbound_networks.v4.txt.gz",
    "ipranges_all_merged.v6.txt",
    "ipranges_all_unmerged.v4.txt",
    "ipsum_level1.v4.txt",
    "spamhaus_drop.v4.ipset",
    "spamhaus_drop.v6.ipset",
    "x4b_datacenter.v6.txt",
]
POLICY = f"""
version: 1
interfaces: {{{", ".join(f"{name}: {{}}" for name in INTERFACES)}}}
default: pass
sets:
  bad: {{type: prefix, file: bad.txt}}
rules:
  - {{name: blocked, match: {{src: "@bad"}}, action: drop}}
"""


def blocking(path: Path) -> ir.Policy:
    """A policy with the list as its set."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return lower(load("policy.yaml", Sources.from_bundle({"policy.yaml": POLICY, "bad.txt": text})))


@pytest.mark.parametrize("name", LISTS)
def test_blocklist(name: str) -> None:
    """Around both ends of networks of the list, and anywhere."""
    blocked = blocking(shared("blocklists", name))
    source = random.Random(name)
    table = blocked.address_sets[0].table
    with agreement(blocked) as both:
        for bits, framed in ((32, v4_frame), (128, v6_frame)):
            spans = table.spans(bits)
            chosen = source.sample(spans, min(len(spans), 500))
            near = {v for low, high in chosen for v in (low - 1, low, (low + high) // 2, high, high + 1)}
            near |= {source.getrandbits(bits) for _ in range(200)}
            for address in sorted(v for v in near if 0 <= v < 1 << bits):
                both.run(framed(tcp(), src=address))
        assert both.counted("blocked") >= min(len(table), 500) > 0
