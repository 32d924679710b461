# SPDX-License-Identifier: GPL-2.0-or-later
"""What knocks cost: the packets that are none, with and without knocks in the policy, and those that are.

Each packet has a source of its own: one that has begun to knock makes its later drops dearer, which is a row, too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from bench.report import Cell, Table
from bench.subjects import ten_rules
from bench.timing import Timer, Times, timer
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.knocks import identity
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import Grant, SpaTime, State, boot_ns
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.knock.keys import fingerprint
from xdpfw.knock.spa import Message, source_bytes
from xdpfw.packet.notation import parse_packet

Say = Callable[[str], None]

S = 1_000_000_000
TCP, UDP = 6, 17
HOUR_NS = 3600 * S
HOST = "203.0.113.1"
KEY = bytes(range(32))
ANOTHER_KEY = bytes(range(1, 33))

SEQUENCE = ir.Sequence((ir.Step(TCP, 7000), ir.Step(UDP, 9000), ir.Step(TCP, 8000)), HOUR_NS, HOUR_NS)
SSH = ir.Knock("ssh", SEQUENCE, (ir.Service(TCP, 2222),), 30 * S)
ADMIN = ir.Knock("admin", ir.Spa(62201, (ir.SpaKey(1, "laptop", KEY),), HOUR_NS), (ir.Service(TCP, 2223),), 60 * S)
HOME = ir.Knock(
    "home",
    ir.Rotation(bytes(32), 30 * S, ir.Range(10000, 60000), 4, 10 * S, 10 * S),
    (ir.Service(TCP, 8443),),
    30 * S,
)
FORGETFUL = replace(SSH, way=replace(SEQUENCE, within_ns=0, step_ns=0))
"""In which each first step is one anew, and accepted."""

VARIANTS: dict[str, tuple[ir.Knock, ...]] = {
    "none": (),
    "sequence": (SSH,),
    "and SPA": (SSH, ADMIN),
    "and rotation": (SSH, ADMIN, HOME),
}

NO_KNOCKS = {
    "TCP, a rule by port passes": "tcp 192.0.9.7:40000 > 203.0.113.1:443 S",
    "TCP of a connection, a rule passes": "tcp 192.0.9.7:443 > 203.0.113.1:40000 A",
    "UDP, the default drops": "udp 192.0.9.8:40000 > 203.0.113.1:161",
    "UDP to a rotation's range, the default drops": "udp 192.0.9.9:40000 > 203.0.113.1:20000",
    "SYN to a rotation's range, the default drops": "tcp 192.0.9.9:40000 > 203.0.113.1:20001 S",
    "IPv6 TCP, a rule by port passes": "tcp [2001:db8::7]:40000 > [2001:db8::1]:443 S",
    "IPv6 UDP, the default drops": "udp [2001:db8::8]:40000 > [2001:db8::1]:161",
    "ARP, an allowance passes": "arp 192.0.2.7 > 192.0.2.1",
}

STEPS = {
    "step, the last one again": "tcp 198.51.100.1:40000 > 203.0.113.1:7000 S",
    "step, a wrong one": "udp 198.51.100.2:40000 > 203.0.113.1:9000",
    "drop by default after a step": "udp 198.51.100.3:40000 > 203.0.113.1:161",
    "opened port, closed": "tcp 198.51.100.4:40000 > 203.0.113.1:2222 S",
    "opened port, with a grant": "tcp 198.51.100.5:40000 > 203.0.113.1:2222 S",
}
FIRST_STEP = "tcp 198.51.100.6:40000 > 203.0.113.1:7000 S"


def spa_packets() -> dict[str, str]:
    """By what is wrong with them. ``replayed``: of the time that :func:`prepare` writes as the last one."""
    now = time.time_ns()
    good = Message(1, now + HOUR_NS // 2, 77, b"")

    def packet(address: int, message: Message, key: bytes = KEY, cut: int = 0) -> str:
        src = f"198.51.101.{address}"
        message = message if message.source else replace(message, source=source_bytes(src))
        payload = message.signed(key)
        return f"udp {src}:40000 > {HOST}:62201 payload={payload[: len(payload) - cut].hex()}"

    return {
        "SPA, malformed": packet(1, good, cut=1),
        "SPA, unknown key": packet(2, replace(good, key_number=2)),
        "SPA, replayed": packet(3, replace(good, time_ns=1)),
        "SPA, stale": packet(4, replace(good, time_ns=2)),
        "SPA, early": packet(5, replace(good, time_ns=now + 4 * HOUR_NS)),
        "SPA, another source": packet(6, replace(good, source=source_bytes("198.51.100.7"))),
        "SPA, forged": packet(7, good, ANOTHER_KEY),
    }


def prepare(state: State) -> None:
    """A grant, and a key whose last time was long ago."""
    source = int.from_bytes(source_bytes("198.51.100.5")[-4:])
    now_ns = boot_ns()
    for protocol, port in ((TCP, 2222), (0, 0)):
        state.put_grant(Grant(ir.Family.IPV4, source, 32, identity("ssh"), protocol, port, now_ns + HOUR_NS, now_ns))
    known = [each.fingerprint for each in state.list_spa_times()]
    state.write_spa_time(known.index(fingerprint(KEY)), SpaTime(fingerprint(KEY), 1))


def load(policy: ir.Policy, knocks: tuple[ir.Knock, ...]) -> Generation:
    image = compile_policy(replace(policy, knocks=knocks))
    return Generation.load(image, interfaces=[LOOPBACK], targets=[])


def run(generation: Generation, packet: str) -> None:
    generation.run(parse_packet(packet))


@contextlib.contextmanager
def timers(policy: ir.Policy, repeat: int) -> Iterator[dict[str, Timer]]:
    """Rows, by ``variant: packet``."""
    rows: dict[str, Timer] = {}
    with contextlib.ExitStack() as loaded:
        generations = {name: loaded.enter_context(load(policy, knocks)) for name, knocks in VARIANTS.items()}
        for text, packet in NO_KNOCKS.items():
            for name, generation in generations.items():
                rows[f"{name}: {text}"] = timer(generation.program, parse_packet(packet), repeat)
        for name in ("sequence", "and rotation"):
            generation = generations[name]
            for text, packet in STEPS.items():
                rows[f"{name}: {text}"] = timer(generation.program, parse_packet(packet), repeat)
            run(generation, "tcp 198.51.100.3:40000 > 203.0.113.1:7000 S")
        everything = generations["and rotation"]
        assert everything.state is not None
        prepare(everything.state)
        for text, packet in spa_packets().items():
            rows[f"and rotation: {text}"] = timer(everything.program, parse_packet(packet), repeat)
        forgetful = loaded.enter_context(load(policy, (FORGETFUL,)))
        rows["sequence: step, a first one"] = timer(forgetful.program, parse_packet(FIRST_STEP), repeat)
        yield rows


def measure(rounds: int, repeat: int, say: Say) -> Iterator[Table]:
    say("test runs")
    with timers(ten_rules(), repeat) as each:
        times = Times.of(each, rounds, repeat)
    yield _no_knock_table(times)
    yield _knock_table(times)


def _no_knock_table(times: Times) -> Table:
    none, *others = VARIANTS
    rows: list[tuple[Cell, ...]] = [
        (
            text,
            times.above_null(f"{none}: {text}"),
            *(times.above(f"{name}: {text}", f"{none}: {text}") for name in others),
        )
        for text in NO_KNOCKS
    ]
    return Table(
        "Packets that are no knock",
        "Ten rules, warm: ns above null without knocks, and by how much more with them in the policy.",
        ("packet", "without knocks", *(f"with {name}" for name in others)),
        rows,
    )


def _knock_table(times: Times) -> Table:
    rows = []
    for name in times.found:
        variant, text = name.split(": ")
        if text not in NO_KNOCKS:
            rows.append((text, variant, times.above_null(name)))
    return Table("Knocks", "Ten rules, warm, ns above null.", ("packet", "policy with", "ns"), rows)
