# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to follow flows: packets that come in, beside a policy that follows none, and packets that are sent.

Rows of one packet are warm. Single shots, each of another flow, are of a table that no cache holds.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from bench.report import Table
from bench.subjects import ten_rules
from bench.timing import MIN_FRAME_BYTES, Timer, Times, timer
from tests.flow_frames import ACK, SYN, V4, V6, Ends, datagram
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

Say = Callable[[str], None]

FLOWS: Final = 180_000
SHOTS: Final = 2000
OURS: Final = V4, V6
WEB: Final = V4._replace(here_port=443, there_port=40001)

KNOWN: Final = {
    "TCP of a flow": V4.received(flags=ACK),
    "TCP of a flow, IPv6": V6.received(flags=ACK),
    "UDP of a flow": V4.received("udp"),
    "echo reply": V4.echo_received(is_reply=True),
}
UNKNOWN: Final = {
    "SYN, a rule passes it": WEB.received(flags=SYN),
    "TCP of no flow, no socket": WEB.received(flags=ACK),
    "TCP of no flow, no socket, IPv6": V6._replace(here_port=443, there_port=40001).received(flags=ACK),
    "UDP of no flow, a rule passes it": WEB.received("udp"),
    "UDP of no flow, the default drops it": WEB._replace(here_port=161).received("udp"),
    "ICMP error, all are allowed": V4.error(datagram(V4.sent("udp"))),
}
ERROR: Final = "ICMP error about a flow, where not all are allowed"
NOT_IP: Final = "not IP"
SENT: Final = {
    "TCP of a flow": V4.sent(flags=ACK),
    "TCP of a flow, IPv6": V6.sent(flags=ACK),
    "UDP of a flow": V4.sent("udp"),
    "echo request": V4.echo_sent(),
    "RST of no flow": WEB.sent(flags=0x04),
}


def _load(*, established: bool, icmp_errors: bool = True) -> Generation:
    policy = ten_rules()
    allow = replace(policy.allow, established=established, icmp_errors=icmp_errors, fragments=False)
    return Generation.load(compile_policy(replace(policy, allow=allow)), interfaces=[LOOPBACK], targets=[])


def measure(rounds: int, repeat: int, say: Say) -> Iterator[Table]:
    say("packets that come in, and that are sent")
    with contextlib.ExitStack() as loaded:
        without, following = (loaded.enter_context(_load(established=is_on)) for is_on in (False, True))
        strict = [loaded.enter_context(_load(established=is_on, icmp_errors=False)) for is_on in (False, True)]
        for generation in (following, strict[1]):
            for ends in OURS:
                generation.send(ends.sent(flags=ACK))
                generation.send(ends.sent("udp"))
                generation.send(ends.echo_sent())
        yield _received(without, following, strict, rounds, repeat)
        yield _sent(following, rounds, repeat)
    say(f"{FLOWS:,} flows")
    yield _shots()


def _received(without: Generation, following: Generation, strict: list[Generation], rounds: int, repeat: int) -> Table:
    timers: dict[str, Timer] = {}
    for name, frame in (KNOWN | UNKNOWN).items():
        timers[f"without {name}"] = timer(without.program, frame, repeat)
        timers[f"with {name}"] = timer(following.program, frame, repeat)
    for which, generation in zip(("without", "with"), strict, strict=True):
        timers[f"{which} {ERROR}"] = timer(generation.program, UNKNOWN["ICMP error, all are allowed"], repeat)
    times = Times.of(timers, rounds, repeat)
    rows = [
        (name, times.above_null(f"without {name}"), times.above(f"with {name}", f"without {name}"))
        for name in (*KNOWN, *UNKNOWN, ERROR)
    ]
    return Table(
        "Packets where flows are followed",
        "Ten rules, warm: ns above null without allow.established, and by how much more with it. What belongs to a "
        "flow passes before any rule is looked for.",
        ("packet", "without", "with, more"),
        rows,
    )


def _sent(following: Generation, rounds: int, repeat: int) -> Table:
    assert following.egress is not None
    frames = SENT | {NOT_IP: bytes(12) + b"\x88\xb5" + bytes(46)}
    times = Times.of({name: timer(following.egress, frame, repeat) for name, frame in frames.items()}, rounds, repeat)
    return Table(
        "Packets that are sent",
        "The program at the way out, warm: ns above what it takes for a frame that is not IP.",
        ("packet", "ns"),
        [(name, times.above(name, NOT_IP)) for name in SENT],
    )


def _nth(number: int, base: Ends = V4) -> Ends:
    return base._replace(there=base.there + number)


def _shots() -> Table:
    """Durations as the kernel has them, of one run each."""
    with _load(established=False) as without, _load(established=True) as following:
        for number in range(FLOWS):
            following.send(_nth(number).sent(flags=ACK))
        chosen = random.Random(1).sample(range(FLOWS), SHOTS)
        rows = []
        for name, shift in (("of a flow", 0), ("of no flow", FLOWS)):
            found: dict[str, list[int]] = {"without": [], "with": []}
            for number in chosen:
                frame = _nth(number + shift).received("udp" if shift else "tcp").ljust(MIN_FRAME_BYTES, b"\0")
                found["without"].append(without.run(frame).duration_ns)
                found["with"].append(following.run(frame).duration_ns)
            base = statistics.median(found["without"])
            rows.append((name, base, statistics.median(found["with"]) - base))
    return Table(
        f"Single shots, {FLOWS:,} flows",
        f"{SHOTS:,} packets, each of another flow: ns of a run without allow.established, and by how much more with "
        "it, medians.",
        ("packet", "without", "with, more"),
        rows,
    )
