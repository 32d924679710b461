# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""xdpfw bouncer: what it says, when it goes on and when it ends, against an API that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ran, Run
from tests.cli.test_events import script
from tests.cli.test_in_force import POLICY, Firewall, applied, firewall  # noqa: F401
from tests.integrations.fakeapi import KEY, FakeApi, decision, fake_api, stream
from xdpfw.kernel.pins import Pins
from xdpfw.livesets import opened
from xdpfw.observe.metadata import read

needs_kernel = pytest.mark.needs("privileges", "data plane", "bpffs")

WITH_SETS = POLICY.replace(
    "sets: {",
    "sets: {crowdsec: {type: prefix, dynamic: true, size: 10}, other: {type: prefix, dynamic: true, size: 10}, ",
)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as made:
        yield made


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(f"{KEY}\n")
    return path


@dataclass
class Setting:
    firewall: Firewall
    api: FakeApi
    key_file: Path
    waits: list[float] = field(default_factory=list)

    def __call__(self, *options: str, **app: Any) -> Ran:
        given = ("--url", self.api.url, "--key-file", self.key_file, *options)
        return self.firewall("bouncer", "crowdsec", *given, **app)

    def run(self, *steps: Callable[[], object]) -> Ran:
        """The bouncer, until Ctrl-C; one step each time that it waits."""
        act = script(*steps)

        def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            act(seconds)

        return self(sleep=sleep)

    def held(self, name: str = "bans") -> set[str]:
        pins = Pins(self.firewall.instance)
        (number,) = pins.generations()
        with opened(pins, number, read(pins.generation(number)), name) as found:
            return {str(entry) for entry in found.entries()}

    def answer(self, *new: dict[str, Any], deleted: tuple[dict[str, Any], ...] = ()) -> None:
        self.api.answer = 200, stream(*new, deleted=deleted)


@pytest.fixture
def setting(firewall: Firewall, applied: Path, api: FakeApi, key_file: Path) -> Setting:
    return Setting(firewall, api, key_file)


@needs_kernel
def test_once(setting: Setting) -> None:
    setting.answer(decision("198.51.100.7"), decision("2001:db8::/32"), decision("192.0.2.1", type="captcha"))
    ran = setting("--once")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == ["set bans: 2 added, 0 taken out; left: 1 (type captcha)"]
    assert setting.held() == {"198.51.100.7", "2001:db8::/32"}
    assert setting("--once").lines == ["set bans: 0 added, 0 taken out; left: 1 (type captcha)"]


@needs_kernel
def test_json(setting: Setting) -> None:
    setting.answer(decision("198.51.100.7"), decision("192.0.2.1", type="captcha"))
    told = setting("--once", "--json", clock=lambda: 1795278386.5).json
    assert told == {
        "time": "2026-11-21T16:26:26.500000Z",
        "set": "bans",
        "all": True,
        "decisions": 1,
        "added": 1,
        "deleted": 0,
        "refused": 0,
        "left": {"type captcha": 1},
    }


@needs_kernel
def test_changes_are_told_and_quiet_rounds_are_not(setting: Setting) -> None:
    setting.answer(decision("198.51.100.7"))
    ran = setting.run(
        lambda: setting.answer(),
        lambda: setting.answer(decision("198.51.100.8"), deleted=(decision("198.51.100.7", "-1s"),)),
        lambda: setting.answer(),
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == ["set bans: 1 added, 0 taken out", "set bans: 1 added, 1 taken out"]
    assert setting.api.startups == ["true", "false", "false", "false"]
    assert setting.waits == [10.0] * 4
    assert setting.held() == {"198.51.100.8"}


@needs_kernel
def test_an_api_that_is_down_is_told_once_and_asked_less_often(setting: Setting) -> None:
    setting.answer(decision("198.51.100.7"))

    def fail() -> None:
        setting.api.answer = 502, b""

    ran = setting.run(fail, *[lambda: None] * 5, setting.answer)
    assert ran.status == 0
    assert len(ran.err.splitlines()) == 2
    assert "HTTP status 502; asking again" in ran.err
    assert "it answers again, after 6 failures" in ran.err
    assert setting.waits == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0, 10.0]
    assert setting.api.startups == ["true", "false"] + ["true"] * 6


@needs_kernel
def test_an_api_that_is_down_at_the_start_is_waited_for(setting: Setting) -> None:
    setting.api.answer = 503, b""
    ran = setting.run(lambda: setting.answer(decision("198.51.100.7")))
    assert ran.lines == ["set bans: 1 added, 0 taken out"]
    setting.api.answer = 503, b""
    assert setting("--once").status == 3


@needs_kernel
def test_a_key_that_is_taken_back_ends_it(setting: Setting) -> None:
    setting.answer(decision("198.51.100.7"))

    def refuse() -> None:
        setting.api.answer = 403, b""

    ran = setting.run(refuse)
    assert ran.status == 3
    assert "cscli bouncers add" in ran.err
    assert setting.held() == {"198.51.100.7"}


@needs_kernel
def test_a_firewall_that_is_detached_is_waited_for(setting: Setting, applied: Path) -> None:
    setting.answer(decision("198.51.100.7"))
    ran = setting.run(
        lambda: setting.firewall("detach"), lambda: None, lambda: setting.firewall("apply", applied), lambda: None
    )
    assert ran.status == 0
    assert len(ran.err.splitlines()) == 2
    assert "has no firewall in force" in ran.err
    assert ran.lines == ["set bans: 1 added, 0 taken out"] * 2
    assert setting.held() == {"198.51.100.7"}


@needs_kernel
def test_nothing_is_in_force(firewall: Firewall, api: FakeApi, key_file: Path) -> None:
    ran = Setting(firewall, api, key_file)()
    assert ran.status == 1
    assert ran.err == f"xdpfw: instance {firewall.instance} has no firewall in force (xdpfw apply RULES)\n"
    assert not api.asked


@needs_kernel
def test_which_set(firewall: Firewall, api: FakeApi, key_file: Path, write: Callable[[str], Path]) -> None:
    """Its own where the policy has one; any other that is named; never one that there is not."""
    setting = Setting(firewall, api, key_file)
    assert firewall("apply", write(WITH_SETS)).status == 0
    setting.answer(decision("198.51.100.7"))
    for options, name in [((), "crowdsec"), (("--set", "other"), "other"), (("--set", "bans"), "bans")]:
        assert setting.held(name) == set()
        assert setting("--once", *options).lines == [f"set {name}: 1 added, 0 taken out"]
        assert setting.held(name) == {"198.51.100.7"}
    ran = setting("--once", "--set", "none")
    assert ran.status == 2
    assert "none" in ran.err


@needs_kernel
def test_a_full_set_is_told(firewall: Firewall, api: FakeApi, key_file: Path, write: Callable[[str], Path]) -> None:
    setting = Setting(firewall, api, key_file)
    assert firewall("apply", write(WITH_SETS)).status == 0
    setting.answer(*(decision(f"198.51.100.{number}") for number in range(12)))
    assert setting("--once").lines == [
        "set crowdsec: 10 added, 0 taken out; no room for 2: the set is full, and its size is the policy's to say"
    ]


@needs_kernel
def test_a_hundred_thousand_decisions(setting: Setting) -> None:
    """Those of the lists that CrowdSec offers; most of them addresses."""
    addresses = [f"{10 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.7" for number in range(100_000)]
    setting.answer(*map(decision, addresses))
    assert setting("--once").lines == ["set bans: 100000 added, 0 taken out"]
    assert setting.held() == set(addresses)


@needs_kernel
def test_a_key_file_that_others_can_read_is_told(setting: Setting) -> None:
    setting.key_file.chmod(0o644)
    ran = setting("--once")
    assert ran.status == 0
    assert f"chmod 600 {setting.key_file}" in ran.err


def test_what_is_wrong_with_the_command_line(run: Run, key_file: Path, tmp_path: Path) -> None:
    """Told before anything is asked or opened."""
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    for options, words in [
        (("--key-file", tmp_path / "none"), "cannot read"),
        (("--key-file", empty), "cscli bouncers add"),
        (("--key-file", key_file, "--url", "127.0.0.1:8080"), "--url"),
        (("--key-file", key_file, "--interval", "5"), "--interval"),
        (("--key-file", key_file, "--interval", "10ms"), "--interval"),
        (("--key-file", key_file, "--ca-file", empty), "--ca-file"),
        (("--key-file", key_file, "--netns", ""), "empty"),
        ((), "--key-file"),
    ]:
        ran = run("bouncer", "crowdsec", *options)
        assert ran.status == 2, options
        assert words in ran.err, options
        assert KEY not in ran.err


def test_the_action_calls_the_command_that_printed_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "50% off" / "xdpfw"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    lines = run("bouncer", "fail2ban").lines
    assert f"xdpfw = '{str(program).replace('%', '%%')}'" in lines
    assert "options =" in lines
    lines = run("bouncer", "fail2ban", "--netns", "blue", "--instance", "edge").lines
    assert "options = --netns blue --instance edge" in lines
    assert json.loads(run("bouncer", "fail2ban", "--json").out)["action"].startswith("# fail2ban action")
    monkeypatch.setattr("sys.argv", ["no such program"])
    assert "xdpfw = xdpfw" in run("bouncer", "fail2ban").lines
