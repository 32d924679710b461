# SPDX-License-Identifier: GPL-2.0-or-later
"""State that a generation takes over from those before, and state that it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import Image
from tests.kernel.state_maps import state_maps
from xdpfw.kernel import abi
from xdpfw.kernel.maps import ArrayMap
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import SpaTime, State
from xdpfw.observe.metadata import KeyMeta, KnockMeta, Metadata
from xdpfw.statekeeping import MAX_WINDOW_NS, handed_down, inherited, tidy

pytestmark = pytest.mark.needs("privileges", "bpffs")

ADMIN = KnockMeta("admin", 1, "", 0, ("22/tcp",), (KeyMeta(1, "laptop", 11),))


@pytest.fixture
def pins(bpffs: Path) -> Pins:
    return Pins("default", bpffs)


def pin(pins: Pins, state: State) -> None:
    with pins.lock(), pins.new_state() as directory:
        state.pin(directory)


def meta(*knocks: KnockMeta) -> Metadata:
    return Metadata("p.yaml", "", "", "", 0.0, None, (), (), (), (), knocks)


def test_state_is_inherited_as_it_is(pins: Pins) -> None:
    with state_maps() as made:
        with inherited(pins) as state:
            assert state is None
        pin(pins, made)
        with inherited(pins) as state:
            assert state is not None
            assert state.grants.id == made.grants.id


def test_tables_are_there_before_a_policy_that_needs_them_and_go_behind_one_that_does_not(
    pins: Pins, make_image: Callable[..., Image]
) -> None:
    def load(before: State | None, **config: int) -> Generation:
        return Generation.load(make_image(**config), interfaces=[], targets=[], state=before)

    def pinned(name: str) -> int:
        with State.open(pins.state) as state:
            return int(getattr(state, name).max_entries)

    with pins.lock():
        with load(None) as small, handed_down(pins, small, None):
            assert pinned("flows") == 1
        with inherited(pins) as before, load(before, tracks=1) as large, handed_down(pins, large, before):
            assert pinned("flows") == abi.FlowLimit.FLOW_BUCKETS * abi.Limit.BUCKET_SLOTS
        with inherited(pins) as before, load(before, tracks=1) as same, State.open(pins.state) as pinned_state:
            assert same.state is not None
            assert before is not None
            assert same.state.flows.id == pinned_state.flows.id == before.flows.id
        with inherited(pins) as before, load(before) as small:
            with handed_down(pins, small, before):
                assert pinned("flows") > 1, "the one before is still in force"
            assert pinned("flows") == 1


def test_state_of_another_layout_is_none(pins: Pins) -> None:
    with state_maps() as made:
        assert made.is_of_this_version()
        pin(pins, made)
        other = ArrayMap.create("flows", 16, 1)
        pins.state.joinpath("flows").unlink()
        other.pin(str(pins.state / "flows"))
        other.close()
        with inherited(pins) as state:
            assert state is None


def test_a_key_that_is_gone_keeps_its_last_time_while_it_matters(pins: Pins) -> None:
    """Or else a message that was accepted could be sent again, to a key that was taken out and put back."""
    now_ns = time.time_ns()
    with state_maps() as made:
        for slot, fingerprint, last_ns in (
            (0, 11, now_ns),
            (1, 22, now_ns),
            (2, 33, now_ns - 2 * MAX_WINDOW_NS),
            (3, 44, 0),
        ):
            made.write_spa_time(slot, SpaTime(fingerprint, last_ns, 1))
        pin(pins, made)
        with pins.lock():
            tidy(pins, meta(ADMIN), 1)
        assert [found.fingerprint for found in made.list_spa_times()[:4]] == [11, 22, 0, 0]
