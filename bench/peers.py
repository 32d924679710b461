# SPDX-License-Identifier: GPL-2.0-or-later
"""The peers: nftables at netdev ingress, and xdp-filter, over the same wire, with the same packets, in the same run.

Rules are the first filters of one ClassBench set, and packets a trace of all of them, so that a linear search seldom
ends early. Every packet is dropped, by each of them: what the rest of the stack costs is no part of it. What is
measured is the CPU time of the thread that receives; what it takes to receive and drop without a rule is taken off:
with an empty chain for nftables, which needs a socket buffer, with two instructions for XDP, which does not.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bench import traces, veth, warm
from bench.replay import Wire, dropping_program, wire
from bench.report import Cell, Table
from bench.subjects import Subject, filter_set, subject
from bench.written import nft_chain, nft_rules, nft_set, nft_verdict_map
from bench.xdpfilter import FEATURES, xdp_filter
from tests.filtersets import FilterSet
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ranges import merge
from xdpfw.errors import XdpfwError
from xdpfw.kernel.loader import Program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

FILTERS: Final = "acl1_10k"
LINEAR: Final = (10, 100, 1000)
QUICK_LINEAR: Final = (10, 100)
"""Packets that 1,000 rules look at take most of the time."""

ADDRESSES: Final = 10_000
LEAST_PACKETS: Final = 30_000

NFT_BASE: Final = "nftables: an empty chain"
XDP_BASE: Final = "XDP: two instructions"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """``base``: the label of the row that is taken off, its own for such a row."""

    label: str
    base: str
    set_up: Callable[[], AbstractContextManager[None]]


def measure(rounds: int, repeat: int, say: Say, missing: list[str], linear: Sequence[int] = LINEAR) -> Iterator[Table]:
    """``missing`` gets a line for a peer that does not come up here. ``linear``: how many rules nftables has."""
    filters, trace = filter_set(FILTERS), subject(FILTERS)
    addresses = _addresses(filters)
    with contextlib.ExitStack() as opened:
        between = opened.enter_context(wire(threaded=True))
        say("loading")
        programs: dict[str, Program] = {}
        for name, policy in _policies(trace, addresses).items():
            generation = Generation.load(compile_policy(policy), interfaces=[LOOPBACK], targets=[])
            programs[f"xdpfw: {name}"] = opened.enter_context(generation).program
        try:
            peer = opened.enter_context(xdp_filter(between, addresses, trace.frames[0]))
        except XdpfwError as error:
            missing.append(f"xdp-filter, which does not load here: {error}")
        else:
            programs[f"xdp-filter ({FEATURES}): {ADDRESSES:,} addresses"] = peer
        base = opened.enter_context(dropping_program())
        rows = [
            *_nft_rows(between, filters, addresses, linear),
            *(
                Row(name, XDP_BASE, partial(between.running, program))
                for name, program in ({XDP_BASE: base} | programs).items()
            ),
        ]
        yield _by_thread(between, rows, trace, rounds, say)
        with wire() as unthreaded:
            yield _by_program(unthreaded, programs, trace, rounds, repeat, say)


def _addresses(filters: FilterSet) -> list[int]:
    """All sources of the trace, and others to make up the number."""
    source = random.Random(1)
    found = {header.src for header in traces.within(filters)}
    while len(found) < ADDRESSES:
        found.add(source.getrandbits(32))
    return sorted(found)


def _policies(trace: Subject, addresses: Sequence[int]) -> dict[str, ir.Policy]:
    """By what they have; they drop everything, as the peers do."""
    drop = ir.Action(ir.ActionKind.DROP)
    rules = tuple(replace(rule, action=drop) for rule in trace.policy.rules)
    every = replace(trace.policy, default=ir.Verdict.DROP)
    found = {f"{count:,} rules": replace(every, rules=rules[:count]) for count in (*LINEAR, len(rules))}
    listed = ir.AddressRanges(v4=merge(ir.Range(address, address) for address in addresses))
    found[f"{ADDRESSES:,} addresses"] = replace(every, rules=(ir.Rule("listed", ir.Match(src=listed), drop),))
    return found


def _nft_rows(between: Wire, filters: FilterSet, addresses: Sequence[int], linear: Sequence[int]) -> Iterator[Row]:
    device = between.receiving
    rulesets = {NFT_BASE: nft_chain(device)}
    rulesets |= {f"nftables: {count:,} linear rules": nft_chain(device, nft_rules(filters, count)) for count in linear}
    for what, (made, rule) in (("a set", nft_set(addresses)), ("a verdict map", nft_verdict_map(addresses))):
        rulesets[f"nftables: {what} of {ADDRESSES:,} addresses"] = nft_chain(device, [rule], [made])
    for number, (label, text) in enumerate(rulesets.items()):
        path = between.directory / f"{number}.nft"
        path.write_text(text, encoding="ascii")
        yield Row(label, NFT_BASE, partial(_ruleset, between, path))


@contextlib.contextmanager
def _ruleset(between: Wire, path: Path) -> Iterator[None]:
    between.receiver.run("nft", "--file", path)
    try:
        yield
    finally:
        between.receiver.run("nft", "flush", "ruleset")


def _by_thread(between: Wire, rows: Sequence[Row], trace: Subject, rounds: int, say: Say) -> Table:
    capture = between.capture(trace.name, trace.frames)
    loops = -(-LEAST_PACKETS // len(trace.frames))
    whole: dict[str, list[float]] = {row.label: [] for row in rows}
    for number in range(rounds):
        for row in rows:
            say(f"round {number + 1} of {rounds}: {row.label}")
            with row.set_up():
                between.send(capture, 1)
                before = between.thread_time()
                between.send(capture, loops)
                whole[row.label].append(between.thread_time().since(before))
    above = {row.label: [ns - base for ns, base in zip(whole[row.label], whole[row.base], strict=True)] for row in rows}
    cells: list[tuple[Cell, ...]] = [
        (
            row.label,
            None if row.label == row.base else statistics.median(above[row.label]),
            statistics.median(whole[row.label]),
        )
        for row in rows
    ]
    return Table(
        "Peers, by the CPU time of the thread that receives",
        f"Rules: the first of {FILTERS}, which has {trace.rules:,}; packets: a header in each of its filters, at least "
        f"{LEAST_PACKETS:,} a round after one pass to warm up; all are dropped. bpf_stats_enabled 0. schedstat of the "
        "NAPI thread, lowest priority, on the sender's CPU; above the row of two instructions or of an empty chain of "
        f"the same round. Median of {rounds} rounds, in which the rows take turns.",
        ("what", "ns above", "ns in all"),
        cells,
    )


def _by_program(
    between: Wire, programs: Mapping[str, Program], trace: Subject, rounds: int, repeat: int, say: Say
) -> Table:
    capture = between.capture(trace.name, trace.frames), len(trace.frames)
    frames = traces.spread(trace.frames, warm.PACKETS)
    in_test_runs, _ = warm.above_null(dict(programs), dict.fromkeys(programs, frames), rounds, repeat, say)
    on_the_wire, _ = veth.above_null(between, programs, dict.fromkeys(programs, capture), rounds, say)
    rows: list[tuple[Cell, ...]] = [
        (name, statistics.median(in_test_runs[name]), max(in_test_runs[name]), on_the_wire[name]) for name in programs
    ]
    return Table(
        "XDP peers, by the program's own time",
        "The same programs and packets: warm test runs (bpf_stats_enabled 0), and run_time_ns / run_cnt over the wire "
        "(bpf_stats_enabled 1), in ns above the null program, both as above.",
        ("what", "warm median ns", "warm worst ns", "wire ns"),
        rows,
    )
