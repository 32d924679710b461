# SPDX-License-Identifier: GPL-2.0-or-later
"""What a packet costs: BPF_PROG_TEST_RUN of a ten-rule policy, in ns above the null program of the same rounds.

Programs take turns, round by round, so that a machine that slows down does so for all of them. Written to
build/bench.md and build/bench.json, and printed.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import click

from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.lower import lower
from xdpfw.kernel.features import null_program
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.program import Generation, Program
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "build"
STATS_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")
MIN_FRAME_BYTES = 60

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


def timer(program: Program, frame: bytes, repeat: int) -> Callable[[], int]:
    """A call that gives the mean duration of a run, in whole ns as the kernel has it."""
    data = ffi.from_buffer(frame)
    run = options("bpf_test_run_opts", data_size_in=len(frame), repeat=repeat)

    def duration_ns() -> int:
        run.data_in = data  # cffi keeps alive what Python refers to, not what a struct points to
        check(libbpf().bpf_prog_test_run_opts(program.fileno(), run), "time", "a test run")
        return int(run.duration)

    return duration_ns


def measure(timers: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, duration_ns in timers.items():
            found[name].append(duration_ns())
    return found


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Rounds, of which the median counts.")
@click.option("--repeat", default=200_000, show_default=True, help="Runs of a program in a row.")
def main(rounds: int, repeat: int) -> None:
    """Measure, print a table and write it to build/."""
    policy = lower(load(str(HERE / "ten-rules.yaml"), Sources.from_disk()))
    frames = {name: parse_packet(text).ljust(MIN_FRAME_BYTES, b"\0") for name, text in PACKETS.items()}
    with null_program() as null, Generation.load(compile_policy(policy), interfaces=[1], targets=[]) as generation:
        timers = {"null": timer(null, frames[next(iter(frames))], repeat)}
        timers |= {name: timer(generation.program, frame, repeat) for name, frame in frames.items()}
        found = {name: statistics.median(times) for name, times in measure(timers, rounds).items()}
    report(found, rounds, repeat)


def report(found: dict[str, float], rounds: int, repeat: int) -> None:
    null = found.pop("null")
    enabled = STATS_ENABLED.read_text().strip()
    lines = [
        f"Ten rules, kernel {platform.release()}, bpf_stats_enabled {enabled}, null program {null:g} ns,",
        f"median of {rounds} rounds of {repeat:,} runs.",
        "",
        "| packet | ns above null | ratio |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {time - null:g} | {time / null:.1f} |" for name, time in found.items()),
    ]
    OUTPUT.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    (OUTPUT / "bench.md").write_text(text)
    result = {"null_ns": null, "bpf_stats_enabled": enabled, "rounds": rounds, "repeat": repeat, "above_null_ns": {}}
    result["above_null_ns"] = {name: time - null for name, time in found.items()}
    (OUTPUT / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
