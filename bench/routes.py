# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to forward by the kernel's FIB, and to hand packets to other CPUs: beside a redirect by the same rule.

In a network namespace of its own, with forwarding on, a route and a neighbour in each family. A test run does not put
back what it has changed: the next hop has the firewall's own MAC address, and no run repeats more often than the TTL
lasts.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.report import Table
from bench.timing import Timer, Times, timer
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.interface import find, namespace
from xdpfw.kernel.program import Generation
from xdpfw.kernel.targets import Station, online_cpus, write_cpus, write_stations
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

TTL: Final = 255
REPEAT: Final = 250
MAC: Final = bytes(5) + b"\x02"
FRAMES: Final = {
    "IPv4": f"udp 192.0.2.2:40000 > 198.51.100.7:53 ttl={TTL}",
    "IPv6": f"udp [2001:db8:1::2]:40000 > [2001:db8:2::7]:53 ttl={TTL}",
}

Say = Callable[[str], None]


def _policy(action: ir.Action) -> ir.Policy:
    nothing = ir.Allow(arp=False, ndp=False, dhcp=False, icmp_errors=False, established=False, fragments=False)
    rule = ir.Rule("on", ir.Match(proto=(ir.Range(17, 17),)), action)
    return ir.Policy((ir.Interface("a"),), ir.Verdict.DROP, ir.Verdict.DROP, nothing, rules=(rule,))


@contextlib.contextmanager
def _router() -> Iterator[tuple[str, int]]:
    """A namespace, and the index of its interface that leads on."""
    name = f"xdpfw-bench-{os.getpid()}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", "-n", name, *arguments], check=True, timeout=30)

    subprocess.run(["ip", "netns", "add", name], check=True, timeout=30)
    try:
        ip("link", "add", "out", "type", "veth", "peer", "other")
        for interface in ("lo", "out", "other"):
            ip("link", "set", interface, "up")
        ip("address", "add", "198.51.100.1/24", "dev", "out")
        ip("address", "add", "2001:db8:2::1/64", "dev", "out", "nodad")
        for neighbour in ("198.51.100.7", "2001:db8:2::7"):
            ip("neighbour", "add", neighbour, "lladdr", MAC.hex(":"), "dev", "out")
        with namespace(name):
            for family in ("ipv4", "ipv6"):
                Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1", encoding="ascii")
            yield name, find("out").ifindex
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=30)


def _short_runs(generation: Generation, text: str, repeat: int) -> Timer:
    """The mean of as many short runs as make up ``repeat``."""
    frame = MAC + parse_packet(text)[6:]
    each = timer(generation.program, frame, REPEAT)
    return lambda: round(statistics.fmean(each() for _ in range(-(-repeat // REPEAT))))


def measure(rounds: int, repeat: int, say: Say) -> Iterator[Table]:
    say("test runs")
    cpu = min(online_cpus()[1])
    actions = {
        "redirect": ir.Action(ir.ActionKind.REDIRECT, interface="out"),
        "route": ir.Action(ir.ActionKind.ROUTE),
        "cpu": ir.Action(ir.ActionKind.CPU, cpus=(cpu,)),
        "pass": ir.Action(ir.ActionKind.PASS),
    }
    with contextlib.ExitStack() as loaded:
        _, ifindex = loaded.enter_context(_router())
        timers: dict[str, Timer] = {}
        for name, action in actions.items():
            image = compile_policy(_policy(action))
            targets = [ifindex] * len(image.targets)
            generation = loaded.enter_context(Generation.load(image, interfaces=[LOOPBACK], targets=targets))
            write_stations(generation.maps.routes, generation.maps.stations, [Station(ifindex, MAC, True)])
            write_cpus(generation.maps.cpus, action.cpus)
            for family, text in FRAMES.items():
                timers[f"{family}, {name}"] = _short_runs(generation, text, repeat)
        times = Times.of(timers, rounds, repeat)
    yield Table(
        "Forwarding",
        f"One rule, warm, runs of {REPEAT} as a TTL lasts no longer: ns above null, and above a redirect by the rule.",
        ("packet, action", "ns", "above redirect"),
        [(name, times.above_null(name), times.above(name, f"{name.partition(',')[0]}, redirect")) for name in timers],
    )
