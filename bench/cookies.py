# SPDX-License-Identifier: GPL-2.0-or-later
"""What protected ports cost: SYNs that are answered, acknowledgements that bring no cookie, and who is known.

Single shots, as an answer is not a SYN any more that could be run again. In a network namespace where a socket listens.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from bench.cold import Shots
from bench.report import Cell, Table
from bench.subjects import ten_rules
from tests import frames
from tests.topology import Namespace, network
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.features import null_program
from xdpfw.kernel.interface import namespace
from xdpfw.kernel.loader import Program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

Say = Callable[[str], None]

PORT: Final = 443
SOURCES: Final = 20_000
FIRST_SOURCE: Final = 0x0B000000
ALWAYS: Final = 2


def _from_sources(flags: int, dport: int = PORT) -> list[bytes]:
    tcp = frames.tcp(dport=dport, flags=flags)
    return [frames.v4_frame(tcp, src=FIRST_SOURCE + number) for number in range(SOURCES)]


def _from_sources_v6(flags: int) -> list[bytes]:
    tcp = frames.tcp(dport=PORT, flags=flags)
    return [frames.v6_frame(tcp, src=frames.SRC_V6 + number) for number in range(SOURCES)]


PACKETS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "SYN to a protected port": lambda: _from_sources(frames.SYN),
    "IPv6 SYN to a protected port": lambda: _from_sources_v6(frames.SYN),
    "ACK to a protected port, no cookie": lambda: _from_sources(frames.ACK),
    "SYN to another port": lambda: _from_sources(frames.SYN, dport=80),
}


@contextlib.contextmanager
def listening() -> Iterator[Namespace]:
    """A namespace in which a socket takes connections to PORT, whatever the address, and cookies."""
    with network() as net:
        home = net.namespace("cookies")
        home.sysctl("ipv4/tcp_syncookies", ALWAYS)
        with home.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
            listener.bind(("::", PORT))
            listener.listen()
            yield home


def _ns(shots: Shots, null: Program, program: Program, rounds: int) -> tuple[float, float]:
    """Mean and median over the packets, each the median of the rounds, above the null program."""
    found = []
    for _ in range(rounds):
        base, ours = shots.fire(null), shots.fire(program)
        found.append((float(np.mean(ours) - np.mean(base)), float(np.median(ours) - np.median(base))))
    means, medians = zip(*found, strict=True)
    return statistics.median(means), statistics.median(medians)


def measure(rounds: int, say: Say) -> Table:
    say("SYN cookies")
    policy = replace(ten_rules(), protect_syn=())
    with contextlib.ExitStack() as opened:
        home = opened.enter_context(listening())
        null = opened.enter_context(null_program())
        programs: Sequence[Program] = [
            opened.enter_context(Generation.load(compile_policy(found), interfaces=[LOOPBACK], targets=[])).program
            for found in (policy, replace(policy, protect_syn=(ir.Range(PORT, PORT),)))
        ]
        opened.enter_context(namespace(home.name))
        rows: list[tuple[Cell, ...]] = []
        for name, made in PACKETS.items():
            shots = Shots(made())
            rows.append((name, *(figure for program in programs for figure in _ns(shots, null, program, rounds))))
    return Table(
        "SYN cookies",
        f"Ten rules. Each packet once, of {SOURCES:,} sources, in ns above the null program; the median of {rounds} "
        "rounds.",
        ("packet", "not protected: mean", "median", "protected: mean", "median"),
        rows,
    )
