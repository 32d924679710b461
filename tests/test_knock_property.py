# SPDX-License-Identifier: GPL-2.0-or-later
"""What no order of packets may do to a knock, found by other means than the state machine's own."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from tests.knock_strategies import Sent, conversations
from tests.knocking import MS, Firewall, S, knock, packet_of, sequence
from tests.policies import one, rule
from xdpfw.compiler import ir
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.packet.decode import Invalid, decode
from xdpfw.reference.interpreter import evaluate
from xdpfw.reference.memory import EventKind, Memory

STEPS = ("7000/tcp", "7001/tcp", "7001/udp", "8/icmp")
WRONG = ("23/tcp", "7009/udp", "22/tcp")
PASSED = "80/tcp"
WITHIN, STEP = 8 * S, 5 * S
WAITS = (0, 0, 0, 0, MS, 1 * S, 4 * S, 5 * S, 5 * S + MS, 8 * S)
SOURCES = ("198.51.100.7", "198.51.100.8", "2001:db8::7")


class Probe(NamedTuple):
    what: str
    src: str
    time_ns: int


def paths(shortest: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    """Steps, no two neighbours alike."""
    drawn = st.lists(st.sampled_from(STEPS), min_size=shortest, max_size=4)
    return drawn.map(lambda steps: tuple(b for a, b in zip([None, *steps], steps, strict=False) if a != b))


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[tuple[str, ...]], list[Probe]]:
    """Knocks, and what is sent: steps in their order more often than not, with all that may go wrong in between."""
    knocks = draw(st.lists(paths(), min_size=1, max_size=3))
    sent: list[Probe] = []
    now = 0
    for _ in range(draw(st.integers(1, 6))):
        src = draw(st.sampled_from(SOURCES))
        for step in draw(st.sampled_from(knocks)):
            extra = draw(st.lists(st.sampled_from((*STEPS, *WRONG, PASSED)), max_size=1))
            for what in (*[step] * draw(st.sampled_from((1, 1, 1, 2))), *extra):
                now += draw(st.sampled_from(WAITS))
                sent.append(Probe(what, draw(st.sampled_from((src, src, src, *SOURCES))), now))
    return knocks, sent


def leads_up(steps: tuple[str, ...], before: list[Probe], last: Probe, finish_ns: int) -> bool:
    """Whether ``before``, all of one source, has the steps in time, the last of which comes right before ``last``."""
    if not steps:
        return finish_ns - last.time_ns <= WITHIN
    for at in range(len(before) - 1, -1, -1):
        earlier = before[at]
        if earlier.what == PASSED:
            continue
        if earlier.what != steps[-1]:
            return False
        in_time = last.time_ns - earlier.time_ns <= STEP
        if in_time and leads_up(steps[:-1], before[:at], earlier, finish_ns):
            return True
    return False


@given(traffic())
@example(([("7000/tcp", "8/icmp")], [Probe("7000/tcp", SOURCES[0], 0), Probe("8/icmp", SOURCES[0], 5 * S)]))
def test_who_gets_a_grant_has_gone_through_all_steps(drawn: tuple[list[tuple[str, ...]], list[Probe]]) -> None:
    """In their order and time, with no other packet in between but repeats and what a rule passes."""
    knocks, sent = drawn
    firewall = Firewall(
        [knock(f"k{number}", sequence(" ".join(steps), WITHIN, STEP), "22/tcp") for number, steps in enumerate(knocks)],
        [rule(0, Match(proto=one(6), dport=one(80)), ActionKind.PASS)],
    )
    begin = firewall.now
    for at, packet in enumerate(sent):
        firewall.now = begin.after(packet.time_ns)
        was_open = firewall.opened(src=packet.src)
        decision = firewall.decide(packet_of(packet.what, packet.src))
        granted = [event.knock for event in decision.events if event.kind is EventKind.GRANT]
        history = [earlier for earlier in sent[:at] if earlier.src == packet.src]
        if packet.what == "22/tcp" and was_open:
            sent[at] = packet._replace(what=PASSED)
        for name in granted:
            steps = knocks[int(str(name)[1:])]
            assert packet.what == steps[-1]
            assert leads_up(steps[:-1], history, packet, packet.time_ns)
        assert firewall.opened(src=packet.src) == (was_open or bool(granted))


@given(paths(), st.lists(st.sampled_from(WAITS), min_size=4, max_size=4), st.sampled_from(STEPS))
def test_after_a_wrong_packet_the_steps_alone_open_if_they_are_in_time(
    steps: tuple[str, ...], waits: list[int], begun: str
) -> None:
    firewall = Firewall([knock("ssh", sequence(" ".join(steps), WITHIN, STEP))])
    firewall.send(packet_of(begun))
    firewall.send(packet_of("23/tcp"))
    firewall.memory.grants.clear()
    gaps = waits[: len(steps) - 1]
    for step, gap in zip(steps, [0, *gaps], strict=True):
        firewall.wait(gap)
        firewall.knock(step)
    in_time = all(gap <= STEP for gap in gaps) and sum(gaps) <= WITHIN
    # A sequence that is too slow may have been completed all the same, where a later part of it begins it anew.
    assert firewall.opened() or not in_time
    if len(set(steps)) == len(steps):
        assert firewall.opened() == in_time


PORTS = range(7000, 7024)


@given(
    st.lists(st.sampled_from(PORTS), min_size=2, max_size=4, unique=True),
    st.one_of(st.sampled_from(("up", "down")), st.integers(0, 2**32)),
    st.integers(1, 3),
)
@example([7003, 7004], "up", 1)
def test_a_scan_opens_only_what_it_happens_to_knock(ports: list[int], order: str | int, probes: int) -> None:
    """Each port of a range once, or several times in a row, as a scanner sends SYNs again."""
    scan = list(PORTS)
    if order == "down":
        scan.reverse()
    elif order != "up":
        random.Random(order).shuffle(scan)
    firewall = Firewall([knock("ssh", " ".join(f"{port}/tcp" for port in ports))])
    for port in scan:
        for _ in range(probes):
            firewall.send(packet_of(f"{port}/tcp"))
    places = [scan.index(port) for port in ports]
    assert firewall.opened() == (places == list(range(places[0], places[0] + len(places))))


@given(conversations())
def test_what_gets_to_a_guarded_port_was_granted_before(drawn: tuple[ir.Policy, list[Sent]]) -> None:
    """By a knock that opens it, to the packet's prefix, and not too long ago."""
    policy, sent = drawn
    memory = Memory()
    knocks = {knock.name: knock for knock in policy.knocks}
    grants: list[tuple[ir.Knock, IPv4Network | IPv6Network, int]] = []
    for frame, interface, now in sent:
        decision = evaluate(policy, frame, interface, memory=memory, now=now)
        packet = decode(frame)
        if isinstance(packet, Invalid) or packet.src is None:
            assert decision.events == ()
            continue
        is_v4 = packet.family is ir.Family.IPV4
        address = IPv4Address(packet.src) if is_v4 else IPv6Address(packet.src)
        for event in decision.events:
            if event.kind is EventKind.GRANT:
                knock = knocks[str(event.knock)]
                bits = knock.scope_v4 if is_v4 else knock.scope_v6
                prefix = ip_network(f"{address}/{bits}", strict=False)
                grants.append((knock, prefix, now.boot_ns + event.duration_ns))
        if decision.reason == "knock.granted":
            port = (packet.proto, packet.dport)
            assert any(
                port in knock.opens and address in prefix and now.boot_ns < until for knock, prefix, until in grants
            )
