# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of sets: the quick way through a file against the plain one, and what arrays of them come to."""

from __future__ import annotations

import gzip
import ipaddress
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.shared_data import shared
from xdpfw.addresstable import AddressTable
from xdpfw.compiler.ranges import merge
from xdpfw.errors import PolicyError
from xdpfw.policy.addresses import Addresses, parse_addresses
from xdpfw.policy.entries import Entries, is_packed, lines
from xdpfw.policy.problems import Place
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.source import parse
from xdpfw.policy.values import NotationError, shown

MAX = {32: (1 << 32) - 1, 128: (1 << 128) - 1}


def spans(bits: int) -> st.SearchStrategy[Addresses]:
    """Around the ends of the space, of its 64-bit half and of a few prefixes, so that spans meet, touch and nest."""
    ends = [0, MAX[bits], *(4 << bits - 8 >> shift for shift in (0, 3, 8))]
    ends += [1 << 64, 5 << 64] if bits == 128 else []
    values = st.builds(lambda end, off: min(max(end + off, 0), MAX[bits]), st.sampled_from(ends), st.integers(-3, 3))
    return st.tuples(values, values).map(lambda pair: Addresses(bits, min(pair), max(pair)))


some_spans = st.lists(spans(32) | spans(128), max_size=12)


def by_family(found: list[Addresses]) -> list[list[tuple[int, int]]]:
    return [[(low, high) for of, low, high in found if of == bits] for bits in (32, 128)]


@given(some_spans)
def test_a_table_is_what_a_plain_merge_finds(found: list[Addresses]) -> None:
    table = Entries.of(found).table
    merged = [merge(each) for each in by_family(found)]
    assert [table.spans(32), table.spans(128)] == [[*map(tuple, each)] for each in merged]
    assert len(table) == sum(map(len, merged))
    again = Entries.of([Addresses(bits, *span) for bits in (32, 128) for span in reversed(table.spans(bits))]).table
    assert (again, hash(again)) == (table, hash(table))


@given(some_spans, st.sampled_from([32, 128]), st.data())
def test_a_table_contains_its_addresses_and_no_others(found: list[Addresses], bits: int, data: st.DataObject) -> None:
    table = Entries.of(found).table
    address = data.draw(spans(bits)).low
    assert table.contains(bits, address) == any(of == bits and low <= address <= high for of, low, high in found)


def test_tables_of_other_addresses_differ() -> None:
    one = Entries.of([parse_addresses("0.0.0.1")]).table
    for text in ("0.0.0.2", "0.0.0.1-0.0.0.2", "::1"):
        assert Entries.of([parse_addresses(text)]).table != one
    assert Entries.of([]).table == AddressTable.of(one.v4[:0], one.v6[:0]) != one


@given(some_spans, some_spans)
def test_entries_are_counted_as_written_and_compared_as_they_are(one: list[Addresses], other: list[Addresses]) -> None:
    a, b = Entries.of(one), Entries.of(other)
    assert (a.count, len(a)) == (len(one), len(set(one)))
    assert a.shared(b) == b.shared(a) == len(set(one) & set(other))


@given(some_spans)
def test_packed_entries_come_back(found: list[Addresses]) -> None:
    entries = Entries.of(found)
    packed = entries.packed()
    assert is_packed(packed)
    back = Entries.unpacked(packed)
    assert (back.v4.tolist(), back.v6.tolist(), back.count) == (entries.v4.tolist(), entries.v6.tolist(), len(found))
    assert back.packed() == packed


@given(some_spans, st.randoms())
def test_packed_entries_do_not_tell_the_order_of_the_text(found: list[Addresses], source: random.Random) -> None:
    assert Entries.of(source.sample(found, len(found))).packed() == Entries.of(found).packed()


def plainly(text: str) -> tuple[list[Addresses], list[tuple[int, int, str]]]:
    """The entries of a file and its errors (line, column, message), with nothing done for speed."""
    found: list[Addresses] = []
    errors = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        entry = line.partition("#")[0].partition(";")[0].strip()
        words = entry.split()
        if not words or entry.startswith("create "):
            continue
        if len(words) == 3 and entry.startswith("add "):
            entry = words[2]
        try:
            if entry[0] == "@":
                raise NotationError(f"{shown(entry)} is a set within a set")
            found.append(parse_addresses(entry))
        except NotationError as problem:
            column = len(line) - len(line.lstrip()) + 1
            errors.append((number, column, problem.message))
    return found, errors


GOOD = [
    "192.0.2.0/24", "10.0.0.0/8", "0.0.0.0/0", "255.255.255.255", "255.255.255.255/32", "128.0.0.0/1", "::/0", "::1",
    "2001:db8::/32", "8000::/1", "2001:db8::/64", "2001:db8:0:0:8000::/65", "2001:db8::1/128", "::ffff:192.0.2.1",
    "192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9", "192.0.2.1 - 192.0.2.2", "add listed 192.0.2.0/25",
    "add listed  2001:db8::1", "create listed hash:net family inet",
]  # fmt: skip
BAD = [
    "192.0.2.1/24", "2001:db8::1/64", "2001:db8::1/32", "::1/0", "192.0.2.0/33", "2001:db8::/129", "192.0.2.0/", "/24",
    "192.0.2.0/024", "192.0.2", "192.0.2.01", "192.0.2.0/24/24", "::/", "example.org", "@lan", "10.0.0.2-10.0.0.1",
    "192.0.2.0 /24", "192.0.2.0/ 24", "192.0.2.0/24 192.0.2.1", "2001:db8::%eth0", "192.0.2.1\0", "192.0.2.\u0661",
    "add listed @lan", "add listed 10.0.0.1/8", "add 192.0.2.1", "add listed 192.0.2.1 nomatch",
    "addlisted x 10.0.0.1", "create", "192.0.2.0/-1", "192.0.2.0/24\r192.0.2.1",
]  # fmt: skip
before = st.sampled_from(["", " ", "\t", "\u00a0"])
behind = st.sampled_from(["", " ", "\r", "# x", " ; SBL1", "\t#", "  # @lan ; y\r", ";192.0.2.1"])


def text_of(entries: list[str]) -> st.SearchStrategy[str]:
    line = st.builds("".join, st.tuples(before, st.sampled_from(entries), behind))
    return st.builds(str.__add__, st.sampled_from(["", "\ufeff"]), st.lists(line, max_size=30).map("\n".join))


@example("192.0.2.1/24\n" * 25)
@given(text_of(["", *GOOD]) | text_of(["", *GOOD, *BAD]) | st.text("0123456789abcdef.:/-#; \t\r\n@", max_size=60))
def test_a_file_is_read_as_line_by_line(text: str) -> None:
    place = Place(parse("a: 1", "p.yaml"), "p.yaml", (), "it")
    loaded = LoadedSet("l", "prefix", place, "l.txt")
    errors: list[PolicyError] = []
    loaded.add_text(text, errors)
    found, wrong = plainly(text)
    told = [(each.position.line, each.position.column, each.message) for each in errors if each.position]
    assert [(line, column) for line, column, _ in told[:20]] == [(line, column) for line, column, _ in wrong[:20]]
    assert all(message in one for (_, _, one), (_, _, message) in zip(told[:20], wrong, strict=False))
    assert len(told) == min(len(wrong), 21)
    if not wrong:
        assert loaded.entries == len(found)
        assert by_family(sorted(set(found))) == [
            list(map(tuple, loaded.prefixes.v4.tolist())),
            [(a << 64 | b, c << 64 | d) for a, b, c, d in loaded.prefixes.v6.tolist()],
        ]


def test_many_lines_of_both_families() -> None:
    source = random.Random(4)
    lines, found = [], []
    for number in range(100_000):
        bits = 128 if number % 8 == 0 else 32
        length = source.choice((bits, bits, bits - 8, bits // 2))
        low = source.getrandbits(length) << bits - length
        found.append(Addresses(bits, low, low | (1 << bits - length) - 1))
        packed = low.to_bytes(bits // 8, "big")
        written = packed.hex(":", 2) if bits == 128 else ".".join(map(str, packed))
        lines.append(written if length == bits else f"{written}/{length}")
        if number % 5_000 == 0:
            lines += ["# a comment", "", "192.0.2.1-192.0.2.9 ; a range"]
            found.append(parse_addresses("192.0.2.1-192.0.2.9"))
    entries = Entries.read("\n".join(lines))
    assert entries.count == len(found)
    assert len(entries) == len(set(found))
    assert entries.table == Entries.of(found).table


LISTS = {  # the entries, and how many are within another
    "bitwire_inbound_networks.v4.txt.gz": (213_288, None),
    "ipranges_all_merged.v6.txt": (12_872, None),
    "ipranges_all_unmerged.v4.txt": (111_110, 54_113),
    "ipsum_level1.v4.txt": (120_430, 0),
    "spamhaus_drop.v4.ipset": (1698, None),
    "spamhaus_drop.v6.ipset": (91, None),
    "x4b_datacenter.v6.txt": (8752, None),
}


def text_in(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


@pytest.mark.parametrize("name", LISTS)
def test_real_lists(name: str) -> None:
    text = text_in(shared("blocklists", name))
    entries = Entries.read(text)
    networks = [ipaddress.ip_network(line.split()[-1]) for line in text.splitlines()]
    assert entries.count == len(networks) == LISTS[name][0]
    assert len(entries) == len(set(networks))
    bits = networks[0].max_prefixlen
    collapsed = merge((int(each[0]), int(each[-1])) for each in networks)
    assert entries.table.spans(bits) == [*map(tuple, collapsed)]
    if (nested := LISTS[name][1]) is not None:
        within, reach = 0, -1
        for _, high in sorted({(int(each[0]), -int(each[-1])) for each in networks}):
            within += -high <= reach
            reach = max(reach, -high)
        assert within == nested


def test_lines_are_where_they_are_in_a_long_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the text is taken apart, empty lines and comments among it."""
    text = "\ufeff# a list\n\n 10.0.0.1 # one\n;\n\n\n10.0.0.2;two\r\n   \n::1\n\n"
    wanted = [(3, 2, "10.0.0.1"), (7, 1, "10.0.0.2"), (9, 1, "::1")]
    for size in range(len(text) + 1):
        monkeypatch.setattr("xdpfw.policy.entries._CHUNK", size)
        for end in ("", "#", " ", "\n"):
            assert list(lines(text + end)) == wanted
            assert Entries.read(text + end).count == len(wanted)
