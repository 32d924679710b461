# SPDX-License-Identifier: GPL-2.0-or-later
"""Large sets: ten rules behind one that drops what a file of a million prefixes holds.

What it takes to read, compile and load them, and what a packet pays for them beside the same ten rules without.
"""

from __future__ import annotations

import ipaddress
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench import commands
from bench.cold import Shots, pass_of
from bench.report import Cell, Table
from bench.subjects import INTERFACE, TEN_RULES_FILE
from bench.traces import spread
from bench.warm import PACKETS, above_null
from tests import frames
from xdpfw.compiler.image import MapImage, compile_policy
from xdpfw.compiler.lower import lower
from xdpfw.kernel.features import null_program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

RULE: Final = '  - {name: blocked, match: {src: "@bad"}, action: drop}\n'
ENTRIES_FILE: Final = "bad.txt"
TRACE: Final = 20_000
MIB: Final = 1 << 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entries:
    """So many random prefixes, their lengths drawn from ``shortest`` to ``longest``."""

    label: str
    count: int
    bits: int
    shortest: int
    longest: int

    def prefixes(self) -> list[tuple[int, int]]:
        """Address and length of each."""
        source = random.Random(1)
        found = []
        for _ in range(self.count):
            length = source.randint(self.shortest, self.longest)
            address = source.getrandbits(length) << self.bits - length
            if self.bits == 128:  # global unicast, 2000::/3
                address = address & (1 << 125) - 1 | 1 << 125
            found.append((address, length))
        return found


ENTRIES: Final = (
    Entries("1,000,000 IPv4 prefixes, /20 to /32", 1_000_000, 32, 20, 32),
    Entries("200,000 IPv6 prefixes, /32 to /64", 200_000, 128, 32, 64),
)


def measure(rounds: int, repeat: int, say: Say, share: int = 1) -> Table:
    """``share``: of the entries, one in so many."""
    rows = [_row(each, share, rounds, repeat, say) for each in ENTRIES]
    return Table(
        "Sets from files",
        "Ten rules, and one before them that drops the sources in a set; half of the packets are in it. Seconds to "
        "read the policy and its file, to compile them and to load them, and all three. Packets: warm (median of up to "
        f"{PACKETS} packets) and cold (mean over {TRACE:,} sources), in ns above the same ten rules without the set, "
        f"in the same rounds ({rounds}, medians). Maps: kernel memory of program and maps. The command `apply`: where "
        "nothing was in force, and again with one entry more in the file; and its peak of resident memory.",
        (
            "set",
            "read s",
            "compile s",
            "load s",
            "all s",
            "warm ns more",
            "cold ns more",
            "maps MiB",
            "apply s",
            "file changed s",
            "apply peak MiB",
        ),
        rows,
    )


def _row(entries: Entries, share: int, rounds: int, repeat: int, say: Say) -> tuple[Cell, ...]:
    entries = Entries(entries.label, entries.count // share, entries.bits, entries.shortest, entries.longest)
    label = entries.label if share == 1 else f"one in {share} of {entries.label}"
    say(f"writing {label}")
    prefixes = entries.prefixes()
    with TemporaryDirectory() as directory:
        path = _write(Path(directory), prefixes, entries.bits)
        say(f"reading {label}")
        seconds, image = _compile(path)
        say(f"applying {label}")
        applied, changed = _apply(path)
    bare = compile_policy(lower(load(str(TEN_RULES_FILE), Sources.from_disk())))
    trace = list(_frames(prefixes, entries.bits))
    started = time.monotonic()
    with Generation.load(image, interfaces=[LOOPBACK], targets=[]) as loaded:
        load_seconds = time.monotonic() - started
        with Generation.load(bare, interfaces=[LOOPBACK], targets=[]) as without:
            programs = {"with": loaded.program, "without": without.program}
            packets = spread(trace, PACKETS)
            warm, _ = above_null(programs, dict.fromkeys(programs, packets), rounds, repeat, say)
            shots = Shots(trace)
            more = []
            with null_program() as null:
                for number in range(rounds):
                    say(f"cold, round {number + 1} of {rounds}")
                    cold = [pass_of(shots, null, program)[1].mean() for program in programs.values()]
                    more.append(float(cold[0] - cold[1]))
        memory = loaded.memory_bytes
    warm_more = statistics.median(warm["with"]) - statistics.median(warm["without"])
    return (
        label,
        *seconds,
        load_seconds,
        sum(seconds) + load_seconds,
        warm_more,
        statistics.median(more),
        memory / MIB,
        applied.seconds,
        changed.seconds,
        applied.peak_bytes / MIB,
    )


def _write(directory: Path, prefixes: Sequence[tuple[int, int]], bits: int) -> Path:
    """The policy beside the file of its set."""
    made = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
    with (directory / ENTRIES_FILE).open("w", encoding="ascii") as file:
        file.writelines(f"{made(address)}/{length}\n" for address, length in prefixes)
    text = TEN_RULES_FILE.read_text(encoding="utf-8").replace("eth0:", f"{INTERFACE}:")
    text = text.replace("sets:\n", f"sets:\n  bad: {{type: prefix, file: {ENTRIES_FILE}}}\n")
    text = text.replace("rules:\n", f"rules:\n{RULE}")
    path = directory / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _compile(path: Path) -> tuple[tuple[float, float], MapImage]:
    """Seconds to read and to compile a policy."""
    started = time.monotonic()
    policy = lower(load(str(path), Sources.from_disk()))
    read = time.monotonic()
    image = compile_policy(policy)
    return (read - started, time.monotonic() - read), image


def _apply(path: Path) -> tuple[commands.Cost, commands.Cost]:
    """Of the command, before and after the file of the set has changed."""
    with commands.place() as (_, options):
        try:
            applied = commands.run(("apply", str(path), *options))
            with (path.parent / ENTRIES_FILE).open("a", encoding="ascii") as file:
                file.write("192.0.2.0/32\n")
            return applied, commands.run(("apply", str(path), *options))
        finally:
            commands.run(("detach", *options))


def _frames(prefixes: Sequence[tuple[int, int]], bits: int) -> Iterator[bytes]:
    """UDP that no other rule is about, from one address of a prefix and one from anywhere in turns."""
    source = random.Random(2)
    payload = frames.udp(40000, 161)
    for i, (address, length) in enumerate(source.sample(prefixes, min(TRACE, len(prefixes)))):
        if i % 2:
            address |= source.getrandbits(bits - length) if length < bits else 0
        elif bits == 32:
            address = source.randint(0x80000000, 0xBFFFFFFF)
        else:
            address = 1 << 125 | source.getrandbits(125)
        framed = frames.v4_frame if bits == 32 else frames.v6_frame
        yield framed(payload, frames.UDP, src=address)
