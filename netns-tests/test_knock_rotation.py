# SPDX-License-Identifier: GPL-2.0-or-later
"""Sequences that change with the time, by ``xdpfw knock --rotate``. See tests/knock_host.py for who is where."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, V4, V6, XDPFW, KnockHost
from tests.topology import run, wait_for
from xdpfw.knock import rotation
from xdpfw.knock.steps import Step

NS_PER_S = 10**9
WEEK_S = 7 * 24 * 3600
"""A window that does not end during a test, but for one second in a week."""

LOW, HIGH, LENGTH = 10000, 60000, 4
DEFAULTS = policy(extra="knocks:\n  home: {rotate: {secret: home.secret, ports: 10000-60000}, opens: [22/tcp]}\n")


def rotating(every: str) -> str:
    rotate = f"{{secret: home.secret, every: {every}, ports: {LOW}-{HIGH}, length: {LENGTH}}}"
    return policy(extra=f"knocks:\n  home: {{rotate: {rotate}, opens: [22/tcp], for: 5m}}\n")


@pytest.fixture
def secret(knock_host: KnockHost) -> Path:
    path = knock_host.firewall.directory / "home.secret"
    run(*XDPFW, "keygen", "--rotate", path)
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def steps_of(secret: Path, window: int) -> list[str]:
    key = rotation.secret_key(secret.read_text(encoding="utf-8"))
    return [text(step) for step in rotation.steps(key, window, LOW, HIGH, LENGTH)]


def text(step: Step) -> str:
    return f"{step.number}/{'tcp' if step.protocol == 6 else 'udp'}"


def present(every_s: int) -> int:
    return rotation.window_of(time.time_ns(), every_s * NS_PER_S)


@pytest.mark.parametrize("address", [V4, V6])
def test_xdpfw_knock(knock_host: KnockHost, secret: Path, address: str) -> None:
    knock_host.firewall.apply(rotating("2s"))
    assert not knock_host.opened(address)
    client = ("--rotate", secret, "--every", "2s", "--delay", "20ms")
    told = knock_host.xdpfw_knock(address, *client, "--verify", "22", "--json")
    assert json.loads(told.stdout)["verified"] is True
    assert knock_host.opened(address)


def test_the_defaults_of_both_sides_are_the_same(knock_host: KnockHost, secret: Path) -> None:
    knock_host.firewall.apply(DEFAULTS)
    knock_host.xdpfw_knock(V4, "--rotate", secret, "--verify", "22")


def test_the_windows_beside_the_present_one_count(knock_host: KnockHost, secret: Path) -> None:
    knock_host.firewall.apply(rotating("7d"))
    for offset in (-1, 0, 1):
        knock_host.steps(*steps_of(secret, present(WEEK_S) + offset))
        assert knock_host.opened(), offset
        knock_host.firewall.command("grants", "revoke", "--all")
        assert not knock_host.opened()


def test_windows_further_away_do_not(knock_host: KnockHost, secret: Path) -> None:
    """Their packets are no steps, so the rules decide on them."""
    knock_host.firewall.apply(rotating("7d"))
    for offset in (-3, -2, 2, 3):
        before = knock_host.firewall.reason("default")
        knock_host.xdpfw_knock(V4, *steps_of(secret, present(WEEK_S) + offset), "--delay", "5ms")
        wait_for(lambda before=before: knock_host.firewall.reason("default") >= before + LENGTH, "the packets")
        assert knock_host.grants() == []
    assert knock_host.firewall.reason("knock.step") == 0


def test_steps_of_two_windows_are_no_knock(knock_host: KnockHost, secret: Path) -> None:
    knock_host.firewall.apply(rotating("7d"))
    window = present(WEEK_S)
    knock_host.steps(*steps_of(secret, window)[:2], *steps_of(secret, window + 1)[2:])
    assert not knock_host.opened()


def test_yesterday_s_knock_is_of_no_use(knock_host: KnockHost, secret: Path) -> None:
    """Somebody has seen it, and sends it again when its windows are over."""
    knock_host.firewall.apply(rotating("1s"))
    told = knock_host.xdpfw_knock(V4, "--rotate", secret, "--every", "1s", "--delay", "1ms", "--json")
    seen = json.loads(told.stdout)["steps"]
    assert knock_host.opened()
    knock_host.firewall.command("grants", "revoke", "--all")
    old = present(1)
    wait_for(lambda: present(1) >= old + 2, "the windows to be over")
    before = knock_host.firewall.reason("knock.step")
    knock_host.xdpfw_knock(V4, *seen, "--delay", "1ms")
    assert knock_host.grants() == []
    assert not knock_host.opened()
    assert knock_host.firewall.reason("knock.step") == before


def test_it_goes_on_without_any_process(knock_host: KnockHost, secret: Path) -> None:
    """From window to window, and through an apply in the middle of a knock."""
    knock_host.firewall.apply(rotating("2s"))
    for _ in range(2):
        window = present(2)
        wait_for(lambda window=window: present(2) > window, "the next window")
        knock_host.steps(*steps_of(secret, present(2)))
        assert [grant["source"] for grant in knock_host.grants()] == [CLIENT_V4]
        knock_host.firewall.command("grants", "revoke", "--knock", "home")
    first, *others = steps_of(secret, present(2))
    knock_host.step(first)
    knock_host.firewall.apply(rotating("2s").replace("rules: []", "rules: [{name: web, action: pass}]"))
    knock_host.steps(*others)
    assert knock_host.grants() != []


def test_another_secret(knock_host: KnockHost, secret: Path) -> None:
    """What a client knew is worth nothing once the server's file has another secret and was applied."""
    knock_host.firewall.apply(rotating("7d"))
    old = steps_of(secret, present(WEEK_S))
    secret.unlink()
    run(*XDPFW, "keygen", "--rotate", secret)
    knock_host.firewall.apply(rotating("7d"))
    knock_host.xdpfw_knock(V4, *old, "--delay", "10ms")
    wait_for(lambda: knock_host.firewall.reason("default") >= 1, "the packets")
    assert not knock_host.opened()
    knock_host.xdpfw_knock(V4, "--rotate", secret, "--every", "7d", "--verify", "22")
