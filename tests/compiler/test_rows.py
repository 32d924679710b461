# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: what an earlier entry covers is left out, long ones are dispatched, and too long ones are made to fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.compiler.walk import Walk
from tests.frames import UDP, tcp, udp, v4_frame
from tests.policies import one, policy, prefix, rule, v4
from xdpfw.compiler import grouping, ir
from xdpfw.compiler.atoms import Predicate
from xdpfw.compiler.fields import classify_fields
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import Match, Range
from xdpfw.compiler.rows import LONGEST_LIST, NO_ROW, Entry, Head, RowTable, RowTooLongError
from xdpfw.compiler.tables import Tables
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Field, Key, Limit, RowFlag
from xdpfw.packet.decode import Packet, decode
from xdpfw.reference.interpreter import evaluate

TCP, UDP_ONLY = (Field.PROTO, one(6)), (Field.PROTO, one(17))


def port(number: int) -> Predicate:
    return (TCP, (Field.DPORT, one(number)))


def table(predicates: Sequence[Predicate]) -> RowTable:
    return RowTable(predicates, classify_fields(predicates).groups)


def laid(rows: RowTable, head: Head) -> list[Entry]:
    """The entries of a row that is not dispatched."""
    assert not head[0] & RowFlag.ROW_DISPATCH
    found = [head]
    if head[0] & RowFlag.ROW_LIST:
        tables = Tables()
        first, _ = rows.lay(tables)
        words = memoryview(tables.tobytes()).cast("Q")
        packed = words[first + head[1] :].tolist()
        found = [(word & 0xFFFFFFFF, word >> 32) for word in packed]
        found = found[: next(i for i, (key, _) in enumerate(found) if key & RowFlag.ROW_LAST) + 1]
    return [
        Entry(key & Key.MASK, condition & RowFlag.ROW_PREDICATE_MASK, condition >> RowFlag.ROW_OTHER_SHIFT)
        for key, condition in found
    ]


def test_the_empty_row() -> None:
    assert table([()]).head([]) == NO_ROW


def test_one_rule_stands_where_it_is_looked_up() -> None:
    rows = table([port(22), port(23)])
    assert rows.head([Entry(8, 1, 5)]) == (8, 1 | 5 << RowFlag.ROW_OTHER_SHIFT)


def test_equal_rows_are_one() -> None:
    rows = table([port(22), port(23)])
    first = rows.head([Entry(0, 0, 0), Entry(8, 1, 0)])
    assert rows.head([Entry(0, 0, 0), Entry(8, 1, 0)]) == first
    assert laid(rows, first) == [Entry(0, 0, 0), Entry(8, 1, 0)]


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        ([Entry(0, 0, 0), Entry(1, 1, 0)], [0]),  # all of TCP covers one port
        ([Entry(0, 1, 0), Entry(1, 0, 0)], [0, 1]),
        ([Entry(0, 0, 3), Entry(1, 1, 0)], [0, 1]),  # the earlier one is for part of the other addresses only
        ([Entry(0, 0, 3), Entry(1, 1, 3)], [0]),
        ([Entry(0, 0, 0), Entry(1, 1, 3)], [0]),
        ([Entry(0, 2, 0), Entry(1, 0, 0), Entry(2, 3, 0), Entry(3, 1, 0)], [0, 1, 2]),
        ([Entry(0, 3, 0), Entry(1, 0, 0), Entry(2, 1, 0)], [0]),  # no condition covers all
    ],
)
def test_what_an_earlier_entry_covers_is_left_out(entries: list[Entry], kept: list[int]) -> None:
    rows = table([(TCP,), port(22), (UDP_ONLY,), ()])
    assert [entry.key for entry in laid(rows, rows.head(entries))] == kept


def test_a_long_row_is_dispatched() -> None:
    rows = table([port(i) for i in range(LONGEST_LIST + 1)])
    assert not rows.head([Entry(i, i, 0) for i in range(LONGEST_LIST)])[0] & RowFlag.ROW_DISPATCH
    assert rows.head([Entry(i, i, 0) for i in range(LONGEST_LIST + 1)])[0] & RowFlag.ROW_DISPATCH


def test_a_row_that_the_small_fields_do_not_shorten_is_too_long() -> None:
    entries = [Entry(i, 0, i + 1) for i in range(Limit.MAX_ROW_ENTRIES + 1)]
    rows = table([(TCP,)])
    rows.check_lengths()
    rows.head(entries)
    with pytest.raises(RowTooLongError):
        rows.check_lengths()
    assert table([(TCP,)]).head(entries[:-1])[0] & RowFlag.ROW_DISPATCH


def agree(rules: Sequence[ir.Rule], frames: Sequence[bytes]) -> Walk:
    whole = policy(*rules)
    walk = Walk(compile_policy(whole))
    for frame in frames:
        packet = decode(frame)
        assert isinstance(packet, Packet)
        found = walk.classify(packet).rule
        assert (None if found is None else rules[found].name) == evaluate(whole, frame).rule
    return walk


HOST = v4(prefix(0xCB007101, 32))


def test_a_host_with_500_ports() -> None:
    rules = [rule(i, Match(dst=HOST, proto=one(6), dport=one(3 * i))) for i in range(500)]
    rules.append(rule(500, Match(dst=HOST, proto=one(17))))
    frames = [v4_frame(tcp(dport=number)) for number in range(0, 1600, 7)] + [v4_frame(udp(), UDP)]
    walk = agree(rules, frames)
    assert walk.config.wide_words == 0


def test_rules_that_only_wide_addresses_tell_apart_become_wide() -> None:
    """One host, and more wide sources with equal fields than a row may have."""
    rules = [rule(i, Match(src=v4(prefix(i << 25, 7)), dst=HOST, proto=one(6))) for i in range(128)]
    rules += [rule(200 + i, Match(src=v4(prefix(i << 24, 8)), proto=one(6), dport=one(i))) for i in range(100)]
    frames = [v4_frame(tcp(dport=i), src=i << 24 | 5) for i in range(256)]
    walk = agree(rules, frames)
    assert walk.config.wide_words > 0


def test_what_fits_no_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of rules of one host, each with a wide range of sources of its own."""
    monkeypatch.setattr(grouping, "THRESHOLDS", grouping.THRESHOLDS[-1:])  # the others take their time to fail
    spread = [v4(Range(i << 10, (i << 10) + (1 << 28))) for i in range(4200)]
    rules = [rule(i, Match(src=source, dst=HOST, proto=one(6))) for i, source in enumerate(spread)]
    with pytest.raises(CapacityError, match="rules overlap in"):
        compile_policy(policy(*rules))
