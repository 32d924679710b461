# SPDX-License-Identifier: GPL-2.0-or-later
"""Token buckets that many want at once: several CPUs, more sources than there is room for, generations."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.timing import timer
from tests import frames
from tests.policies import one, policy
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.maps import ArrayMap
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import State, boot_ns
from xdpfw.kernel.testrun import START_BOOT_NS

pytestmark = pytest.mark.needs("privileges", "data plane")

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
UNITS = 1 << int(abi.LimitUnit.LIMIT_FRACTION_BITS)
SLOT_BYTES = abi.size_of("limit_slot")
FULL_AT = abi.offset_of("limit_slot", "full_at")
FORGED = 40_000
PASS = ir.Action(ir.ActionKind.PASS)

SLOW = ir.Limit(amount=1, window_ns=HOUR, burst=2, per=ir.Per.SRC)


def limited(limit: ir.Limit, name: str = "it") -> ir.Policy:
    return policy(ir.Rule(name, ir.Match(proto=one(17)), PASS, limit=limit), default=ir.Verdict.DROP)


def load(found: ir.Policy, state: State | None = None, *, trace: bool = True, number: int = 0) -> Generation:
    return Generation.load(compile_policy(found), interfaces=[], targets=[], state=state, trace=trace, number=number)


def datagram(source: int, dport: int = 53) -> bytes:
    return frames.v4_frame(frames.udp(1, dport) + bytes(18), 17, src=source)


def passes(generation: Generation, source: int, dport: int = 53, *, at: int = START_BOOT_NS) -> bool:
    return generation.run(datagram(source, dport), boot_ns=at).verdict == "pass"


def slots(generation: Generation) -> int:
    assert generation.state is not None
    return generation.state.limit_buckets.max_entries * int(abi.Limit.BUCKET_SLOTS)


@pytest.fixture
def slow() -> Iterator[Generation]:
    with load(limited(SLOW)) as generation:
        yield generation


def test_made_up_sources_get_no_more_than_there_are_slots(slow: Generation) -> None:
    """Each slot gives a burst and then the rate, to however many sources."""
    passed = sum(passes(slow, number) for number in range(FORGED))
    assert passed <= SLOW.burst * slots(slow)
    assert slow.limit_counters()[0].shared
    again = sum(passes(slow, FORGED + number) for number in range(FORGED))
    assert passed + again <= SLOW.burst * slots(slow)
    later = sum(passes(slow, number, at=START_BOOT_NS + HOUR) for number in range(FORGED))
    assert later <= slots(slow)


def test_who_has_used_up_its_bucket_gets_no_fresh_one_by_a_flood(slow: Generation) -> None:
    sources = range(1 << 24, (1 << 24) + 200)
    for source in sources:
        while passes(slow, source):
            pass
    for number in range(FORGED):
        passes(slow, number)
    assert not any(passes(slow, source) for source in sources)


def test_full_buckets_are_given_away_first(slow: Generation) -> None:
    """A flood that is over leaves nobody out."""
    for number in range(FORGED):
        passes(slow, number)
    assert all(passes(slow, FORGED + number, at=START_BOOT_NS + 2 * HOUR) for number in range(1000))


def test_with_room_for_all_nobody_shares(slow: Generation) -> None:
    assert all(passes(slow, number) for number in range(1000))
    assert slow.limit_counters()[0].shared == 0


def test_a_flood_at_one_limit_keeps_nobody_out_of_another_for_longer_than_its_burst() -> None:
    quick = ir.Limit(amount=10, window_ns=SECOND, burst=10, per=ir.Per.SRC)
    rules = [
        ir.Rule(name, ir.Match(proto=one(17), dport=one(port)), PASS, limit=limit)
        for name, port, limit in (("slow", 53, SLOW), ("quick", 54, quick))
    ]
    with load(policy(*rules, default=ir.Verdict.DROP)) as generation:
        for number in range(FORGED):
            passes(generation, number)
        newcomers = range(1 << 24, (1 << 24) + 500)
        for source in newcomers:
            passes(generation, source, 54)
        assert all(passes(generation, source, 54, at=START_BOOT_NS + SECOND) for source in newcomers)
        held = [source for source in range(FORGED - 100, FORGED) if passes(generation, source)]
        assert not held, "who owed at the first limit has not got rid of it"


def test_buckets_of_sources_outlive_an_apply_and_those_of_rules_begin_full(slow: Generation) -> None:
    while passes(slow, 1):
        pass
    with load(limited(SLOW), slow.state, number=1) as same:
        assert not passes(same, 1)
    with load(limited(replace(SLOW, burst=3)), slow.state, number=2) as changed:
        assert passes(changed, 1), "another limit has other buckets"
    with load(limited(SLOW, "renamed"), slow.state, number=3) as renamed:
        assert passes(renamed, 1)
    whole = limited(replace(SLOW, per=ir.Per.RULE))
    with load(whole) as first, load(whole, first.state, number=1) as second:
        while passes(first, 1):
            pass
        assert passes(second, 1)


def test_who_fills_a_slot_of_its_own_takes_none_from_others(slow: Generation) -> None:
    """Packets beyond the limit of a source that is known move nothing."""
    for number in range(500):
        passes(slow, number)
    for _ in range(1000):
        passes(slow, 7)
    assert all(passes(slow, number) for number in range(500) if number != 7)


def test_three_limits_in_a_full_table_give_nobody_tokens_back() -> None:
    """One fills the table with the deepest debts; two sources of the others drive each other out, over and over."""
    limits = {
        "deep": (53, replace(SLOW, burst=4)),
        "middle": (54, replace(SLOW, amount=2)),
        "shallow": (55, replace(SLOW, amount=100)),
    }
    rules = [
        ir.Rule(name, ir.Match(proto=one(17), dport=one(port)), PASS, limit=limit)
        for name, (port, limit) in limits.items()
    ]
    with load(policy(*rules, default=ir.Verdict.DROP)) as generation:
        for _ in range(4):
            for number in range(FORGED):
                passes(generation, number, 53)
        source, passed = 1 << 24, 0
        for number in range(300):
            passed += passes(generation, source, 54)
            for other in range(64):
                passes(generation, source + 1 + number * 64 + other, 55)
        assert passed <= limits["middle"][1].burst


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("per", [ir.Per.RULE, ir.Per.SRC, ir.Per.FLOW])
@pytest.mark.parametrize(
    ("amount", "in_bytes"), [(1, False), (1000, False), (3_000_000, False), (20_000_000, False), (100_000_000, True)]
)
def test_two_cpus_take_each_token_once(amount: int, in_bytes: bool, per: ir.Per) -> None:
    """Of a bucket that is never full meanwhile, what passed and what is owed are the same to the last unit."""
    limit = ir.Limit(amount=amount, window_ns=SECOND, burst=100 * amount, per=per, bytes=in_bytes)
    frame = datagram(1)
    with load(limited(limit), trace=False) as generation:
        rate = abi.unpack("rate", generation.maps.limits.read(0))
        cost = len(frame) * rate.cost >> rate.cost_shift if in_bytes else rate.cost
        generation.run(frame)  # so that there is a bucket
        before = _owe(generation, per, boot_ns() * UNITS + rate.depth - 10 * cost)
        passed_before = _passed(generation)
        _on_two_cpus(generation, frame, 300_000)
        passed = _passed(generation) - passed_before
        assert _full_at(generation, per) - before == passed * cost
        assert _full_at(generation, per) <= boot_ns() * UNITS + rate.depth + 2 * cost
        assert passed >= 9


def _passed(generation: Generation) -> int:
    return generation.counters()[1][0].packets - generation.limit_counters()[0].exceeded


def _place(generation: Generation, per: ir.Per) -> tuple[ArrayMap, int, int]:
    """The only bucket in use: its map, the element and where in it the time is."""
    if per is ir.Per.RULE:
        return generation.maps.limit_totals, 0, FULL_AT
    assert generation.state is not None
    buckets = generation.state.limit_buckets
    words = memoryview(buckets.read_all()).cast("Q")
    tag = next(index for index in range(0, len(words), 2) if words[index])
    element, slot = divmod(tag // 2, abi.Limit.BUCKET_SLOTS)
    return buckets, element, slot * SLOT_BYTES + FULL_AT


def _full_at(generation: Generation, per: ir.Per) -> int:
    map_, element, at = _place(generation, per)
    return int.from_bytes(map_.read(element)[at : at + 8], sys.byteorder)


def _owe(generation: Generation, per: ir.Per, full_at: int) -> int:
    """Sets when the bucket is full again, and returns it."""
    map_, element, at = _place(generation, per)
    value = bytearray(map_.read(element))
    value[at : at + 8] = full_at.to_bytes(8, sys.byteorder)
    map_.write(element, bytes(value))
    return full_at


def _on_two_cpus(generation: Generation, frame: bytes, repeat: int) -> None:
    """The same packet, over and over, on both at once."""
    ready = threading.Barrier(2)

    def send(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        run = timer(generation.program, frame, repeat)
        ready.wait(timeout=30)
        run()

    cpus = sorted(os.sched_getaffinity(0))[:2]
    threads = [threading.Thread(target=send, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
