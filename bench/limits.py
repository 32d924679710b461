# SPDX-License-Identifier: GPL-2.0-or-later
"""What limits and followed fragments cost, beside the same policy without.

Newcomers are single shots, each from another source; the rest is warm.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import statistics
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from bench.report import Table
from bench.subjects import ten_rules
from bench.timing import Timer, Times, timer
from tests import frames
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import boot_ns
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

Say = Callable[[str], None]

S: Final = 1_000_000_000
RULE: Final = "web"
V4: Final = "tcp 192.0.9.7:40000 > 203.0.113.1:443 A"
V6: Final = "tcp [2001:db8::7]:40000 > [2001:db8::1]:443 A"
SHOTS: Final = 2000
MARK_MASK: Final = (1 << int(abi.LimitUnit.LIMIT_MARK_BITS)) - 1

ENOUGH: Final = ir.Limit(amount=S, window_ns=S, burst=2 * S)
"""That no test run exceeds."""

WITHIN: Final = {
    "per rule": ENOUGH,
    "per rule, its burst is short": replace(ENOUGH, burst=1000),
    "per rule, bytes": replace(ENOUGH, amount=50 * S, burst=100 * S, bytes=True),
    "per source": replace(ENOUGH, per=ir.Per.SRC),
    "per /24 or /64": replace(ENOUGH, per=ir.Per.SRC, v4_bits=24, v6_bits=64),
    "per flow": replace(ENOUGH, per=ir.Per.FLOW),
    "per flow, bytes": replace(ENOUGH, amount=50 * S, burst=100 * S, bytes=True, per=ir.Per.FLOW),
}
BEYOND: Final = ir.Limit(amount=1, window_ns=3600 * S, burst=1)
LIMITS: Final = {
    **WITHIN,
    "per rule, exceeded": BEYOND,
    "per rule, exceeded at 1,000/s": ir.Limit(amount=1000, window_ns=S, burst=1000),
    "per source, exceeded": replace(BEYOND, per=ir.Per.SRC),
}
NEWCOMERS: Final = replace(BEYOND, per=ir.Per.SRC, burst=2)


def _policy(limit: ir.Limit | None, *, fragments: bool = False) -> ir.Policy:
    """Ten rules, of which one has the limit; without state of flows, which would decide before it."""
    policy = ten_rules()
    rules = tuple(replace(rule, limit=limit) if rule.name == RULE else rule for rule in policy.rules)
    return replace(policy, rules=rules, allow=replace(policy.allow, established=False, fragments=fragments))


def _load(limit: ir.Limit | None, *, fragments: bool = False) -> Generation:
    return Generation.load(compile_policy(_policy(limit, fragments=fragments)), interfaces=[LOOPBACK], targets=[])


def measure(rounds: int, repeat: int, say: Say) -> Iterator[Table]:
    say("known sources")
    yield _known(rounds, repeat)
    say("newcomers")
    yield _newcomers()
    say("fragments")
    yield _fragments(rounds, repeat)


def _known(rounds: int, repeat: int) -> Table:
    with contextlib.ExitStack() as loaded:
        generations = {name: loaded.enter_context(_load(limit)) for name, limit in {"none": None, **LIMITS}.items()}
        timers = {
            f"{name} {packet}": timer(generation.program, parse_packet(text), repeat)
            for name, generation in generations.items()
            for packet, text in (("IPv4", V4), ("IPv6", V6))
        }
        times = Times.of(timers, rounds, repeat)
    rows = [
        (name, times.above(f"{name} IPv4", "none IPv4"), times.above(f"{name} IPv6", "none IPv6")) for name in LIMITS
    ]
    without = tuple(times.above_null(f"none {packet}") for packet in ("IPv4", "IPv6"))
    return Table(
        "Limits",
        f"Ten rules, warm: ns above the same rule without a limit, which takes {without[0]:g} (IPv4), {without[1]:g} "
        "(IPv6) above null. What exceeds a fast rate, and what meets a burst of less than a second, reads the clock.",
        ("limit", "IPv4", "IPv6"),
        rows,
    )


def _newcomers() -> Table:
    sources = random.Random(1).sample(range(0x80000000, 0xBF000000), SHOTS)
    packets = [frames.v4_frame(frames.tcp(40000, 443), src=source).ljust(60, b"\0") for source in sources]
    with _load(None) as without, _load(NEWCOMERS) as empty, _load(NEWCOMERS) as full:
        _fill(full)
        subjects = {"none": without, "the table is empty": empty, "all is full of debts": full}
        found: dict[str, list[int]] = {name: [] for name in (*subjects, "the second packet")}
        for packet in packets:
            for name, generation in subjects.items():
                found[name].append(generation.run(packet).duration_ns)
            found["the second packet"].append(empty.run(packet).duration_ns)
    base = statistics.median(found.pop("none"))
    return Table(
        "Newcomers to a limit per source",
        f"{SHOTS:,} sources, each once: ns above the same shot at the same rule without a limit, medians ({base:g}).",
        ("newcomer", "ns"),
        [(name, statistics.median(times) - base) for name, times in found.items()],
    )


def _fill(generation: Generation) -> None:
    """Each bucket owes a minute, to as many sources as there is room for."""
    state = generation.state
    assert state is not None
    mark = abi.unpack("rate", generation.maps.limits.read(0)).id & MARK_MASK
    slots = state.limit_buckets.max_entries * abi.Limit.BUCKET_SLOTS
    words = array("Q", os.urandom(16 * slots))
    full_at = boot_ns() + 60 * S << int(abi.LimitUnit.LIMIT_FRACTION_BITS)
    for slot in range(slots):
        words[2 * slot] = words[2 * slot] & ~MARK_MASK | mark
        words[2 * slot + 1] = full_at
    with state.limit_buckets.mapped(16 * slots, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory[: 16 * slots] = words.tobytes()


@dataclass(frozen=True)
class _Follower:
    """Times later fragments, right behind their first one: it is not followed for long."""

    generation: Generation
    first: bytes
    timer: Timer

    def __call__(self) -> int:
        self.generation.run(self.first)
        return self.timer()


def _fragments(rounds: int, repeat: int) -> Table:
    first = frames.v4_frame(frames.udp(40000, 443) + bytes(80), 17, fragment=frames.MORE_FRAGMENTS)
    later = frames.v4_frame(bytes(88), 17, fragment=11)
    unknown = frames.v4_frame(bytes(88), 17, fragment=11, identification=2)
    with _load(None) as without, _load(None, fragments=True) as generation:
        timers: dict[str, Timer] = {
            "first, passed by a rule": timer(generation.program, first, repeat),
            "later, followed": _Follower(generation, first, timer(generation.program, later, repeat)),
            "later, its first one is not known": timer(generation.program, unknown, repeat),
        }
        plain = {
            "first, passed by a rule": timer(without.program, first, repeat),
            "later, followed": timer(without.program, later, repeat),
            "later, its first one is not known": timer(without.program, unknown, repeat),
        }
        both = {**timers, **{f"without: {name}": each for name, each in plain.items()}}
        times = Times.of(both, rounds, repeat)
    return Table(
        "Fragments",
        "Ten rules, warm: ns above null. Without allow.fragments, the default drops what is later.",
        ("fragment", "with allow.fragments", "without"),
        [(name, times.above_null(name), times.above_null(f"without: {name}")) for name in timers],
    )
