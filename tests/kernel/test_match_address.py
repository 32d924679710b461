# SPDX-License-Identifier: GPL-2.0-or-later
"""src and dst: prefix, address, range, set; IPv4 and IPv6 mixed."""

from __future__ import annotations

import pytest

from tests.kernel.fields import ARP, LLDP, Case, check, check_grouped, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def sent(*addresses: str) -> list[str]:
    """A packet from each; odd ones out in protocol, fragment and tags, which change nothing."""
    forms = ("gre {} > {}", "tcp {} > {} frag=later", "udp {}:1 > {}:2 vlan=1 options", "proto 99 {} > {} ttl=1")
    other = {True: "2001:db8:ffff::1", False: "240.0.0.1"}
    packets = []
    for number, address in enumerate(addresses):
        form = forms[number % len(forms)]
        pair = [f"[{each}]" if ":1" in form and ":" in each else each for each in (address, other[":" in address])]
        packets.append(form.format(*pair))
    return packets


def received(*addresses: str) -> list[str]:
    """A packet to each."""
    packets = []
    for packet in sent(*addresses):
        words = packet.split()
        arrow = words.index(">")
        ends = [words[arrow - 1], words[arrow + 1]]
        if words[0] == "udp":
            ends = [end.rpartition(":")[0] + port for end, port in zip(ends, (":2", ":1"), strict=True)]
        words[arrow - 1], words[arrow + 1] = reversed(ends)
        packets.append(" ".join(words))
    return packets


PREFIX = ("10.0.0.0", "10.1.2.3", "10.255.255.255")
NOT_PREFIX = ("9.255.255.255", "11.0.0.0", "0.0.0.0", "255.255.255.255", "::a00:1", "a00::")
PREFIX6 = ("2001:db8::", "2001:db8::7", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
NOT_PREFIX6 = ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "::", "32.1.13.184", "20.1.13.184")

MIXED_SET = "bad: {type: prefix, elements: [192.0.2.0/24, 198.51.100.7, 2001:db8::/32, 203.0.113.1-203.0.113.9]}"

CASES = [
    Case("{src: 10.0.0.0/8}", sent(*PREFIX), [*sent(*NOT_PREFIX), *received(*PREFIX), ARP, LLDP]),
    Case("{dst: 10.0.0.0/8}", received(*PREFIX), [*received(*NOT_PREFIX), *sent(*PREFIX), ARP]),
    Case("{src: 2001:db8::/32}", sent(*PREFIX6), [*sent(*NOT_PREFIX6), ARP]),
    Case("{dst: 2001:db8::/32}", received(*PREFIX6), [*received(*NOT_PREFIX6), LLDP]),
    Case(
        "{src: 198.51.100.7}", sent("198.51.100.7"), sent("198.51.100.6", "198.51.100.8", "70.51.100.7", "::c633:6407")
    ),
    Case(
        "{dst: '2001:db8::7'}",
        received("2001:db8::7"),
        received("2001:db8::6", "2001:db8::8", "2001:db8:0:1::7", "a001:db8::7"),
    ),
    *(
        Case(f"{{src: {prefix}}}", sent(first, last), sent(before, behind))
        for prefix, before, first, last, behind in (
            ("128.0.0.0/1", "127.255.255.255", "128.0.0.0", "255.255.255.255", "0.0.0.0"),
            ("192.0.0.0/7", "191.255.255.255", "192.0.0.0", "193.255.255.255", "194.0.0.0"),
            ("192.168.0.0/15", "192.167.255.255", "192.168.0.0", "192.169.255.255", "192.170.0.0"),
            ("192.168.0.0/16", "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
            ("192.168.128.0/17", "192.168.127.255", "192.168.128.0", "192.168.255.255", "192.169.0.0"),
            ("192.168.4.0/23", "192.168.3.255", "192.168.4.0", "192.168.5.255", "192.168.6.0"),
            ("192.168.4.0/31", "192.168.3.255", "192.168.4.0", "192.168.4.1", "192.168.4.2"),
            (
                "'8000::/1'",
                "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "8000::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "::",
            ),
            (
                "'2001:db8:4::/47'",
                "2001:db8:3:ffff:ffff:ffff:ffff:ffff",
                "2001:db8:4::",
                "2001:db8:5:ffff:ffff:ffff:ffff:ffff",
                "2001:db8:6::",
            ),
            (
                "'2001:db8:0:4::/64'",
                "2001:db8:0:3:ffff:ffff:ffff:ffff",
                "2001:db8:0:4::",
                "2001:db8:0:4:ffff:ffff:ffff:ffff",
                "2001:db8:0:5::",
            ),
            ("'2001:db8::8:0/109'", "2001:db8::7:ffff", "2001:db8::8:0", "2001:db8::f:ffff", "2001:db8::10:0"),
            ("'2001:db8::2/127'", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"),
        )
    ),
    Case(
        "{src: 0.0.0.0/0}", sent("0.0.0.0", "255.255.255.255", "1.2.3.4"), [*sent("::", "::1", "::102:304"), ARP, LLDP]
    ),
    Case("{src: '::/0'}", sent("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), [*sent("0.0.0.0", "1.2.3.4"), ARP]),
    Case("{dst: 0.0.0.0}", received("0.0.0.0"), [*received("0.0.0.1", "128.0.0.0", "::"), ARP]),
    Case("{dst: 255.255.255.255}", received("255.255.255.255"), received("255.255.255.254", "127.255.255.255")),
    Case("{src: 192.0.2.1-192.0.2.9}", sent("192.0.2.1", "192.0.2.5", "192.0.2.9"), sent("192.0.2.0", "192.0.2.10")),
    Case(
        "{src: 10.0.255.254-10.1.0.1}",
        sent("10.0.255.254", "10.0.255.255", "10.1.0.1"),
        sent("10.0.255.253", "10.1.0.2"),
    ),
    Case(
        "{src: '2001:db8::fffe-2001:db8::1:1'}",
        sent("2001:db8::fffe", "2001:db8::1:0"),
        sent("2001:db8::fffd", "2001:db8::1:2"),
    ),
    # An IPv4-mapped address is an IPv6 address like any other, and none of IPv4.
    Case("{src: 192.0.2.1}", sent("192.0.2.1"), sent("::ffff:192.0.2.1", "::192.0.2.1", "c000:201::")),
    Case("{src: '::ffff:192.0.2.1'}", sent("::ffff:192.0.2.1"), sent("192.0.2.1", "::192.0.2.1", "::ffff:192.0.2.2")),
    Case(
        "{src: '::ffff:0:0/96'}",
        sent("::ffff:192.0.2.1", "::ffff:0.0.0.0"),
        sent("192.0.2.1", "::fffe:1:1", "::1:0:0:0"),
    ),
    Case(
        "{src: [10.0.0.0/8, '2001:db8::/32', 192.0.2.7]}",
        sent(*PREFIX, *PREFIX6, "192.0.2.7"),
        [*sent("9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", *NOT_PREFIX6), ARP],
    ),
    # Adjacent and nested prefixes.
    Case("{src: [10.0.0.0/9, 10.128.0.0/9, 10.5.0.0/16]}", sent(*PREFIX), sent("9.255.255.255", "11.0.0.0")),
    Case(
        "{src: '@bad'}",
        sent("192.0.2.0", "192.0.2.255", "198.51.100.7", "2001:db8::1", "203.0.113.1", "203.0.113.9"),
        [*sent("192.0.1.255", "192.0.3.0", "198.51.100.6", "203.0.113.0", "203.0.113.10", *NOT_PREFIX6), ARP],
        sets=MIXED_SET,
    ),
    Case(
        "{dst: ['@bad', 10.0.0.0/8]}",
        received("192.0.2.77", "2001:db8::1", *PREFIX),
        [*received("9.9.9.9", "2001:db9::"), *sent(*PREFIX)],
        sets=MIXED_SET,
    ),
    Case(
        "{src: [10.0.0.0/8, '2001:db8:1::/48'], dst: [240.0.0.0/4, '2001:db8:ffff::1']}",
        sent(*PREFIX, "2001:db8:1::7"),
        [*sent("11.0.0.1", "2001:db8:2::7"), *received("10.0.0.1", "2001:db8:1::7")],
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)


@parametrize(CASES)
def test_match_in_a_large_policy(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check_grouped(case, monkeypatch)
