# SPDX-License-Identifier: GPL-2.0-or-later
"""State that a generation takes over from those before, and state that it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.conftest import Image
from tests.kernel.state_maps import state_maps
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.state import SpaTime, State
from xdpfw.observe.metadata import KeyMeta, KnockMeta, Metadata
from xdpfw.statekeeping import MAX_WINDOW_NS, inherited, tidy

pytestmark = pytest.mark.needs("privileges", "bpffs")

ADMIN = KnockMeta("admin", 1, "", 0, ("22/tcp",), (KeyMeta(1, "laptop", 11),))


@pytest.fixture
def pins(bpffs: Path) -> Pins:
    return Pins("default", bpffs)


def pin(pins: Pins, state: State) -> None:
    with pins.lock(), pins.new_state() as directory:
        state.pin(directory)


def meta(*knocks: KnockMeta, has_state: bool = True) -> Metadata:
    return Metadata("p.yaml", "", "", "", 0.0, None, (), (), (), (), knocks, has_state)


def test_state_is_inherited_as_it_is(pins: Pins, make_image: Callable[..., Image]) -> None:
    image = replace(make_image(), has_state=True)
    with state_maps() as made:
        with inherited(pins, image) as state:
            assert state is None
        pin(pins, made)
        with inherited(pins, image) as state:
            assert state is not None
            assert state.grants.id == made.grants.id
        with inherited(pins, make_image()) as state:
            assert state is None, "a policy without knocks and logs needs none"


@pytest.mark.parametrize("name", ["beginnings", "progress", "spa_times", "events", "grants"])
def test_state_of_another_size_is_none(pins: Pins, make_image: Callable[..., Image], name: str) -> None:
    with state_maps(**{name: 16}) as made:
        assert not made.is_of_this_version()
        pin(pins, made)
        with inherited(pins, replace(make_image(), has_state=True)) as state:
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


def test_a_policy_without_state_leaves_none(pins: Pins) -> None:
    with state_maps() as made:
        pin(pins, made)
        with pins.lock():
            tidy(pins, meta(has_state=False), 1)
    assert not pins.state.exists()
