# SPDX-License-Identifier: GPL-2.0-or-later
"""What a packet costs: BPF_PROG_TEST_RUN, in ns above the null program of the same rounds.

Written to build/bench.md and build/bench.json, and printed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import click

from bench import knocks
from bench.timing import Times, timer
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.lower import lower
from xdpfw.kernel.program import Generation
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "build"
STATS_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")

PACKETS = {
    "TCP, a rule by port passes": "tcp 192.0.9.7:40000 > 203.0.113.1:443 S",
    "TCP, a rule by set and port passes": "tcp 192.0.2.7:40000 > 203.0.113.1:22 S",
    "UDP, the default drops": "udp 192.0.9.7:40000 > 203.0.113.1:161",
    "TCP, a rule by source drops": "tcp 127.0.0.1:40000 > 203.0.113.1:443 S",
    "TCP behind two VLAN tags": "tcp 192.0.9.7:40000 > 203.0.113.1:443 S vlan=100 inner_vlan=7",
    "IPv6 TCP, a rule by port passes": "tcp [2001:db8::7]:40000 > [2001:db8::1]:443 S",
    "IPv6 UDP, the default drops": "udp [2001:db8::7]:40000 > [2001:db8::1]:161",
    "ARP, an allowance passes": "arp 192.0.2.7 > 192.0.2.1",
}


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Rounds, of which the median counts.")
@click.option("--repeat", default=200_000, show_default=True, help="Runs of a program in a row.")
def main(rounds: int, repeat: int) -> None:
    """Measure, print tables and write them to build/."""
    policy = lower(load(str(HERE / "ten-rules.yaml"), Sources.from_disk()))
    ten_rules = measure_rules(policy, rounds, repeat)
    with knocks.timers(policy, repeat) as timers:
        with_knocks = Times.of(timers, rounds, repeat)
    enabled = STATS_ENABLED.read_text().strip()
    head = (
        f"Ten rules, kernel {platform.release()}, bpf_stats_enabled {enabled}, "
        f"null program {ten_rules.null_ns:g} ns,\nmedian of {rounds} rounds of {repeat:,} runs, in ns above null."
    )
    text = "\n".join(
        (head, "", *rules_table(ten_rules), "", *no_knock_table(with_knocks), "", *knock_table(with_knocks))
    )
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "bench.md").write_text(text + "\n")
    result = {"null_ns": ten_rules.null_ns, "bpf_stats_enabled": enabled, "rounds": rounds, "repeat": repeat}
    above = {name: times.above_null(name) for times in (ten_rules, with_knocks) for name in times.found}
    (OUTPUT / "bench.json").write_text(json.dumps({**result, "above_null_ns": above}, indent=2) + "\n")
    click.echo(text)


def measure_rules(policy: ir.Policy, rounds: int, repeat: int) -> Times:
    with Generation.load(compile_policy(policy), interfaces=[1], targets=[]) as generation:
        timers = {name: timer(generation.program, parse_packet(text), repeat) for name, text in PACKETS.items()}
        return Times.of(timers, rounds, repeat)


def rules_table(times: Times) -> Iterator[str]:
    yield "| packet | ns | ratio |"
    yield "| --- | ---: | ---: |"
    for name in times.found:
        above = times.above_null(name)
        yield f"| {name} | {above:g} | {1 + above / times.null_ns:.1f} |"


def no_knock_table(times: Times) -> Iterator[str]:
    """Packets that are no knock: the cost without knocks, and by how much more with them."""
    none, *others = knocks.VARIANTS
    yield f"| no knock | without knocks | {' | '.join(f'with {name}' for name in others)} |"
    yield f"| --- |{' ---: |' * (len(others) + 1)}"
    for text in knocks.NO_KNOCKS:
        more = (times.above(f"{name}: {text}", f"{none}: {text}") for name in others)
        yield f"| {text} | {times.above_null(f'{none}: {text}'):g} | {' | '.join(f'{ns:+g}' for ns in more)} |"


def knock_table(times: Times) -> Iterator[str]:
    yield "| knock | policy with | ns |"
    yield "| --- | --- | ---: |"
    for name in times.found:
        variant, text = name.split(": ")
        if text not in knocks.NO_KNOCKS:
            yield f"| {text} | {variant} | {times.above_null(name):g} |"


if __name__ == "__main__":
    main()
