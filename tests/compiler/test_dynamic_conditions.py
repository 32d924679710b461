# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawn rules on dynamic sets and state, with drawn members: the compiled tables against the conditions themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler.walk import Known, Walk
from tests.policies import one, policy
from tests.shapes import SHAPES, shaped
from xdpfw.compiler import ir
from xdpfw.compiler.atoms import asked_sets
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.abi import PacketState
from xdpfw.packet.decode import Packet, decode
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.matching import Standing, observe, unmet

Draw = Callable[[st.SearchStrategy[Any]], Any]

NAMES: Final = ("bans", "guests", "scanners")
RANGES: Final = tuple(ir.Range(low, high) for low, high in ((0, 99), (1, 1), (2, 50), (100, 200)))
PACKETS: Final = tuple(
    decode(parse_packet(f"{proto} 0.0.0.{src}{port} > 0.0.0.{dst}{to}{later}"))
    for proto in ("tcp", "udp")
    for src in (1, 2, 100)
    for dst in (1, 60, 201)
    for port, to, later in ((":1", ":80", ""), ("", "", " frag=later"))
)
SETS: Final = st.frozensets(st.sampled_from(NAMES))


def addresses() -> st.SearchStrategy[ir.AddressRanges | None]:
    ranges = st.lists(st.sampled_from(RANGES), max_size=1).map(tuple)
    names = st.frozensets(st.sampled_from(NAMES), max_size=2).map(lambda found: tuple(sorted(found)))
    return st.one_of(st.none(), st.builds(lambda v4, dynamic: ir.AddressRanges(v4, dynamic=dynamic), ranges, names))


def matches() -> st.SearchStrategy[ir.Match]:
    return st.builds(
        ir.Match,
        src=addresses(),
        dst=addresses(),
        state=st.sampled_from((None, None, one(ir.State.NEW), one(ir.State.ESTABLISHED), one(0, 1))),
        proto=st.sampled_from((None, None, one(6), one(17))),
    )


@st.composite
def rules(draw: Draw) -> list[ir.Rule]:
    kinds = st.sampled_from((ir.ActionKind.DROP, ir.ActionKind.PASS, ir.ActionKind.COUNT))
    return [
        ir.Rule(f"r{number}", draw(matches()), ir.Action(draw(kinds)), draw(st.one_of(st.none(), matches())))
        for number in range(draw(st.integers(1, 6)))
    ]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=settings().max_examples, deadline=None)
@given(drawn=rules(), src_sets=SETS, dst_sets=SETS, state=st.sampled_from(ir.State))
def test_tables_and_conditions_agree(
    shape: str, drawn: list[ir.Rule], src_sets: frozenset[str], dst_sets: frozenset[str], state: ir.State
) -> None:
    declared = tuple(ir.DynamicSet(name, 16) for name in NAMES)
    found = dataclasses.replace(policy(*drawn), dynamic_sets=declared)
    with shaped(shape):
        walk = Walk(compile_policy(found))
    for packet in PACKETS:
        assert isinstance(packet, Packet)
        is_later = packet.fragment is ir.Fragment.LATER
        bits = [
            sum(1 << bit for bit, name in enumerate(asked_sets(found, direction)) if name in members)
            for direction, members in (("src", src_sets), ("dst", dst_sets))
        ]
        known = Known(PacketState.NONE if is_later else PacketState(state), (bits[0], bits[1]))
        looked_up = walk.classify(packet, 0, known)
        observation = observe(packet, 0, None if is_later else state)
        standing = Standing(frozenset(), src_sets, dst_sets)

        matching = [
            number
            for number, rule in enumerate(drawn)
            if unmet(rule.match, packet, observation, standing) is None
            and (rule.unless is None or unmet(rule.unless, packet, observation, standing) is not None)
        ]
        decides = next((number for number in matching if drawn[number].action.kind is not ir.ActionKind.COUNT), None)
        counted = tuple(
            number
            for number in matching
            if drawn[number].action.kind is ir.ActionKind.COUNT and (decides is None or number < decides)
        )
        assert (looked_up.rule, looked_up.counted) == (decides, counted), packet
