# SPDX-License-Identifier: GPL-2.0-or-later
"""``allow.fragments``: later fragments follow what became of their datagram's first one, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import frames
from tests.kernel.agreement import Agreement, agreement
from tests.policies import one, policy, written
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.program import Generation

pytestmark = pytest.mark.needs("privileges", "data plane")

SECOND = 1_000_000_000
BODY = bytes(80)
EDGE = 88
"""Where first fragments end that have a UDP header and BODY."""

RULES = (
    "{name: dns, match: {proto: udp, dport: 53}, action: pass}",
    "{name: back, match: {proto: udp, dport: 7}, action: tx}",
    "{name: away, match: {proto: udp, dport: 9}, action: {redirect: b}}",
    "{name: bad, match: {proto: udp, dport: 666}, action: drop}",
)


def first(dport: int = 53, *, v6: bool = False, body: bytes = BODY, **header: int) -> bytes:
    payload = frames.udp(40000, dport) + body
    return _fragment(payload, 0, True, v6, **header)


def later(at: int = EDGE, *, v6: bool = False, body: bytes = BODY, more: bool = False, **header: int) -> bytes:
    return _fragment(body, at, more, v6, **header)


def _fragment(payload: bytes, at: int, more: bool, v6: bool, number: int = 1, proto: int = 17, **header: int) -> bytes:
    if v6:
        piece = frames.extension(frames.FRAGMENT, proto, fragment=at | more, identification=number) + payload
        return frames.v6_frame(piece, frames.FRAGMENT, **header)
    bits = at // 8 | (frames.MORE_FRAGMENTS if more else 0)
    return frames.v4_frame(payload, proto, fragment=bits, identification=number, **header)


@pytest.fixture
def both() -> Iterator[Agreement]:
    with agreement(written(*RULES, default="drop", allow="fragments")) as found:
        yield found


def counts(both: Agreement) -> tuple[int, int]:
    counter = both.generation.flow_counter()
    return counter.fragments_followed, counter.fragments_unknown


@pytest.mark.parametrize("v6", [False, True])
def test_later_fragments_follow_a_first_one_that_passed(both: Agreement, v6: bool) -> None:
    assert both.run(first(v6=v6)).rule == "dns"
    for at in (EDGE, EDGE + 80, 65528):
        assert both.run(later(at, v6=v6, more=at < 65528)).reason == "allow.fragments"
    assert counts(both) == (3, 0)


@pytest.mark.parametrize("v6", [False, True])
def test_a_later_fragment_that_comes_first_meets_the_rules(both: Agreement, v6: bool) -> None:
    assert both.run(later(v6=v6)).reason == "default"
    both.run(first(v6=v6))
    assert both.run(later(v6=v6)).reason == "allow.fragments"
    assert counts(both) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"number": 2},
        {"number": 0x8001},
        {"src": frames.SRC_V4 ^ 1},
        {"dst": frames.DST_V4 ^ 1},
        {"proto": 6},
        {"src": frames.DST_V4, "dst": frames.SRC_V4},
    ],
)
def test_fragments_of_another_datagram_do_not_follow(both: Agreement, other: dict[str, int]) -> None:
    both.run(first())
    assert both.run(later(**other)).reason == "default"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other", [{"number": 2}, {"number": 1 << 31 | 1}, {"src": frames.SRC_V6 ^ 1}, {"dst": frames.DST_V6 ^ 1 << 127}]
)
def test_nor_in_ipv6(both: Agreement, other: dict[str, int]) -> None:
    both.run(first(v6=True))
    assert both.run(later(v6=True, **other)).reason == "default"  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [4, -4])
def test_what_differs_in_several_places_at_once_is_not_taken_for_the_same(both: Agreement, more: int) -> None:
    """Sums of multiplied halves of addresses fell together with such twins, whatever the secret, every other time."""
    for number in range(5, 50):
        both.run(first(v6=True, number=number))
        twin = later(v6=True, number=(number + more) ^ 1 << 31, src=frames.SRC_V6 ^ 1 << 63)
        assert both.run(twin).reason == "default"


def test_in_ipv6_the_protocol_tells_no_datagrams_apart(both: Agreement) -> None:
    """RFC 8200, section 4.5: those of a datagram may differ in the next header, and the first one's counts."""
    both.run(first(v6=True))
    assert both.run(later(v6=True, proto=6)).reason == "allow.fragments"


def test_a_later_fragment_that_overlaps_the_first_does_not_follow(both: Agreement) -> None:
    """It would write over what the rules have looked at (RFC 1858, RFC 3128, RFC 5722)."""
    for v6 in (False, True):
        both.run(first(v6=v6))
        for at in (8, 16, EDGE - 8):
            assert both.run(later(at, v6=v6)).reason == "default"
        assert both.run(later(EDGE, v6=v6)).reason == "allow.fragments"


def test_the_longest_first_fragment_that_passed_counts(both: Agreement) -> None:
    both.run(first())
    both.run(first(body=bytes(160)))
    both.run(first(body=bytes(8)))
    assert both.run(later(EDGE)).reason == "default"
    assert both.run(later(EDGE + 80)).reason == "allow.fragments"


def test_a_first_fragment_is_followed_for_thirty_seconds(both: Agreement) -> None:
    both.run(first())
    both.wait(30 * SECOND - 1)
    assert both.run(later()).verdict == "pass"
    both.wait(1)
    assert both.run(later()).verdict == "drop"


def test_more_first_fragments_and_later_ones_prolong_nothing(both: Agreement) -> None:
    both.run(first())
    for _ in range(3):
        both.wait(10 * SECOND - 1)
        both.run(later())
        both.run(first())
    both.wait(3)
    assert both.run(later()).verdict == "drop"
    both.run(first())
    assert both.run(later()).verdict == "pass", "a new one begins anew"


@pytest.mark.parametrize(("dport", "rule"), [(666, "bad"), (25, None)])
def test_later_fragments_of_a_dropped_first_are_dropped_for_the_same_reason(dport: int, rule: str | None) -> None:
    rules = (*RULES, "{name: portless, match: {proto: udp, fragment: later}, action: pass}")
    with agreement(written(*rules, default="drop", allow="fragments")) as both:
        both.run(first(dport))
        assert (both.run(later()).verdict, both.run(later()).rule) == ("drop", rule)
        assert both.run(later(number=2)).rule == "portless"


@pytest.mark.parametrize(("dport", "verdict", "rule"), [(7, "tx", "back"), (9, "redirect", "away")])
def test_later_fragments_go_where_the_first_one_went(both: Agreement, dport: int, verdict: str, rule: str) -> None:
    for v6 in (False, True):
        both.run(first(dport, v6=v6))
        found = both.run(later(v6=v6))
        assert (found.verdict, found.rule) == (verdict, rule)


def test_a_drop_does_not_take_back_that_a_datagram_passed(both: Agreement) -> None:
    """Or else who sends first fragments in another's name could stop its datagrams."""
    both.run(first(53))
    both.run(first(666))
    assert both.run(later()).reason == "allow.fragments"


def test_what_was_dropped_may_pass_with_another_first_fragment(both: Agreement) -> None:
    both.run(first(666))
    both.wait(29 * SECOND)
    both.run(first(53))
    both.wait(29 * SECOND)
    assert both.run(later()).reason == "allow.fragments"


def test_without_the_allowance_later_fragments_meet_the_rules() -> None:
    with agreement(written(*RULES, default="drop")) as both:
        both.run(first())
        assert both.run(later()).reason == "default"
        assert counts(both) == (0, 0)


@pytest.mark.parametrize("kinds", [[frames.HOP_BY_HOP], [frames.DESTINATION, frames.ROUTING], [frames.HOP_BY_HOP] * 6])
def test_extension_headers_before_the_fragment_header(both: Agreement, kinds: list[int]) -> None:
    """What stands behind the fragment header belongs to the datagram, and to where its first fragment ends."""
    payload, following = frames.extended([*kinds, frames.FRAGMENT, frames.DESTINATION], frames.udp(1, 53) + BODY, 17,
                                         fragment=1)  # fmt: skip
    assert both.run(frames.v6_frame(payload, following)).rule == "dns"
    assert both.run(later(EDGE, v6=True)).reason == "default"
    assert both.run(later(EDGE + 8, v6=True)).reason == "allow.fragments"
    payload, following = frames.extended([*kinds, frames.FRAGMENT], BODY, 60, fragment=EDGE + 8)
    assert both.run(frames.v6_frame(payload, following)).reason == "allow.fragments"


def test_atomic_fragments_and_whole_datagrams_are_no_firsts(both: Agreement) -> None:
    both.run(_fragment(frames.udp(1, 53) + BODY, 0, False, True))
    both.run(_fragment(frames.udp(1, 53) + BODY, 0, False, False))
    assert [both.run(later(v6=v6)).reason for v6 in (False, True)] == ["default"] * 2


def test_a_first_fragment_too_short_for_its_headers_is_no_first(both: Agreement) -> None:
    assert both.run(_fragment(frames.udp(1, 53)[:4], 0, True, False)).reason == "invalid.first_fragment"
    assert both.run(later(8)).reason == "default"


FRAGMENTS = ir.Allow(arp=False, ndp=False, dhcp=False, icmp_errors=False, established=False, fragments=True)
PASS, TX = ir.Action(ir.ActionKind.PASS), ir.Action(ir.ActionKind.TX)


def limited(limit: ir.Limit, action: ir.Action = PASS, add_to: ir.AddTo | None = None) -> ir.Policy:
    rule = ir.Rule("dns", ir.Match(dport=one(53)), action, limit=limit, add_to=add_to)
    return policy(rule, default=ir.Verdict.DROP, allow=FRAGMENTS)


@pytest.mark.parametrize("per", list(ir.Per))
@pytest.mark.parametrize("v6", [False, True])
def test_later_fragments_take_tokens_of_their_first_ones_rule(per: ir.Per, v6: bool) -> None:
    """Or else one token is good for 64 KiB of a datagram, and for as many copies of it as anybody likes to send."""
    own = per is ir.Per.FLOW  # without ports, later fragments are a flow of their own
    with agreement(limited(ir.Limit(1, 3600 * SECOND, 3, per))) as both:
        assert both.run(first(v6=v6)).verdict == "pass"
        found = [both.run(later(v6=v6)) for _ in range(1000)]
        assert [each.reason for each in found].count("allow.fragments") == 2 + own
        assert {(each.verdict, each.rule) for each in found[2 + own :]} == {("drop", "dns")}


def test_in_bytes_each_fragment_takes_up_its_own() -> None:
    size = len(later())
    with agreement(limited(ir.Limit(100, SECOND, len(first()) + 5 * size, bytes=True))) as both:
        assert both.run(first()).verdict == "pass"
        assert [both.run(later()).verdict for _ in range(7)] == ["pass"] * 5 + ["drop"] * 2
        both.wait(size * SECOND // 100)
        assert [both.run(later()).verdict for _ in range(2)] == ["pass", "drop"]


def test_later_fragments_of_one_beyond_the_limit_are_dropped_and_take_nothing() -> None:
    with agreement(limited(ir.Limit(1, SECOND, 1))) as both:
        both.run(first(number=1))
        both.run(first(number=2))
        both.wait(SECOND)
        assert [both.run(later(number=2)).rule for _ in range(3)] == ["dns"] * 3
        assert both.run(first(number=3)).verdict == "pass"


@pytest.mark.parametrize("action", [PASS, TX])
def test_later_fragments_beyond_a_limit_meet_what_its_rule_does_then(action: ir.Action) -> None:
    with agreement(limited(ir.Limit(1, SECOND, 2, exceed=ir.Verdict.PASS), action)) as both:
        assert both.run(first()).verdict == action.kind
        assert both.run(later()).verdict == action.kind
        beyond = both.run(later())
        assert (beyond.verdict, beyond.rule) == ("pass", "dns")


def test_later_fragments_beyond_a_limit_put_their_source_where_its_rule_says() -> None:
    added = "limit: {rate: 1/h, burst: 2}, add_to: {set: bans}"
    rules = f"{{name: dns, match: {{proto: udp, dport: 53}}, action: pass, {added}}}"
    with agreement(written(rules, default="drop", allow="fragments")) as both:
        found = [both.run(each).reason for each in (first(), later(), later(), later())]
        assert found == ["rule", "allow.fragments", "rule", "ban"]


def test_limits_of_an_earlier_generation_are_not_taken_for_the_present_ones() -> None:
    """Its rules had other numbers."""
    image = compile_policy(limited(ir.Limit(1, 3600 * SECOND, 1)))
    with Generation.load(image, interfaces=[], targets=[], number=1, trace=True) as old:
        old.run(first())
        with Generation.load(image, interfaces=[], targets=[], number=2, state=old.state, trace=True) as new:
            assert [new.run(later()).reason for _ in range(3)] == ["allow.fragments"] * 3
            new.run(first(number=2))
            assert new.run(later(number=2)).verdict == "drop"


def _numbered(number: int) -> int:
    return frames.SRC_V4 + 0x01000000 + number


def test_a_flood_of_dropped_first_fragments_drives_out_none_that_passed() -> None:
    image = compile_policy(written(*RULES, default="drop", allow="fragments"))
    with Generation.load(image, interfaces=[], targets=[1], trace=True) as generation:
        kept = [number for number in range(300) if generation.run(first(number=number)).verdict == "pass"]
        for number in range(20_000):
            generation.run(first(666, src=_numbered(number)))
        assert all(generation.run(later(number=number)).reason == "allow.fragments" for number in kept)


def test_a_flood_of_first_fragments_that_pass_drives_out_the_oldest_and_no_more() -> None:
    """Their later fragments meet the rules then, as packets without ports."""
    image = compile_policy(written(*RULES, default="drop", allow="fragments"))
    with Generation.load(image, interfaces=[], targets=[1], trace=True) as generation:
        generation.run(first())
        slots = 4 * generation.state.fragments.max_entries if generation.state else 0
        for number in range(slots * 6):
            generation.run(first(src=_numbered(number)), boot_ns=3600 * SECOND + number)
        assert generation.run(later()).reason == "default"
        newest = [generation.run(later(src=_numbered(slots * 6 - 1 - n))).verdict for n in range(100)]
    assert newest == ["pass"] * 100


def test_what_an_earlier_generation_passed_goes_on_and_what_it_dropped_meets_the_rules() -> None:
    allow_all = compile_policy(written("{name: all, action: pass}", default="drop", allow="fragments"))
    image = compile_policy(written(*RULES, default="drop", allow="fragments"))
    with Generation.load(image, interfaces=[], targets=[1], number=1, trace=True) as old:
        old.run(first(53, number=1))
        old.run(first(666, number=2))
        old.run(first(9, number=3))
        with Generation.load(allow_all, interfaces=[], targets=[], number=2, state=old.state, trace=True) as new:
            found = [new.run(later(number=number)).reason for number in (1, 2, 3)]
            assert found == ["allow.fragments", "rule", "rule"]
            new.run(first(number=3))
            assert new.run(later(number=3)).reason == "allow.fragments", "a first one of its own counts"


def test_other_bytes_than_the_four_of_the_id_do_not_matter(both: Agreement) -> None:
    """The reserved bits of a fragment header (RFC 8200) and IPv4's type of service, options and TTL."""
    both.run(first(v6=True))
    piece = struct.pack("!BBHI", 17, 0xFF, EDGE | 6, 1) + BODY
    assert both.run(frames.v6_frame(piece, frames.FRAGMENT)).reason == "allow.fragments"
    both.run(first())
    assert both.run(later(ttl=1, tos=0xFF)).reason == "allow.fragments"
    assert both.run(frames.v4_frame(BODY, 17, fragment=EDGE // 8, options=bytes(8))).reason == "allow.fragments"


pieces = st.builds(
    lambda is_first, dport, at, v6, number, proto, source: (
        first(dport, v6=v6, number=number, body=bytes(at), src=(frames.SRC_V6 if v6 else frames.SRC_V4) + source)
        if is_first
        else later(at, v6=v6, number=number, proto=proto, src=(frames.SRC_V6 if v6 else frames.SRC_V4) + source)
    ),
    st.booleans(),
    st.sampled_from((53, 53, 7, 9, 666, 25)),
    st.sampled_from((8, 80, 88, 96, 168)),
    st.booleans(),
    st.integers(1, 2),
    st.sampled_from((17, 17, 6)),
    st.integers(0, 1),
)


@settings(deadline=None)
@given(st.lists(st.tuples(pieces, st.sampled_from((0, 0, 0, SECOND, 14 * SECOND, 30 * SECOND))), max_size=40))
def test_kernel_and_reference_agree(sent: list[tuple[bytes, int]]) -> None:
    with agreement(written(*RULES, default="drop", allow="fragments")) as found:
        for frame, wait in sent:
            found.run(frame)
            found.wait(wait)
