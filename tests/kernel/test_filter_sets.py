# SPDX-License-Identifier: GPL-2.0-or-later
"""ClassBench's filter sets in the kernel against a linear scan."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.filtersets import FilterSet, LinearScan, Packet, read, read_trace
from tests.shared_data import shared
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation

pytestmark = pytest.mark.needs("privileges", "data plane")

SETS = [f"{kind}_1k" for kind in ("acl1", "fw1", "ipc1", "v6_acl1", "v6_fw1", "v6_ipc1")]
SETS += [f"{kind}_10k.gz" for kind in ("acl1", "fw1", "ipc1", "v6_acl1", "v6_fw1", "v6_ipc1")]


TRACE_STEP = 16
"""Of a trace of 100,000 packets, one in so many: a linear scan takes its time."""


@pytest.mark.parametrize("name", SETS)
def test_filter_set(name: str) -> None:
    filters = read(shared("classbench", name))
    check(filters, filters.packets(3000))


@pytest.mark.parametrize("name", ["acl1_100k", "fw1_100k"])
def test_trace_of_a_hundred_thousand_filters(name: str) -> None:
    filters = read(shared("classbench", f"{name}.gz"))
    trace = read_trace(shared("classbench", f"{name}_trace.gz"), filters.bits)
    check(filters, trace[::TRACE_STEP])


def check(filters: FilterSet, packets: Sequence[Packet]) -> None:
    """All packets get the rule that a linear scan finds, and are counted once."""
    scan = LinearScan(filters)
    hits: set[int | None] = set()
    with Generation.load(compile_policy(filters.policy()), interfaces=[], targets=[], trace=True) as generation:
        for packet in packets:
            expected = scan.first(packet)
            hits.add(expected)
            outcome = generation.run(filters.frame(packet))
            verdict = "drop" if expected is not None and expected % 2 else "pass"
            assert (outcome.rule, outcome.verdict) == (expected, verdict), packet
        reasons, rules = generation.counters()
    assert reasons[abi.Reason.DEFAULT].packets + sum(counter.packets for counter in rules) == len(packets)
    assert len(hits) > 200
