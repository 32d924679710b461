# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants of knocks, in virtual time: for whom, for what and how long, and what becomes of the ports meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.knocking import (
    KNOCKER,
    KNOCKER6,
    MS,
    PASSED,
    SHUT,
    STEP,
    Firewall,
    S,
    knock,
    packet_of,
    prefixes,
)
from tests.policies import one, rule
from xdpfw.compiler import ir
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.reference.memory import EventKind, Memory

STEPS = "7000/tcp 9000/udp 8000/tcp"
SSH = knock("ssh", STEPS)


def test_a_renewal_extends_the_grant() -> None:
    firewall = Firewall([SSH])
    firewall.knock(STEPS)
    firewall.wait(20 * S)
    firewall.knock(STEPS)
    firewall.wait(30 * S - 1)
    assert firewall.opened()
    firewall.wait(1)
    assert not firewall.opened()


def test_closing_ends_the_grant() -> None:
    closing = knock("ssh", STEPS, "22/tcp 53/udp", close="9000/tcp 7000/tcp")
    other = knock("other", "1000/tcp 2000/tcp")
    firewall = Firewall([closing, other])
    firewall.knock("9000/tcp 7000/tcp")
    assert EventKind.GRANT_END not in [kind for kind, _, _ in firewall.kinds()]
    firewall.knock(STEPS)
    firewall.knock(STEPS, "198.51.100.8")
    assert firewall.opened("53/udp")
    firewall.kinds()
    firewall.knock("9000/tcp 7000/tcp")
    assert firewall.kinds()[-1] == (EventKind.GRANT_END, "ssh", 0)
    assert not firewall.opened("22/tcp")
    assert not firewall.opened("53/udp")
    assert firewall.opened("22/tcp", "198.51.100.8")
    firewall.knock("1000/tcp 2000/tcp 9000/tcp 7000/tcp")
    assert firewall.opened("22/tcp"), "of the other knock, which nobody closed"


@pytest.mark.parametrize(
    ("src", "inside", "outside"),
    [
        ("198.51.100.7", "198.51.100.255", "198.51.101.0"),
        ("2001:db8::7", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::"),
    ],
)
def test_scope(src: str, inside: str, outside: str) -> None:
    firewall = Firewall([knock("ssh", STEPS, close="9000/tcp 7000/tcp", scope_v4=24, scope_v6=64)])
    firewall.knock("7000/tcp 9000/udp", src)
    firewall.knock("8000/tcp", inside)
    assert not firewall.opened(src=src), "only the grant is for all"
    firewall.knock("8000/tcp", src)
    assert (firewall.opened(src=inside), firewall.opened(src=outside)) == (True, False)
    firewall.knock("9000/tcp 7000/tcp", inside)
    assert not firewall.opened(src=src)


def test_destinations() -> None:
    there = knock("ssh", STEPS, to=prefixes("203.0.113.1", "2001:db8::1"))
    firewall = Firewall([there])
    assert firewall.send(packet_of("7000/tcp", dst="203.0.113.2")) == "default"
    firewall.knock(STEPS)
    assert firewall.opened()
    assert firewall.send(packet_of("22/tcp", dst="203.0.113.2")) == "default"
    firewall.knock("7000/tcp")
    assert firewall.send(packet_of("9000/udp", dst="203.0.113.2")) == "default"
    assert firewall.kinds()[-1] == (EventKind.RESET, "ssh", 1)


def test_a_step_to_the_destination_of_another_knock_is_none_of_this() -> None:
    a, b = (knock(name, STEPS, to=prefixes(dst)) for name, dst in (("a", "203.0.113.1"), ("b", "203.0.113.2")))
    firewall = Firewall([a, b])
    firewall.knock("7000/tcp", dst="203.0.113.1")
    firewall.knock("7000/tcp", dst="203.0.113.2")
    assert firewall.kinds() == [(EventKind.STEP, "a", 1), (EventKind.RESET, "a", 1), (EventKind.STEP, "b", 1)]


def test_whom_except_names_meets_the_rules() -> None:
    network = ir.AddressRanges(v4=(ir.Range(0xC0000200, 0xC00002FF),))
    except_it = replace(SSH, unless=Match(src=network))
    firewall = Firewall([except_it], [rule(1, Match(proto=one(6), dport=one(22)), ActionKind.PASS)])
    assert firewall.send(packet_of("22/tcp", "192.0.2.7")) == "r1"
    assert firewall.send(packet_of("22/tcp", "192.0.3.7")) == SHUT
    assert firewall.send(packet_of("7000/tcp", "192.0.2.7")) == STEP, "steps stay what they are"


def test_an_opened_port_comes_before_the_rules() -> None:
    firewall = Firewall([SSH], [rule(1, Match(), ActionKind.DROP)])
    firewall.knock(STEPS)
    assert firewall.send(packet_of("22/tcp")) == PASSED
    assert Firewall([SSH], [rule(1, Match(), ActionKind.PASS)]).send(packet_of("22/tcp")) == SHUT


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_first_fragments_meet_the_opened_port_and_later_ones_the_rules(src: str) -> None:
    firewall = Firewall([SSH])
    assert firewall.send(packet_of("22/tcp", src, options="frag=first")) == SHUT
    assert firewall.send(packet_of("22/tcp", src, options="frag=later")) == "default"
    firewall.knock(STEPS, src)
    assert firewall.send(packet_of("22/tcp", src, options="frag=first")) == PASSED
    assert firewall.send(packet_of("22/tcp", src, options="frag=later")) == "default"


def test_rules_may_ask_who_has_knocked() -> None:
    rules = [
        rule(1, Match(proto=one(6), dport=one(80), knocked=("other", "ssh")), ActionKind.PASS),
        rule(2, Match(), ActionKind.DROP, unless=Match(knocked=("ssh",))),
    ]
    other = knock("other", "1000/tcp 2000/tcp", "81/tcp")
    firewall = Firewall([SSH, other], rules)
    assert firewall.send(packet_of("80/tcp")) == "r2"
    firewall.knock(STEPS)
    assert firewall.send(packet_of("80/tcp")) == "r1"
    assert firewall.send(packet_of("80/tcp", "198.51.100.8")) == "r2"
    assert firewall.send(packet_of("82/tcp")) == "default"
    assert firewall.send("arp 198.51.100.7 > 203.0.113.1") == "r2"
    firewall.wait(30 * S)
    assert firewall.send(packet_of("80/tcp")) == "r2"
    firewall.knock("1000/tcp 2000/tcp")
    assert firewall.send(packet_of("80/tcp")) == "r1"
    assert firewall.send(packet_of("82/tcp")) == "r2"


def test_a_full_table_refuses_and_makes_room_of_what_is_over() -> None:
    firewall = Firewall([SSH], memory=Memory(grant_capacity=4))
    firewall.knock(STEPS, "198.51.100.8")
    firewall.knock(STEPS, "198.51.100.9")
    firewall.kinds()
    firewall.knock(STEPS)
    assert firewall.kinds()[-1] == (EventKind.GRANT_REFUSED, "ssh", 0)
    assert not firewall.opened()
    assert firewall.opened(src="198.51.100.8"), "a grant is never taken for another"
    firewall.wait(1 * S)
    firewall.knock(STEPS, "198.51.100.8")
    assert firewall.kinds()[-1] == (EventKind.GRANT, "ssh", 0), "what is there can be renewed"
    firewall.wait(29 * S)
    firewall.knock(STEPS)
    assert firewall.opened()


def test_room_is_looked_for_once_a_second() -> None:
    firewall = Firewall([knock("ssh", "7000/tcp", lasts=500 * MS)], memory=Memory(grant_capacity=2))
    firewall.knock("7000/tcp", "198.51.100.8")
    firewall.knock("7000/tcp")
    assert not firewall.opened()
    firewall.wait(1 * S - 1)
    firewall.knock("7000/tcp")
    assert not firewall.opened()
    firewall.wait(1)
    firewall.knock("7000/tcp")
    assert firewall.opened()
