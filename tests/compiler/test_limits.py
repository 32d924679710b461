# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits as numbers: what a packet and a burst take up, and what there is no room for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler.limits import MOST_BYTES_PER_SECOND, MOST_PACKETS_PER_SECOND, limit_value
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
UNITS = 1 << int(abi.LimitUnit.LIMIT_FRACTION_BITS)
TEN = ir.Limit(amount=10, window_ns=SECOND, burst=5)


def rate(limit: ir.Limit, name: str = "it") -> Any:
    return abi.unpack("rate", limit_value(ir.Rule(name, ir.Match(), ir.Action(ir.ActionKind.PASS), limit=limit)))


def test_a_packet_takes_up_its_share_of_the_time() -> None:
    found = rate(TEN)
    assert (found.cost, found.depth, found.cost_shift) == (SECOND // 10 * UNITS, SECOND // 2 * UNITS, 0)


def test_a_byte_has_a_fraction() -> None:
    found = rate(replace(TEN, amount=12_500_000_000, burst=125_000, bytes=True))
    assert (found.cost, found.cost_shift) == (round(0.08 * UNITS * (1 << 16)), 16)
    assert found.depth == pytest.approx(10_000 * UNITS, rel=1e-5)


@pytest.mark.parametrize(("v4", "v6"), [(0, 0), (1, 1), (24, 64), (31, 65), (32, 128)])
def test_masks_of_prefixes(v4: int, v6: int) -> None:
    found = rate(replace(TEN, per=ir.Per.SRC, v4_bits=v4, v6_bits=v6))
    assert f"{found.v4_mask:064b}" == ("1" * v4).ljust(64, "0")
    assert f"{found.v6_mask_high:064b}{found.v6_mask_low:064b}" == ("1" * v6).ljust(128, "0")


def test_the_same_rule_with_the_same_limit_has_the_same_buckets_and_no_other_has() -> None:
    others = [replace(TEN, amount=11), replace(TEN, burst=6), replace(TEN, per=ir.Per.SRC), replace(TEN, bytes=True)]
    assert rate(TEN).id == rate(replace(TEN, exceed=ir.Verdict.PASS)).id
    assert len({rate(each).id for each in (TEN, *others)} | {rate(TEN, "other").id}) == 6


rates = st.builds(
    ir.Limit,
    amount=st.integers(1, MOST_PACKETS_PER_SECOND),
    window_ns=st.sampled_from((SECOND, 60 * SECOND, HOUR)),
    burst=st.integers(1, 1000),
)


@given(rates)
def test_rates_of_packets_are_exact_to_one_percent(limit: ir.Limit) -> None:
    found = rate(limit)
    exact = Fraction(limit.window_ns * UNITS, limit.amount)
    assert abs(found.cost - exact) <= exact / 100
    assert found.depth == limit.burst * found.cost, "the burst passes at once, and no packet more"


@given(
    st.integers(1, MOST_BYTES_PER_SECOND), st.sampled_from((SECOND, 60 * SECOND)), st.integers(60, 9000)
)  # fmt: skip
def test_rates_of_bytes_are_exact_to_one_percent_of_frames_as_they_are(amount: int, window: int, size: int) -> None:
    found = rate(ir.Limit(amount, window, burst=9000, bytes=True))
    exact = Fraction(size * window * UNITS, amount)
    assert abs((size * found.cost >> found.cost_shift) - exact) <= exact / 100
    assert abi.LimitUnit.LIMIT_MOST_BYTES * found.cost < 1 << 64
    assert found.depth >= size * found.cost >> found.cost_shift


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (ir.Limit(MOST_PACKETS_PER_SECOND + 1, SECOND, 1), "1,000,000,000 packets a second are the highest rate"),
        (ir.Limit(MOST_BYTES_PER_SECOND + 1, SECOND, 1, bytes=True), "100,000,000,000 bytes a second are the highest"),
        (ir.Limit(13, HOUR, 9000, bytes=True), "is below a byte in four minutes"),
        (ir.Limit(1, HOUR, 2503), "at its rate, 2,503 at once take longer than 104 days to come back"),
    ],
)
def test_what_there_is_no_room_for_is_refused(limit: ir.Limit, message: str) -> None:
    with pytest.raises(CapacityError, match=f'rule "it": .*{message}'):
        rate(limit)


def test_what_there_just_is_room_for() -> None:
    assert rate(ir.Limit(MOST_PACKETS_PER_SECOND, SECOND, 1)).cost == UNITS
    assert rate(ir.Limit(14, HOUR, 9000, bytes=True)).cost_shift == 0
    assert rate(ir.Limit(1, HOUR, 2500)).depth < 1 << int(abi.LimitUnit.LIMIT_DEPTH_BITS)


def test_only_long_bursts_are_asked_with_a_time_that_is_a_tick_old() -> None:
    assert [rate(replace(TEN, burst=burst)).by_tick for burst in (9, 10)] == [0, 1]
