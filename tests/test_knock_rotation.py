# SPDX-License-Identifier: GPL-2.0-or-later
"""Rotating sequences in virtual time: which windows count, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.knocking import MS, STEP, Firewall, S, knock, packet_of
from xdpfw.compiler import ir
from xdpfw.knock import rotation as client
from xdpfw.reference.knocks import rotated
from xdpfw.reference.memory import START, EventKind

EVERY = 30 * S
ROTATION = ir.Rotation(bytes(range(32)), EVERY, ir.Range(10000, 60000), 4, 10 * S, 10 * S)
HOME = knock("home", ROTATION, "8443/tcp")
NOW = START.wall_ns // EVERY


def steps(window: int, rotation: ir.Rotation = ROTATION) -> list[str]:
    """What a client knocks in a window."""
    found = client.steps(rotation.secret, window, rotation.ports.low, rotation.ports.high, rotation.length)
    return [str(step) for step in found]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1), st.integers(1, 65535), st.integers(1, 16))
def test_client_and_reference_derive_the_same(secret: bytes, window: int, low: int, length: int) -> None:
    rotation = ir.Rotation(secret, EVERY, ir.Range(low, 65535), length, S, S)
    assert rotated(rotation, window).steps == client.steps(secret, window, low, 65535, length)


def test_windows_are_those_of_the_client() -> None:
    assert client.window_of(START.wall_ns, EVERY) == NOW


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_three_windows_open(offset: int) -> None:
    firewall = Firewall([HOME])
    firewall.knock(" ".join(steps(NOW + offset)))
    assert firewall.opened("8443/tcp")


@pytest.mark.parametrize("offset", [-2, 2, 1000])
def test_steps_of_other_windows_are_no_steps(offset: int) -> None:
    firewall = Firewall([HOME])
    assert [firewall.send(packet_of(step)) for step in steps(NOW + offset)] == ["default"] * 4
    assert not firewall.opened("8443/tcp")


def test_windows_do_not_mix() -> None:
    firewall = Firewall([HOME])
    old, new = steps(NOW), steps(NOW + 1)
    firewall.knock(" ".join((*old[:2], *new[2:])))
    assert not firewall.opened("8443/tcp")


def test_a_sequence_may_go_on_into_the_next_window_and_no_further() -> None:
    quick = knock("home", replace(ROTATION, every_ns=1 * S), "8443/tcp")
    window = START.wall_ns // S
    for waits, opened in ((1 * S, True), (2 * S - 1, True), (2 * S, False)):
        firewall = Firewall([quick])
        *first, last = steps(window)
        firewall.knock(" ".join(first))
        firewall.wait(waits)
        assert (firewall.send(packet_of(last)) == STEP) == opened
        assert firewall.opened("8443/tcp") == opened


def test_a_window_that_is_over_takes_its_progress_with_it() -> None:
    quick = knock("home", replace(ROTATION, every_ns=1 * S), "8443/tcp")
    firewall = Firewall([quick])
    firewall.knock(" ".join(steps(START.wall_ns // S)[:3]))
    firewall.kinds()
    firewall.wait(2 * S)
    assert firewall.send(packet_of("23/tcp")) == "default"
    assert firewall.kinds() == []


def test_any_other_packet_breaks_it() -> None:
    firewall = Firewall([HOME])
    firewall.knock(" ".join(steps(NOW)[:3]))
    firewall.send(packet_of("23/tcp"))
    firewall.knock(steps(NOW)[3])
    assert not firewall.opened("8443/tcp")


def test_ports_are_bare_syns_and_datagrams_by_turns() -> None:
    firewall = Firewall([HOME])
    first, second, *_ = steps(NOW)
    assert firewall.send(packet_of(first, options="A")) == "default"
    assert firewall.send(packet_of(first, options="S payload=00")) == STEP
    assert firewall.kinds() == []
    assert firewall.send(packet_of(second.replace("udp", "tcp"))) == "default"


def test_time_within_a_window_still_counts() -> None:
    firewall = Firewall([knock("home", replace(ROTATION, step_ns=500 * MS), "8443/tcp")])
    first, *rest = steps(NOW)
    firewall.knock(first)
    firewall.wait(501 * MS)
    firewall.knock(" ".join(rest))
    assert not firewall.opened("8443/tcp")


def test_a_step_of_a_sequence_breaks_a_rotation_and_the_other_way_round() -> None:
    ssh = knock("ssh", "7000/tcp 9000/tcp 8000/tcp")
    firewall = Firewall([ssh, HOME])
    firewall.knock(f"{steps(NOW)[0]} 7000/tcp {steps(NOW)[1]}")
    assert firewall.kinds() == [
        (EventKind.STEP, "home", 1),
        (EventKind.RESET, "home", 1),
        (EventKind.STEP, "ssh", 1),
        (EventKind.RESET, "ssh", 1),
    ]


def test_at_the_beginning_of_time() -> None:
    firewall = Firewall([HOME], now=START._replace(wall_ns=0))
    firewall.knock(" ".join(steps(0)))
    assert firewall.opened("8443/tcp")
