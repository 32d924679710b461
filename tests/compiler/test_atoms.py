# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules to atoms: the data plane's own fields, and exceptions taken apart."""

from __future__ import annotations

import pytest

from tests.policies import one, policy, prefix, rule, v4, v6
from xdpfw.compiler.atoms import AddressCondition, Atom, MacCondition, atoms
from xdpfw.compiler.ir import (
    NO_TAG,
    ActionKind,
    AddressRanges,
    Family,
    IcmpMessage,
    MacMask,
    Match,
    Range,
    Ranges,
    TcpFlags,
)
from xdpfw.kernel.abi import Absent, Detail, Field, Kind

NET = prefix(0x0A000000, 8)


def of(match: Match, unless: Match | None = None) -> list[Atom]:
    return atoms(policy(rule(0, match, unless=unless)))


def condition(match: Match, field: Field) -> Ranges:
    (atom,) = of(match)
    found = dict(atom.predicate)[field]
    assert not isinstance(found, MacCondition)
    return found


def values(ranges: Ranges) -> set[int]:
    return {value for low, high in ranges for value in range(low, high + 1)}


def kind(family: Family, fragment: int = 0, options: int = 0) -> int:
    return family | fragment << Kind.FRAGMENT_SHIFT | options << Kind.OPTIONS_SHIFT


def test_a_rule_is_one_atom_in_order_of_fields() -> None:
    (atom,) = of(Match(dport=one(22), proto=one(6), src=v4(NET)))
    assert atom == Atom(
        rule=0,
        predicate=((Field.PROTO, one(6)), (Field.DPORT, one(22))),
        src=AddressCondition((NET,), ()),
        dst=None,
        counts=False,
    )


def test_rules_that_count_say_so() -> None:
    found = atoms(policy(rule(0, Match(), ActionKind.COUNT), rule(1, Match(), ActionKind.TX)))
    assert [(atom.rule, atom.counts) for atom in found] == [(0, True), (1, False)]


@pytest.mark.parametrize(
    ("match", "kinds"),
    [
        (Match(family=one(0)), {0, *(kind(Family.OTHER, f, o) for f in range(3) for o in range(2))}),
        (
            Match(fragment=one(1, 2)),
            {kind(v, f, o) for v in (Family.IPV4, Family.IPV6) for f in (1, 2) for o in (0, 1)},
        ),
        (Match(ip_options=one(0)), {kind(v, f) for v in (Family.IPV4, Family.IPV6) for f in range(3)}),
        (Match(family=one(2), fragment=one(0), ip_options=one(1)), {kind(Family.IPV6, 0, 1)}),
    ],
)
def test_family_fragment_and_options_are_one_field(match: Match, kinds: set[int]) -> None:
    assert values(condition(match, Field.KIND)) == kinds


def test_what_no_packet_is_has_no_atom() -> None:
    assert of(Match(family=one(0), fragment=one(0))) == []
    assert of(Match(tcp_flags=(TcpFlags(2, 0),), icmp=(IcmpMessage(1, Range(0, 255), Range(0, 255)),))) == []
    assert of(Match(src=AddressRanges())) == []


def test_tcp_flags() -> None:
    found = values(condition(Match(tcp_flags=(TcpFlags(0x02, 0x10), TcpFlags(0xFF, 0))), Field.DETAIL))
    assert found == {flags for flags in range(256) if flags & 0x12 == 2} | {255}


def test_icmp_messages_of_both_protocols() -> None:
    messages = (IcmpMessage(1, Range(3, 4), Range(1, 2)), IcmpMessage(58, Range(255, 255), Range(255, 255)))
    wanted = {Detail.ICMP + (kind << 8) + code for kind in (3, 4) for code in (1, 2)} | {Detail.ICMPV6 + 0xFFFF}
    assert values(condition(Match(icmp=messages), Field.DETAIL)) == wanted
    assert max(wanted) == Absent.NO_DETAIL - 1


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (one(NO_TAG), one(4096)),
        (one(0, 4095), one(0, 4095)),
        (one(NO_TAG, 7), (Range(0, 7), Range(4096, 4096))),
        ((Range(NO_TAG, NO_TAG), Range(4095, 4095)), one(4095, 4096)),
    ],
)
def test_no_tag_comes_last(tags: Ranges, wanted: Ranges) -> None:
    assert condition(Match(vlan=tags), Field.VLAN) == wanted


def test_an_exception_is_an_atom_for_each_of_its_conditions() -> None:
    found = of(Match(proto=one(6)), Match(proto=one(6, 7), dport=one(22), src=v4(NET)))
    assert [atom.rule for atom in found] == [0, 0]  # what is left of proto 6 is nothing
    assert found[0].predicate == ((Field.PROTO, one(6)), (Field.DPORT, (Range(0, 21), Range(23, Absent.NO_PORT))))
    assert found[1].predicate == ((Field.PROTO, one(6)),)
    assert found[1].src == AddressCondition(
        (Range(0, NET.low - 1), Range(NET.high + 1, 2**32 - 1)), (Range(0, 2**128 - 1),), none=True
    )


def test_an_exception_lets_packets_match_that_lack_the_field() -> None:
    for field, name, lacking in (
        (Field.PROTO, "proto", Absent.NO_PROTO),
        (Field.DPORT, "dport", Absent.NO_PORT),
        (Field.TTL, "ttl", Absent.NO_TTL),
        (Field.DSCP, "dscp", Absent.NO_DSCP),
        (Field.LENGTH, "length", Absent.NO_LENGTH),
        (Field.INTERFACE, "interface", Absent.NO_INTERFACE),
    ):
        (atom,) = of(Match(), Match(**{name: one(0)}))
        assert dict(atom.predicate)[field] == one(1, lacking)


def test_an_exception_within_addresses_keeps_what_is_left() -> None:
    (atom,) = of(Match(dst=v4(NET)), Match(dst=v4(prefix(0x0A000000, 9))))
    assert atom.dst == AddressCondition((prefix(0x0A800000, 9),), ())
    (atom,) = of(Match(src=v6(prefix(0, 1, 128))), Match(src=v4(NET)))
    assert atom.src == AddressCondition((), (prefix(0, 1, 128),))


def test_an_empty_exception_leaves_nothing() -> None:
    assert of(Match(proto=one(6)), Match()) == []


def test_mac_addresses_keep_both_what_is_wanted_and_what_is_not() -> None:
    wanted, unwanted = MacMask(0x02, 0xFF), MacMask(0x0102, 0xFFFF)
    (atom,) = of(Match(src_mac=(wanted,)), Match(src_mac=(unwanted,)))
    assert dict(atom.predicate)[Field.SRC_MAC] == MacCondition((wanted,), (unwanted,))
    (atom,) = of(Match(), Match(src_mac=(unwanted,)))
    assert dict(atom.predicate)[Field.SRC_MAC] == MacCondition(None, (unwanted,))
