# SPDX-License-Identifier: GPL-2.0-or-later
"""Floods from forged addresses, beside somebody who knocks. On a wire as tests/wire.py has it."""

from __future__ import annotations

import threading

import pytest

from tests import frames
from tests.firewall import policy
from tests.flood import Frames, copies, flood, send, with_sources
from tests.knock_host import SSH, STEPS, ssh_knock
from tests.topology import wait_for
from tests.wire import Wire
from xdpfw.kernel import abi

COUNT = 160_000
"""Sources. The table of first steps, of eight times BEGINNING_BUCKETS, is to hold what comes between two packets."""

SPOOFED = 0x0B000000
GRANTED, CLOSED, STEP = "knock.granted", "knock.closed", "knock.step"


def frame(step: str, source: int = frames.SRC_V4) -> bytes:
    number, _, protocol = step.partition("/")
    if protocol == "tcp":
        return frames.v4_frame(frames.tcp(dport=int(number)), frames.TCP, src=source)
    return frames.v4_frame(frames.udp(dport=int(number)), frames.UDP, src=source)


def step(wire: Wire, *steps: str, source: int = frames.SRC_V4) -> None:
    for each in steps:
        assert wire.decide(frame(each, source)) == STEP


def opened(wire: Wire, source: int = frames.SRC_V4) -> bool:
    reason = wire.decide(frame("22/tcp", source))
    assert reason in (GRANTED, CLOSED)
    return reason == GRANTED


def first_steps(first: int = SPOOFED) -> Frames:
    return with_sources(frame(STEPS[0]), COUNT, first)


def test_first_steps_before_between_and_behind(wire: Wire, mode: str) -> None:
    """They break no sequence and evict no grant; nor do they give one to whoever sends the last step alone."""
    holder, stranger = frames.SRC_V4 + 1, frames.SRC_V4 + 2
    wire.firewall.apply(policy(mode=mode, extra=ssh_knock(within="10m")))
    step(wire, *STEPS, source=holder)
    for number, each in enumerate(STEPS):
        flood(wire.sockets[0], wire.firewall, first_steps(SPOOFED + number * COUNT), STEP)
        step(wire, each)
    flood(wire.sockets[0], wire.firewall, first_steps(), STEP)
    assert opened(wire)
    assert opened(wire, holder)
    step(wire, STEPS[2], source=stranger)
    assert not opened(wire, stranger)
    grants = wire.firewall.status()["knocking"]["grants"]
    assert (grants["used"], grants["refused"]) == (4, 0)


def test_first_steps_all_the_time(wire: Wire) -> None:
    """Not between the steps, but beside them, from another CPU where there is one."""
    wire.firewall.apply(policy(extra=ssh_knock(within="10m")))
    stop = threading.Event()
    sent = []

    def keep_sending() -> None:
        with wire.sender.raw("eth0") as sender:
            while not stop.is_set() and len(sent) < 100:
                send(sender, first_steps(SPOOFED + len(sent) * COUNT))
                sent.append(COUNT)

    sending = threading.Thread(target=keep_sending)
    sending.start()
    try:
        # Several times each: a queue that is flooded drops frames before the firewall sees them.
        for each in (step for step in STEPS for _ in range(3)):
            send(wire.sockets[0], copies(frame(each), 1))
            goal = wire.firewall.reason(STEP) + COUNT // 8
            wait_for(lambda goal=goal: wire.firewall.reason(STEP) >= goal, "the flood to go on")
    finally:
        stop.set()
        sending.join()
    assert opened(wire)


@pytest.mark.parametrize("reason", ["default", CLOSED])
def test_packets_that_are_wrong(wire: Wire, reason: str) -> None:
    """From so many sources that one or another shares everything with the one who knocks: nobody is set back."""
    wire.firewall.apply(SSH)
    wrong = with_sources(frame("24/tcp" if reason == "default" else "22/tcp"), COUNT, SPOOFED)
    for each in STEPS:
        step(wire, each)
        flood(wire.sockets[0], wire.firewall, wrong, reason)
    assert opened(wire)


def test_first_steps_of_the_other_family(wire: Wire) -> None:
    wire.firewall.apply(policy(extra=ssh_knock(within="10m")))
    six = with_sources(frames.v6_frame(frames.tcp(dport=7000)), COUNT, SPOOFED)
    for each in STEPS:
        step(wire, each)
        flood(wire.sockets[0], wire.firewall, six, STEP)
    assert opened(wire)


PART = 8192
"""Sources that knock together."""

MOST_PARTS = 20


def test_whole_knocks_from_forged_sources_take_nobody_s_grant(wire: Wire) -> None:
    """By somebody who knows the sequence: he can use up the room of sequences' grants, but drive nobody out of it."""
    newcomer = frames.SRC_V4 + 1
    wire.firewall.apply(policy(extra=ssh_knock(within="10m")))
    step(wire, *STEPS)
    for number in range(MOST_PARTS):
        for each in STEPS:
            flood(wire.sockets[0], wire.firewall, with_sources(frame(each), PART, SPOOFED + number * PART), STEP)
        if (grants := wire.firewall.status()["knocking"]["grants"])["refused"]:
            break
    assert (grants["used"], grants["capacity"]) == (abi.Limit.MAX_UNSIGNED_GRANTS, abi.Limit.MAX_GRANTS)
    assert opened(wire)
    step(wire, *STEPS, source=newcomer)
    assert not opened(wire, newcomer)
    assert wire.firewall.status()["knocking"]["grants"]["refused"] > grants["refused"]
    step(wire, *STEPS)
    assert opened(wire)
    assert wire.firewall.command("grants", "revoke", "11.0.0.0/8").stdout
    step(wire, *STEPS, source=newcomer)
    assert opened(wire, newcomer)


def test_a_flood_of_drops_leaves_the_events_of_others(wire: Wire) -> None:
    """Each kind of event has a limit of its own; what was above it was counted."""
    wire.firewall.apply(policy(extra=ssh_knock(within="10m")))
    flood(wire.sockets[0], wire.firewall, first_steps(), STEP)
    step(wire, *STEPS)
    told = wire.firewall.command("events", "--json")
    assert '"event": "grant"' in told.stdout
    assert "only counted" in told.stderr
