# SPDX-License-Identifier: GPL-2.0-or-later
"""What dynamic sets cost: bans, sets that rules ask for, sources that rules put in; and the command that fills them."""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bench import commands
from bench.report import Table
from bench.subjects import TEN_RULES_FILE, ten_rules
from bench.timing import Times, timer
from tests import frames
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.members import MemberSet, keys_of
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import NS_PER_S, boot_ns
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

Say = Callable[[str], None]
Prefix = tuple[abi.Family, int, int]

RULE: Final = "web"
V4: Final = "tcp {}:40000 > 203.0.113.1:443 A"
V6: Final = "tcp [{}]:40000 > [2001:db8::1]:443 A"
SOURCE: Final = {"IPv4": "192.0.9.7", "IPv6": "2001:db8::7"}
PACKETS: Final = {"IPv4": V4.format(SOURCE["IPv4"]), "IPv6": V6.format(SOURCE["IPv6"])}
MEMBERS: Final = 20_000
ENTRIES: Final = 200_000
SHOTS: Final = 2000
SEEN: Final = "seen"


def _far(count: int) -> list[Prefix]:
    """Addresses that share their first 16 bits with none of the packets."""
    drawn = random.Random(1)
    v4 = [(abi.Family.IPV4, 0x0A000000 | address, 32) for address in drawn.sample(range(1 << 24), count // 2)]
    return v4 + [(abi.Family.IPV6, 0x2A << 120 | drawn.getrandbits(64), 128) for _ in range(count // 2)]


def _near() -> list[Prefix]:
    """The neighbours of the packets' sources."""
    return [
        (abi.Family.IPV4, int(IPv4Address(SOURCE["IPv4"])) ^ 1, 32),
        (abi.Family.IPV6, int(IPv6Address(SOURCE["IPv6"])) ^ 1, 128),
    ]


def _near_at_all_lengths() -> list[Prefix]:
    """One of each length from 8 bits on, that holds a neighbour of the sources and not them."""
    found = []
    for name, family, bits in (("IPv4", abi.Family.IPV4, 32), ("IPv6", abi.Family.IPV6, 128)):
        source = int((IPv4Address if bits == 32 else IPv6Address)(SOURCE[name]))
        found += [(family, (source >> bits - length ^ 1) << bits - length, length) for length in range(8, bits + 1)]
    return found


def _themselves() -> list[Prefix]:
    return [(family, address ^ 1, bits) for family, address, bits in _near()]


BANS: Final[dict[str, Callable[[], list[Prefix]]]] = {
    "none": list,
    f"{MEMBERS:,} addresses, none near": lambda: _far(MEMBERS),
    f"{MEMBERS:,} and the neighbour": lambda: _far(MEMBERS) + _near(),
    "25 IPv4 and 121 IPv6 lengths near": _near_at_all_lengths,
    "the source, and it is dropped": lambda: _far(MEMBERS) + _themselves(),
}


def _policy(*, asks: bool = False, adds: bool = False, never: bool = False) -> ir.Policy:
    """Ten rules; without state of flows, which would decide before them."""
    policy = ten_rules()
    add_to = ir.AddTo(SEEN, 3600 * NS_PER_S) if adds else None
    rules = tuple(replace(rule, add_to=add_to) if rule.name == RULE else rule for rule in policy.rules)
    if asks:
        match = ir.Match(src=ir.AddressRanges(dynamic=(SEEN,)))
        rules = (ir.Rule("asks", match, ir.Action(ir.ActionKind.DROP)), *rules)
    return replace(
        policy,
        rules=rules,
        allow=replace(policy.allow, established=False, fragments=False),
        dynamic_sets=(ir.DynamicSet(SEEN, 1 << 18),),
        never_ban=ir.AddressRanges(v4=(ir.Range(0x0A000000, 0x0AFFFFFF),)) if never else None,
    )


def _load(policy: ir.Policy, members: list[Prefix] | None = None, slot: int = 0) -> Generation:
    """``members`` of the set with this number, which is its slot."""
    generation = Generation.load(compile_policy(policy), interfaces=[LOOPBACK], targets=[])
    assert generation.state is not None
    found = MemberSet.open(generation.state, slot)
    assert found is not None
    with found:
        found.add(keys_of(members or ()), 0, boot_ns())
    return generation


def measure(rounds: int, repeat: int, say: Say) -> Iterator[Table]:
    say("bans")
    yield _bans(rounds, repeat)
    say("sets in rules")
    yield _sets(rounds, repeat)
    say("commands")
    yield _commands(rounds, say)


def _times(generations: dict[str, Generation], rounds: int, repeat: int) -> Times:
    timers = {
        f"{name} {family}": timer(generation.program, parse_packet(packet), repeat)
        for name, generation in generations.items()
        for family, packet in PACKETS.items()
    }
    return Times.of(timers, rounds, repeat)


def _bans(rounds: int, repeat: int) -> Table:
    with contextlib.ExitStack() as loaded:
        generations = {name: loaded.enter_context(_load(_policy(), made())) for name, made in BANS.items()}
        times = _times(generations, rounds, repeat)
    return Table(
        "Bans",
        "Ten rules, warm: ns above null. A source is near a ban that shares its first 16 bits (of IPv6, the XOR of its "
        "first and second 16 bits).",
        ("bans", *PACKETS),
        [(name, *(times.above_null(f"{name} {family}") for family in PACKETS)) for name in BANS],
    )


def _sets(rounds: int, repeat: int) -> Table:
    subjects = {
        "no set": (_policy(), []),
        "a rule asks, nothing is near": (_policy(asks=True), _far(MEMBERS)),
        "a rule asks, the neighbour is in": (_policy(asks=True), _far(MEMBERS) + _near()),
        "a rule asks, the source is in": (_policy(asks=True), _far(MEMBERS) + _themselves()),
        "a rule adds, the source is in": (_policy(adds=True), _far(MEMBERS)),
    }
    with contextlib.ExitStack() as loaded:
        generations = {
            name: loaded.enter_context(_load(policy, members, 1)) for name, (policy, members) in subjects.items()
        }
        times = _times(generations, rounds, repeat)
        newcomers = _newcomers(generations["no set"], generations["a rule adds, the source is in"])
    rows: list[tuple[str | float | None, ...]] = [
        (name, *(times.above_null(f"{name} {family}") for family in PACKETS)) for name in subjects
    ]
    return Table(
        "Dynamic sets in rules",
        f"Ten rules, warm: ns above null. Newcomers: {SHOTS:,} IPv4 sources, each once: ns above the same shot at the "
        "same rule without add_to.",
        ("set", *PACKETS),
        [*rows, ("a rule adds newcomers", newcomers, None)],
    )


def _newcomers(without: Generation, adding: Generation) -> float:
    sources = random.Random(2).sample(range(0x80000000, 0xBF000000), SHOTS)
    packets = [frames.v4_frame(frames.tcp(40000, 443), src=source).ljust(60, b"\0") for source in sources]
    found: list[tuple[int, int]] = [
        (adding.run(packet).duration_ns, without.run(packet).duration_ns) for packet in packets
    ]
    with_set, bare = ([times[number] for times in found] for number in (0, 1))
    return float(statistics.median(with_set) - statistics.median(bare))


def _commands(rounds: int, say: Say) -> Table:
    drawn = random.Random(3)
    addresses = drawn.sample(range(1 << 31), ENTRIES)
    with commands.place() as (directory, options):
        policy = directory / "policy.yaml"
        policy.write_text(TEN_RULES_FILE.read_text(encoding="utf-8").replace("eth0:", "fw0:"), encoding="utf-8")
        file = directory / "addresses"
        file.write_text("\n".join(str(IPv4Address(address)) for address in addresses) + "\n", encoding="ascii")
        asked = {
            f"ban --file, {ENTRIES:,} new": ("ban", "--file", str(file)),
            f"ban --file, {ENTRIES:,} there already": ("ban", "--file", str(file), "--timeout", "1h"),
            f"ban, one, beside {ENTRIES:,}": ("ban", "203.0.113.77"),
            f"unban, one, beside {ENTRIES:,}": ("unban", "203.0.113.77"),
            f"bans --json, {ENTRIES:,}": ("bans", "--json"),
            f"unban --file, {ENTRIES:,}": ("unban", "--file", str(file)),
            "ban, one": ("ban", "203.0.113.77"),
            "unban, one": ("unban", "203.0.113.77"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in asked}
        commands.run(("apply", str(policy), *options))
        try:
            for number in range(min(rounds, 3)):
                for name, arguments in asked.items():
                    say(f"{name}, round {number + 1}")
                    taken = commands.run((*arguments, *options)).seconds
                    assert taken is not None
                    seconds[name].append(taken)
        finally:
            commands.run(("detach", options[2], options[3]))
    return Table(
        "Commands on dynamic sets",
        "Seconds that the whole command takes, its start included; medians.",
        ("command", "s"),
        [(name, statistics.median(found)) for name, found in seconds.items()],
    )
