# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits: what passes within a rate and a burst, whose packets share a bucket, and what happens beyond."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernel.agreement import Agreement, agreement
from tests.kernel.fields import ARP, LATER4, LLDP, TCP4, TCP6, UDP4
from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.program import Generation
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
ROUND_DAYS = (1 << 64 - 8) // DAY
"""After so many, the clock of buckets goes round."""
STEPS = 4000
TEN_A_SECOND = ir.Limit(amount=10, window_ns=SECOND, burst=5)
PASS, DROP = ir.Action(ir.ActionKind.PASS), ir.Action(ir.ActionKind.DROP)


def limited(limit: ir.Limit, action: ir.Action = PASS, match: ir.Match | None = None) -> ir.Policy:
    return policy(ir.Rule("it", match or ir.Match(), action, limit=limit))


def passed(both: Agreement, packet: str | bytes, count: int) -> int:
    return sum(both.run(packet).verdict == "pass" for _ in range(count))


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    with agreement(limited(TEN_A_SECOND)) as both:
        assert passed(both, TCP4, 20) == 5
        both.wait(SECOND // 10 - 1)
        assert passed(both, TCP4, 1) == 0
        both.wait(1)
        assert passed(both, TCP4, 5) == 1
        both.wait(SECOND)
        assert passed(both, TCP4, 20) == 5


def test_what_exceeds_takes_no_tokens() -> None:
    with agreement(limited(TEN_A_SECOND)) as both:
        passed(both, TCP4, 100)
        both.wait(SECOND // 10)
        assert passed(both, TCP4, 1) == 1


def test_either_way_the_rule_is_the_match() -> None:
    with agreement(limited(TEN_A_SECOND)) as both:
        assert [both.run(UDP4).rule for _ in range(7)] == ["it"] * 7
        assert both.counted("it") == 7


@pytest.mark.parametrize("action", [PASS, DROP, ir.Action(ir.ActionKind.TX), ir.Action(ir.ActionKind.REDIRECT, "b")])
@pytest.mark.parametrize("exceed", [ir.Verdict.PASS, ir.Verdict.DROP])
def test_the_action_is_within_and_the_other_verdict_beyond(action: ir.Action, exceed: ir.Verdict) -> None:
    with agreement(limited(replace(TEN_A_SECOND, exceed=exceed), action)) as both:
        assert [both.run(TCP4).verdict for _ in range(6)] == [action.kind.value] * 5 + [exceed]


def test_all_that_matches_shares_a_rules_bucket() -> None:
    with agreement(limited(TEN_A_SECOND)) as both:
        assert [both.run(each).verdict for each in (TCP4, UDP4, TCP6, ARP, LLDP, LATER4)] == ["pass"] * 5 + ["drop"]


def test_rules_have_buckets_of_their_own() -> None:
    tcp = ir.Match(proto=((6, 6),))
    rules = [ir.Rule(name, match, PASS, limit=TEN_A_SECOND) for name, match in (("tcp", tcp), ("rest", ir.Match()))]
    with agreement(policy(*rules)) as both:
        assert passed(both, TCP4, 9) == 5
        assert passed(both, UDP4, 9) == 5


SOURCES = {
    ir.Limit(10, SECOND, 1, ir.Per.SRC): ("10.1.1.1", "10.1.1.2"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v4_bits=24): ("10.1.1.255", "10.1.2.0"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v4_bits=1): ("127.255.255.255", "128.0.0.0"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=128): ("[2001:db8::1]", "[2001:db8::2]"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=65): ("[2001:db8::1]", "[2001:db8::8000:0:0:1]"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=64): ("[2001:db8:0:1::1]", "[2001:db8:0:2::1]"),
    ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=48): ("[2001:db8:1::1]", "[2001:db8:2::1]"),
}


def _from(source: str, port: int = 1) -> str:
    return f"udp {source}:{port} > {'[2001:db8::9]' if source.startswith('[') else '203.0.113.1'}:53"


@pytest.mark.parametrize("limit", SOURCES)
def test_sources_of_other_prefixes_have_other_buckets(limit: ir.Limit) -> None:
    one, other = SOURCES[limit]
    with agreement(limited(limit)) as both:
        assert [passed(both, _from(each), 2) for each in (one, other)] == [1, 1]


@pytest.mark.parametrize(
    ("limit", "one", "other"),
    [
        (ir.Limit(10, SECOND, 1, ir.Per.SRC), "10.1.1.1", "10.1.1.1"),
        (ir.Limit(10, SECOND, 1, ir.Per.SRC, v4_bits=24), "10.1.1.0", "10.1.1.255"),
        (ir.Limit(10, SECOND, 1, ir.Per.SRC, v4_bits=0), "10.1.1.0", "255.255.255.255"),
        (ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=64), "[2001:db8::]", "[2001:db8::ffff:ffff:ffff:ffff]"),
        (ir.Limit(10, SECOND, 1, ir.Per.SRC, v6_bits=0), "[::1]", "[ffff::1]"),
    ],
)
def test_sources_of_a_prefix_share_a_bucket(limit: ir.Limit, one: str, other: str) -> None:
    with agreement(limited(limit)) as both:
        assert [both.run(_from(each, port)).verdict for each, port in ((one, 1), (other, 2))] == ["pass", "drop"]


def test_the_families_never_share_a_bucket() -> None:
    with agreement(limited(ir.Limit(10, SECOND, 1, ir.Per.SRC, v4_bits=0, v6_bits=0))) as both:
        assert [both.run(each).verdict for each in (TCP4, TCP6, ARP)] == ["pass"] * 3
        assert [both.run(each).verdict for each in (TCP4, TCP6, LLDP)] == ["drop"] * 3, "what is not IP shares one"


@pytest.mark.parametrize(
    "other",
    [
        "udp 198.51.100.8:1 > 203.0.113.1:53",
        "udp 198.51.100.7:1 > 203.0.113.2:53",
        "udp 198.51.100.7:2 > 203.0.113.1:53",
        "udp 198.51.100.7:1 > 203.0.113.1:54",
        "udplite 198.51.100.7:1 > 203.0.113.1:53",
        "udp 198.51.100.7 > 203.0.113.1 frag=later",
        "udp 203.0.113.1:53 > 198.51.100.7:1",
    ],
)
def test_a_flow_is_addresses_protocol_and_ports_of_one_direction(other: str) -> None:
    with agreement(limited(ir.Limit(10, SECOND, 1, ir.Per.FLOW))) as both:
        flow = "udp 198.51.100.7:1 > 203.0.113.1:53"
        assert [both.run(each).verdict for each in (flow, flow, other, other)] == ["pass", "drop"] * 2


def test_bytes_are_those_of_whole_frames() -> None:
    limit = ir.Limit(amount=1000, window_ns=SECOND, burst=3000, bytes=True)
    large, small = f"{TCP4} length=1486", TCP4  # a frame of 1,500 bytes and one of 54
    with agreement(limited(limit)) as both:
        assert passed(both, large, 3) == 2
        assert passed(both, small, 1) == 0
        both.wait(SECOND * 54 // 1000)
        assert passed(both, small, 2) == 1


def test_a_packet_longer_than_the_burst_never_passes() -> None:
    with agreement(limited(ir.Limit(amount=10**6, window_ns=SECOND, burst=1499, bytes=True))) as both:
        for _ in range(3):
            assert both.run(f"{TCP4} length=1486").verdict == "drop"
            both.wait(DAY)


@pytest.mark.parametrize(
    "limit",
    [
        ir.Limit(1, 3600 * SECOND, 1),
        ir.Limit(1, SECOND, 1),
        ir.Limit(3, SECOND, 7),
        ir.Limit(10_000_000, SECOND, 1000),
        ir.Limit(999_999_937, SECOND, 3),
        ir.Limit(1, SECOND, 1500, bytes=True),
        ir.Limit(12_500_000_000, SECOND, 100_000, bytes=True),  # 100 Gbit/s
        ir.Limit(99_999_999_977, SECOND, 65_000, bytes=True),
    ],
)
def test_rates_are_kept_to_one_percent(limit: ir.Limit) -> None:
    """Packets of 60 bytes come two to four times as fast as the limit lets them through."""
    tokens = 60 if limit.bytes else 1
    cost_ns = limit.window_ns / limit.amount * tokens
    step_ns = max(round(cost_ns / 4), 1)
    at_once = max(round(2 * step_ns / cost_ns), 1)
    packet = parse_packet(f"{TCP4} length=46")
    now = 3600 * SECOND
    with Generation.load(compile_policy(limited(limit)), interfaces=[], targets=[], trace=True) as generation:

        def passes(count: int) -> int:
            return sum(generation.run(packet, boot_ns=now).verdict == "pass" for _ in range(count))

        assert passes(limit.burst // tokens * 2 + 1) == pytest.approx(limit.burst // tokens, rel=0.01)
        passed = 0
        for _ in range(STEPS):
            now += step_ns
            passed += passes(at_once)
    assert passed == pytest.approx(STEPS * step_ns / cost_ns, rel=0.01, abs=1)


def test_the_reference_counts_what_the_kernel_does_at_uneven_times() -> None:
    limit = ir.Limit(12_500_000_000, SECOND, 9_000, bytes=True)
    with agreement(limited(limit)) as both:
        for number in range(600):
            both.run(f"{TCP4} length={46 + number * 7 % 1400}")
            both.wait(number * 13 % 97)


def test_exceeded_packets_and_bytes_are_counted() -> None:
    rules = [ir.Rule(name, ir.Match(proto=((proto, proto),)), PASS, limit=TEN_A_SECOND) for name, proto in
             (("tcp", 6), ("udp", 17))]  # fmt: skip
    with agreement(policy(*rules)) as both:
        passed(both, TCP4, 7)
        passed(both, UDP4, 6)
        counters = both.generation.limit_counters()
    assert [(each.exceeded, each.exceeded_bytes, each.shared) for each in counters] == [(2, 108, 0), (1, 42, 0)]


def test_old_buckets_are_full() -> None:
    """Just before it goes round, too, when they would seem to owe something."""
    packet = parse_packet(TCP4)
    for per in (ir.Per.RULE, ir.Per.SRC):
        image = compile_policy(limited(replace(TEN_A_SECOND, per=per)))
        with Generation.load(image, interfaces=[], targets=[], trace=True) as generation:
            now = 3600 * SECOND
            for days in (100, 333, 417, 700, ROUND_DAYS - 1, ROUND_DAYS, ROUND_DAYS + 1):
                verdicts = [generation.run(packet, boot_ns=now).verdict for _ in range(9)]
                assert verdicts == ["pass"] * 5 + ["drop"] * 4, (per, days)
                now += days * DAY


def test_test_runs_begin_anew_with_full_buckets() -> None:
    for per in ir.Per:
        with agreement(limited(replace(TEN_A_SECOND, per=per))) as both:
            assert passed(both, TCP4, 9) == 5
            both.forget()
            assert passed(both, TCP4, 9) == 5


limits = st.builds(
    ir.Limit,
    amount=st.sampled_from((1, 3, 10, 1000, 12_500_000)),
    window_ns=st.sampled_from((SECOND, 60 * SECOND, 250 * SECOND)),
    burst=st.sampled_from((1, 2, 5, 100, 3000)),
    per=st.sampled_from(ir.Per),
    v4_bits=st.sampled_from((0, 1, 8, 24, 31, 32)),
    v6_bits=st.sampled_from((0, 1, 32, 63, 64, 65, 127, 128)),
    bytes=st.booleans(),
    exceed=st.sampled_from((ir.Verdict.PASS, ir.Verdict.DROP)),
)
packets = st.tuples(
    st.sampled_from(
        (
            *(f"tcp 198.51.{a}.{b}:1 > 203.0.113.1:22" for a, b in ((100, 7), (100, 8), (101, 7))),
            *(f"udp [2001:db8:{a}::{b}]:1 > [2001:db8::9]:22" for a, b in ((0, 1), (0, 2), (1, 1))),
            "udp 198.51.100.7:1 > 203.0.113.1:22 length=1500",
            LATER4,
            ARP,
        )
    ),
    st.sampled_from((0, 0, 1, 79, 10**6, SECOND // 10, SECOND, 61 * SECOND)),
)


@settings(deadline=None)
@given(st.lists(limits, min_size=1, max_size=3), st.lists(packets, min_size=1, max_size=40))
def test_kernel_and_reference_agree(drawn: list[ir.Limit], sent: list[tuple[str, int]]) -> None:
    matches = [ir.Match(proto=((6, 6),)), ir.Match(family=((1, 2),)), ir.Match()][-len(drawn) :]
    rules = [
        ir.Rule(f"r{n}", match, PASS, limit=limit) for n, (match, limit) in enumerate(zip(matches, drawn, strict=True))
    ]
    with agreement(policy(*rules)) as both:
        for packet, wait in sent:
            both.run(packet)
            both.wait(wait)
