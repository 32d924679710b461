# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator sees while people knock: ``events``, ``grants`` and rules that log. See tests/knock_host.py."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.firewall import policy
from tests.knock_host import (
    CLIENT_V4,
    CLIENT_V6,
    CLOSE,
    SECOND_V4,
    SPA_KNOCK,
    SSH,
    STEPS,
    V4,
    V6,
    XDPFW,
    KnockHost,
    make_key,
    ssh_knock,
)
from tests.topology import TIME_SCALE, wait_for


@dataclass
class Follower:
    """``xdpfw events --follow --json`` in a process of its own."""

    process: subprocess.Popen[str]
    output: Path
    told: int = 0

    def events(self) -> list[dict[str, Any]]:
        whole = self.output.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def next(self, count: int) -> list[dict[str, Any]]:
        """The next events, and no more than these."""
        found = wait_for(lambda: self.events() if len(self.events()) >= self.told + count else None, f"{count} events")
        assert len(found) == self.told + count, found[self.told :]
        self.told += count
        return found[-count:]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        wait_for(lambda: self.process.poll() is not None, "events to end")
        return int(self.process.returncode)


@contextlib.contextmanager
def following(knock_host: KnockHost, output: Path, *options: str) -> Iterator[Follower]:
    command = (*XDPFW, "events", "--follow", "--json", *options, "--instance", knock_host.firewall.instance)
    with output.open("w", encoding="utf-8") as file, knock_host.host.process(*command, stdout=file) as process:
        yield Follower(process, output)


def kinds(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (event["event"], event["step"]) if "step" in event else (event["event"], event.get("cause")) for event in events
    ]


def step_kinds(*steps: int) -> list[tuple[str, int]]:
    return [("knock-step", step) for step in steps]


def test_a_knock_is_followed(knock_host: KnockHost, tmp_path: Path) -> None:
    knock_host.firewall.apply(SSH)
    with following(knock_host, tmp_path / "events") as follower:
        knock_host.steps(*STEPS)
        *steps, grant = follower.next(4)
        assert kinds([*steps, grant]) == [*step_kinds(1, 2, 3), ("grant", None)]
        packets = [(event["proto"], event["dport"]) for event in steps]
        assert packets == [("tcp", 7000), ("udp", 9000), ("tcp", 8000)]
        expected = {"source": CLIENT_V4, "knock": "ssh", "interface": "fw0", "destination": V4}
        assert all(event[name] == value for event in (*steps, grant) for name, value in expected.items())
        assert (grant["services"], grant["proto"], grant["dport"]) == (["22/tcp"], "tcp", 8000)
        (held,) = knock_host.grants()
        assert (held["source"], held["knock"], held["services"]) == (CLIENT_V4, "ssh", ["22/tcp"])

        knock_host.steps(*STEPS[:2], STEPS[0], STEPS[2], address=V6)
        events = follower.next(4)
        assert kinds(events) == [*step_kinds(1, 2, 1), ("knock-reset", 1)]
        assert {event["source"] for event in events} == {CLIENT_V6}

        knock_host.steps(*STEPS[:2])
        assert not knock_host.opened(V6)
        assert kinds(follower.next(2)) == step_kinds(1, 2)
        knock_host.steps(*CLOSE)
        assert kinds(follower.next(4)) == [("knock-reset", 2), *step_kinds(1, 2), ("grant-end", "closed")]
        assert follower.end(signal.SIGINT) == 0


def test_what_was_before_is_told_to_who_comes_later(knock_host: KnockHost, tmp_path: Path) -> None:
    """And again, as a reader takes nothing away."""
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS)
    told = knock_host.events()
    assert kinds(told) == [*step_kinds(1, 2, 3), ("grant", None)]
    assert kinds(knock_host.events()) == kinds(told)
    with following(knock_host, tmp_path / "one") as one, following(knock_host, tmp_path / "other") as other:
        knock_host.step(STEPS[0], source=SECOND_V4)
        for follower in (one, other):
            *before, last = follower.next(5)
            assert kinds(before) == kinds(told)
            assert last["source"] == SECOND_V4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_by_a_signal(knock_host: KnockHost, tmp_path: Path, number: signal.Signals) -> None:
    """Having told all that had happened until then."""
    knock_host.firewall.apply(SSH)
    knock_host.step(STEPS[0])
    with following(knock_host, tmp_path / "events") as follower:
        follower.next(1)
        knock_host.step(STEPS[1])
        assert follower.end(number) == 0
        assert kinds(follower.events()) == step_kinds(1, 2)


def test_ends_of_grants(knock_host: KnockHost, tmp_path: Path) -> None:
    """By their time, which no packet tells of, by an operator, and with their knock."""
    short = f"{2 * TIME_SCALE:.0f}s"
    knock_host.firewall.apply(policy(extra=ssh_knock(**{"for": short})))
    with following(knock_host, tmp_path / "events") as follower:
        knock_host.steps(*STEPS)
        knock_host.firewall.apply(SSH)
        knock_host.steps(*STEPS, address=V6)
        follower.next(8)
        (expired,) = follower.next(1)
        assert (expired["event"], expired["cause"], expired["source"]) == ("grant-end", "expired", CLIENT_V4)
        assert [grant["source"] for grant in knock_host.grants()] == [CLIENT_V6]

        told = json.loads(knock_host.firewall.command("grants", "revoke", CLIENT_V6, "--json").stdout)
        assert [grant["source"] for grant in told["revoked"]] == [CLIENT_V6]
        (revoked,) = follower.next(1)
        assert (revoked["cause"], revoked["source"], revoked["services"]) == ("revoked", CLIENT_V6, ["22/tcp"])
        assert not knock_host.opened(V6)
        assert knock_host.firewall.command("grants", "revoke", CLIENT_V6, status=1).stdout

        knock_host.steps(*STEPS)
        follower.next(4)
        knock_host.firewall.apply(policy(extra=ssh_knock().replace("ssh:", "sshd:")))
        (removed,) = follower.next(1)
        assert (removed["cause"], removed["source"]) == ("knock-removed", CLIENT_V4)
        knock_host.firewall.detach()
        wait_for(lambda: follower.process.poll() is not None, "events to end with the firewall")
        assert follower.process.returncode == 0


def test_revoking_cuts_off_whom_it_names(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    for source in (CLIENT_V4, SECOND_V4):
        knock_host.steps(*STEPS, source=source)
    knock_host.firewall.command("grants", "revoke", f"{SECOND_V4}/32")
    assert knock_host.opened(source=CLIENT_V4)
    assert not knock_host.opened(source=SECOND_V4)
    knock_host.firewall.command("grants", "revoke", "--knock", "ssh")
    assert knock_host.grants() == []
    assert not knock_host.opened(source=CLIENT_V4)
    knock_host.steps(*STEPS)
    assert knock_host.opened()


def test_spa_is_followed(knock_host: KnockHost, tmp_path: Path) -> None:
    laptop = make_key(knock_host.firewall, "laptop")
    other = laptop.with_name("other.key")
    other.write_text(laptop.read_text(encoding="utf-8").replace("key 1 laptop", "key 2 other"), encoding="utf-8")
    knock_host.firewall.apply(policy(extra=SPA_KNOCK))
    with following(knock_host, tmp_path / "events") as follower:
        knock_host.xdpfw_knock(V4, "--spa", laptop, "--service", "2")
        (grant,) = follower.next(1)
        assert (grant["event"], grant["key"], grant["key_id"], grant["service"]) == ("grant", "laptop", 1, 2)
        assert grant["services"] == ["443/tcp"]
        refused = (
            (("--service", "9"), laptop, "service"),
            (("--source", "10.0.0.1"), laptop, "source"),
            ((), other, "unknown_key"),
        )
        for options, half, failure in refused:
            knock_host.xdpfw_knock(V4, "--spa", half, *options)
            (told,) = follower.next(1)
            assert (told["event"], told["failure"], told["source"]) == ("spa-failure", failure, CLIENT_V4)
        with knock_host.client.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"no message", (V6, 62201))
        (told,) = follower.next(1)
        assert (told["failure"], told["source"], told["bytes"]) == ("malformed", CLIENT_V6, 14 + 40 + 8 + 10)
        knock_host.xdpfw_knock(V4, "--spa", laptop, "--close")
        (end,) = follower.next(1)
        assert (end["event"], end["cause"], end["key"]) == ("grant-end", "closed", "laptop")


LOGGING = (
    "{name: telnet, match: {proto: tcp, dport: 23}, action: drop, log: true}",
    "{name: sampled, match: {proto: udp, dport: 5000}, action: drop, log: {sample: 1/100}}",
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
)


def test_rules_that_log(knock_host: KnockHost, tmp_path: Path) -> None:
    """In a policy without a knock."""
    knock_host.firewall.apply(policy(*LOGGING))
    with following(knock_host, tmp_path / "events") as follower:
        with knock_host.socket(V6, socket.SOCK_STREAM) as made:
            made.connect_ex((V6, 23))
            (told,) = follower.next(1)
        expected = {"event": "rule", "rule": "telnet", "verdict": "drop", "interface": "fw0", "source": CLIENT_V6}
        assert {name: told[name] for name in expected} == expected
        assert (told["proto"], told["dport"], told["destination"]) == ("tcp", 23, V6)
        count = 5000
        with knock_host.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(b"", (V4, 5000))
        knock_host.firewall.wait_for_rule("sampled", count)
        knock_host.firewall.detach()
        wait_for(lambda: follower.process.poll() is not None, "events to end with the firewall")
        logged = follower.events()[1:]
        # 50 are to be expected; 5 standard deviations are 35.
        assert 10 <= len(logged) <= 90
        assert {event["rule"] for event in logged} == {"sampled"}


def test_a_rule_that_asks_who_has_knocked(knock_host: KnockHost) -> None:
    """``knocked``: what a knock opens is its ports; a rule can open more to who holds its grant."""
    rule = "{name: more, match: {proto: tcp, dport: 8022, knocked: ssh}, action: pass, log: true}"
    knock_host.firewall.apply(policy(rule, extra=ssh_knock()))
    with knock_host.host.socket(socket.AF_INET6, socket.SOCK_STREAM) as listening:
        listening.bind(("::", 8022))
        listening.listen()
        with knock_host.socket(V4, socket.SOCK_STREAM) as early:
            early.connect_ex((V4, 8022))
            wait_for(lambda: knock_host.firewall.reason("default") == 1, "it to be dropped")
        knock_host.steps(*STEPS)
        with knock_host.client.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            made.connect((V4, 8022))
    assert [event["rule"] for event in knock_host.events() if event["event"] == "rule"][:1] == ["more"]
    knock_host.firewall.command("grants", "revoke", "--all")
    assert not knock_host.opened()
    with knock_host.socket(V4, socket.SOCK_STREAM) as late:
        before = knock_host.firewall.reason("default")
        late.connect_ex((V4, 8022))
        wait_for(lambda: knock_host.firewall.reason("default") > before, "it to be dropped")
