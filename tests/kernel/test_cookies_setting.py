# SPDX-License-Identifier: GPL-2.0-or-later
"""net.ipv4.tcp_syncookies, which ``protect`` needs: what was there comes back, whatever ends apply and detach."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.firewall import policy
from tests.kernel import test_controller
from tests.kernel.test_controller import INTERFACES, Home, break_at, hook, interrupt, survives  # noqa: F401
from tests.kernel.test_controller import home as bare_home  # noqa: F401
from xdpfw import cookies
from xdpfw.controller import Controller
from xdpfw.errors import KernelError, UsageError
from xdpfw.kernel import sysctl
from xdpfw.kernel.interface import Link, namespace
from xdpfw.kernel.pins import Pins

pytestmark = pytest.mark.needs("privileges", "bpffs", "data plane", "SYN cookies")

PROTECT = "protect: {syn: [443]}\n"
FOLLOW_NOTHING = "{established: false, icmp_errors: false}"
PROTECTED = policy(interfaces=INTERFACES[:1], allow=FOLLOW_NOTHING, extra=PROTECT)
OTHER = policy("{name: udp, match: {proto: udp}, action: pass}", interfaces=INTERFACES[:1], allow=FOLLOW_NOTHING)
BEFORE = 1

STEPS = {
    function.__qualname__
    for function in (
        cookies._keep,
        sysctl.set_syncookies,
        sysctl.put_back,
        cookies.put_back,
        Link.replace,
        Link.detach,
        Controller._release,
        Controller._retire,
        Pins.remove_state,
        Pins.remove_generation,
    )
}
"""What changes the setting, what is known of it, and whether it is needed."""


def setting(home: Home) -> int:
    with namespace(home.namespace.name):
        return sysctl.syncookies()


def change(home: Home, value: int) -> None:
    home.namespace.sysctl("ipv4/tcp_syncookies", value)


def detach(home: Home) -> None:
    with contextlib.suppress(UsageError):  # there may be nothing
        Controller(home.pins).detach()
    assert not home.pins.root.exists()


@pytest.fixture
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    found: Home = request.getfixturevalue("bare_home")
    monkeypatch.setattr(test_controller, "STEPS", STEPS)
    monkeypatch.setattr(test_controller, "CHANGES", set())
    change(found, BEFORE)
    return found


def test_it_is_2_while_a_policy_protects(home: Home) -> None:
    assert any("it was 1" in note for note in home.apply(PROTECTED).notes)
    assert setting(home) == sysctl.ALWAYS
    assert home.apply(PROTECTED).notes == ()
    assert any("is 1 again" in note for note in home.apply(OTHER).notes)
    assert setting(home) == BEFORE


def test_detach_after_apply_was_killed_at_any_step(home: Home) -> None:
    """At once, and behind another apply."""
    number = 0
    survived = False
    while not survived:
        number += 1
        survived = survives(lambda: home.apply(PROTECTED), number)
        if number % 2:
            home.apply(PROTECTED)
            assert setting(home) == sysctl.ALWAYS
        detach(home)
        assert setting(home) == BEFORE, f"killed at step {number}"


def test_apply_of_another_policy_was_killed_at_any_step(home: Home) -> None:
    number = 0
    survived = False
    while not survived:
        number += 1
        home.apply(PROTECTED)
        survived = survives(lambda: home.apply(OTHER), number)
        if number % 2:
            home.apply(OTHER)
        else:
            detach(home)
        assert setting(home) == BEFORE, f"killed at step {number}"


def test_detach_was_killed_at_any_step(home: Home) -> None:
    number = 0
    survived = False
    while not survived:
        number += 1
        home.apply(PROTECTED)
        survived = survives(Controller(home.pins).detach, number)
        detach(home)
        assert setting(home) == BEFORE, f"killed at step {number}"


def test_apply_interrupted_at_any_step_before_it_switches(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KernelError("replace", "link", 5)

    home.apply(OTHER)
    monkeypatch.setattr(Link, "replace", refuse)
    number = 0
    broken = True
    while broken:
        number += 1
        try:
            broken = break_at(number, interrupt, lambda: home.apply(PROTECTED))
        except KeyboardInterrupt:
            broken = True
        except KernelError:
            broken = False
        assert setting(home) == BEFORE, f"interrupted at step {number}"


def test_what_somebody_sets_meanwhile_stays(home: Home) -> None:
    home.apply(PROTECTED)
    change(home, 0)
    detach(home)
    assert setting(home) == 0


def test_what_somebody_set_meanwhile_comes_back_once_a_policy_has_changed_it(home: Home) -> None:
    home.apply(PROTECTED)
    change(home, 0)
    home.apply(PROTECTED)
    assert setting(home) == sysctl.ALWAYS
    detach(home)
    assert setting(home) == 0


def test_2_stays_where_it_was_2(home: Home) -> None:
    change(home, sysctl.ALWAYS)
    home.apply(PROTECTED)
    detach(home)
    assert setting(home) == sysctl.ALWAYS


@pytest.mark.parametrize("is_first", [False, True])
def test_the_last_of_two_instances_puts_it_back(home: Home, bpffs: Path, is_first: bool) -> None:
    others = tuple(f"{name}x" for name in INTERFACES)
    for number, name in enumerate(others):
        home.namespace.ip("link", "add", name, "type", "veth", "peer", f"peer{number}")
    other = Home(home.namespace, home.peer, Pins("other", bpffs), home.hook)
    home.apply(PROTECTED)
    other.apply(policy(interfaces=others, allow=FOLLOW_NOTHING, extra=PROTECT))
    first, last = (home, other) if is_first else (other, home)
    try:
        detach(first)
        assert setting(home) == sysctl.ALWAYS
        detach(last)
        assert setting(home) == BEFORE
    finally:
        detach(other)
