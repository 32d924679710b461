# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of those who knock: it outlives every apply and every process, and detach forgets it.

See tests/knock_host.py for who is where.
"""

from __future__ import annotations

import random
import socket
import struct
import time

import pytest

from tests.firewall import policy
from tests.knock_host import BY_KNOCKS, CLIENT_V4, SSH, STEPS, V4, V6, KnockHost, ssh_knock
from tests.topology import TIME_SCALE, wait_for

KILLS = 6
OTHER = policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}", allow=BY_KNOCKS, extra=ssh_knock())
DNS = "knocks:\n  dns: {sequence: [53/udp, 54/udp, 53/tcp], opens: [853/tcp]}\n"
MORE = policy(allow=BY_KNOCKS, extra=DNS + ssh_knock().removeprefix("knocks:\n"))
"""The same knock, in policies that are not the same: its number is another, as dns comes before it."""

WITHOUT = policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}")


def connection(knock_host: KnockHost) -> socket.socket:
    """One that ends without a word: the kernel would send again what was dropped, and so set sequences back."""
    made = knock_host.client.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.connect((V4, 22))
    return made


@pytest.mark.parametrize("address", [V4, V6])
def test_apply_in_the_middle_of_a_sequence(knock_host: KnockHost, address: str) -> None:
    knock_host.firewall.apply(SSH)
    for step, text in zip(STEPS, (OTHER, MORE, SSH), strict=True):
        knock_host.step(step, address)
        before = knock_host.firewall.program("fw0")
        knock_host.firewall.apply(text)
        assert knock_host.firewall.program("fw0") != before
    assert knock_host.opened(address)


def test_apply_with_a_live_grant_and_a_connection(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS)
    before = knock_host.ends_of_grants()
    assert len(before) == 1
    with connection(knock_host) as made:
        for text in (OTHER, MORE, SSH):
            knock_host.firewall.apply(text)
            passed = knock_host.firewall.reason("knock.granted")
            made.send(b"still here")
            wait_for(lambda passed=passed: knock_host.firewall.reason("knock.granted") > passed, "it to pass")
            assert knock_host.ends_of_grants() == before
    assert knock_host.opened()


def test_a_policy_that_fails_changes_nothing(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS[:2])
    failing = OTHER + 'tests:\n  - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:22 S", expect: pass}\n'
    knock_host.firewall.apply(failing, status=1)
    knock_host.firewall.apply(SSH + "nonsense: 1\n", status=2)
    knock_host.steps(*STEPS[2:])
    assert knock_host.opened()


def test_a_sequence_that_changes_begins_anew(knock_host: KnockHost) -> None:
    """Its old steps count for nothing; grants are the knock's, whatever its steps."""
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS[:2])
    changed = policy(extra=ssh_knock(sequence="[7000/tcp, 9000/udp, 8000/udp]"))
    knock_host.firewall.apply(changed)
    knock_host.step("8000/udp")
    assert not knock_host.opened()
    knock_host.steps("7000/tcp", "9000/udp", "8000/udp")
    knock_host.firewall.apply(SSH)
    assert knock_host.opened()


def test_the_tests_of_a_policy_leave_no_trace(knock_host: KnockHost) -> None:
    """They run in a program of their own, and knock there, even by the address of somebody who knocks."""
    tests = "tests:\n  - steps:\n" + "".join(
        f'      - {{packet: "{step[-3:]} {CLIENT_V4}:1 > {V4}:{step[:-4]}{" S" if step[-3:] == "tcp" else ""}", '
        "expect: drop}\n"
        for step in STEPS
    )
    knock_host.firewall.apply(SSH + tests)
    assert knock_host.grants() == []
    assert not knock_host.opened()
    knock_host.steps(*STEPS[:1])
    knock_host.firewall.apply(OTHER + tests)
    knock_host.steps(*STEPS[1:])
    assert knock_host.opened()


def test_detach_forgets_what_was_begun(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS[:2])
    knock_host.firewall.detach()
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS[2:])
    assert not knock_host.opened()


def test_detach_forgets_grants(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS)
    assert knock_host.opened()
    knock_host.firewall.detach()
    with connection(knock_host):
        knock_host.firewall.apply(SSH)
    assert knock_host.grants() == []
    assert not knock_host.opened()


@pytest.mark.parametrize("between", [WITHOUT, policy(extra=ssh_knock().replace("ssh:", "sshd:"))])
def test_a_knock_that_is_removed_takes_its_grants_with_it(knock_host: KnockHost, between: str) -> None:
    """They do not come back with it; nor does what was begun count for a knock of another name."""
    knock_host.firewall.apply(SSH)
    knock_host.steps(*STEPS, *STEPS[:2])
    knock_host.firewall.apply(between)
    knock_host.firewall.apply(SSH)
    assert knock_host.grants() == []
    assert not knock_host.opened()


@pytest.mark.parametrize(
    ("before", "after", "services"),
    [
        ({"opens": "[22/tcp, 443/tcp]"}, {"opens": "[22/tcp]"}, ["22/tcp"]),
        ({"opens": "[22/tcp]"}, {"opens": "[443/tcp]"}, []),
        ({"scope": "{v4: 24}"}, {}, []),
        ({"for": "5m"}, {"for": "1m", "sequence": "[7001/tcp, 9001/udp, 8001/tcp]"}, ["22/tcp"]),
    ],
)
def test_what_the_policy_could_not_give_any_more_ends(
    knock_host: KnockHost, before: dict[str, str], after: dict[str, str], services: list[str]
) -> None:
    knock_host.firewall.apply(policy(extra=ssh_knock(**before)))
    knock_host.steps(*STEPS)
    knock_host.firewall.apply(policy(extra=ssh_knock(**after)))
    assert [service for grant in knock_host.grants() for service in grant["services"]] == services
    ends = [event for event in knock_host.events() if event["event"] == "grant-end"]
    ended = {"22/tcp", *(["443/tcp"] if "443" in before.get("opens", "") else [])} - set(services)
    assert {service for event in ends for service in event["services"]} == ended
    assert {event["cause"] for event in ends} == ({"knock-removed"} if ended else set())


def test_killed_in_the_middle_of_a_sequence_and_with_live_grants(knock_host: KnockHost) -> None:
    """kill -9 at random moments of apply. There is no other process that could be killed: none runs."""
    knock_host.firewall.apply(SSH)
    started = time.monotonic()
    knock_host.firewall.apply(OTHER)
    duration = time.monotonic() - started
    draw = random.Random(3)
    knock_host.steps(*STEPS, address=V6)
    for number in range(KILLS):
        for step in STEPS:
            knock_host.step(step)
            command = knock_host.firewall.start_apply(SSH if number % 2 else MORE)
            command.wait(draw.uniform(0.1, 1.0) * duration)
            command.kill()
        (grant,) = (grant for grant in knock_host.grants() if ":" not in grant["source"])
        assert grant["source"] == CLIENT_V4
        assert knock_host.opened()
        assert knock_host.opened(V6)
        knock_host.steps("9001/udp", "7001/tcp")
        assert not knock_host.opened()
        knock_host.firewall.apply(OTHER)
        assert len(knock_host.firewall.pins.generations()) == 1
    assert knock_host.opened(V6)


def test_a_grant_ends_in_time(knock_host: KnockHost) -> None:
    """Without any process. Where established connections are not allowed, one is cut off."""
    end_of_grant(knock_host, "allow: {established: false}\n", lives_on=False)


def test_a_connection_outlives_its_grant(knock_host: KnockHost) -> None:
    """New ones need a grant; those that are open do not, nor after the next apply."""
    end_of_grant(knock_host, "", lives_on=True)


def end_of_grant(knock_host: KnockHost, allow: str, *, lives_on: bool) -> None:
    knock_host.firewall.apply(policy(extra=allow + ssh_knock(**{"for": f"{2 * TIME_SCALE:.0f}s"})))
    knock_host.steps(*STEPS)
    with connection(knock_host) as made:
        wait_for(lambda: not knock_host.grants(), "the grant to end")
        closed, established = (knock_host.firewall.reason(name) for name in ("knock.closed", "allow.established"))
        made.send(b"anybody?")
        if lives_on:
            wait_for(lambda: knock_host.firewall.reason("allow.established") > established, "it to pass")
            assert knock_host.firewall.reason("knock.closed") == closed
            assert not knock_host.opened()
            knock_host.firewall.apply(policy(extra=ssh_knock()))
            made.send(b"still there?")
            wait_for(lambda: knock_host.firewall.reason("allow.established") > established + 1, "it to pass again")
        else:
            wait_for(lambda: knock_host.firewall.reason("knock.closed") > closed, "it to be dropped")
    assert not knock_host.opened()
    knock_host.steps(*STEPS)
    assert knock_host.opened()
