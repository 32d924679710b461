# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies with knocks for hypothesis, and what is sent to them: few ports and sources, so that all of it meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from tests.knocking import S, end, packet_of, prefixes, udp_packet
from tests.policies import one, prefix
from tests.strategies import frame_at, policies
from xdpfw.compiler import ir
from xdpfw.knock.spa import Message, source_bytes
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.knocks import rotated
from xdpfw.reference.memory import START, Instant

Draw = Callable[[st.SearchStrategy[Any]], Any]

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
STEPS: Final = (
    *(ir.Step(protocol, port) for protocol in (TCP, UDP) for port in (7000, 7001, 7002)),
    ir.Step(ICMP, 8),
    ir.Step(ICMP, 0, 3),
    ir.Step(ICMP, 13),
    ir.Step(ICMPV6, 129, 3),
    ir.Step(ICMPV6, 200),
)
SERVICES: Final = (ir.Service(TCP, 22), ir.Service(UDP, 22), ir.Service(TCP, 443))
SPA_PORTS: Final = (62201, 62202)
ROTATION_PORTS: Final = (ir.Range(7000, 7003), ir.Range(10000, 10015), ir.Range(10000, 60000))
TIMES: Final = (1 * S, 2 * S, 5 * S)

V4_SOURCES: Final = ("198.51.100.7", "198.51.100.8", "198.51.101.7")
V6_SOURCES: Final = ("2001:db8::7", "2001:db8::8", "2001:db8:0:1::7")
V4_HOSTS: Final = ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2", "224.0.0.251", "255.255.255.255")
V6_HOSTS: Final = ("2001:db8::1", "2001:db8::1", "2001:db8::1", "2001:db8::2", "ff02::fb")


class Sent(NamedTuple):
    """A frame, the number of the interface where it comes in (None: another), and when."""

    frame: bytes
    interface: int | None
    now: Instant


def _overlap(a: ir.Step, b: ir.Step) -> bool:
    """Whether a packet may be both; the language has no such neighbours."""

    def messages(step: ir.Step) -> set[tuple[int, int]]:
        both = {(ICMP, 8): (ICMPV6, 128), (ICMP, 0): (ICMPV6, 129)}.get(step[:2], step[:2])
        return {step[:2], both}

    return bool(messages(a) & messages(b)) and (a.code == b.code or None in (a.code, b.code))


@st.composite
def sequences(draw: Draw) -> ir.Sequence:
    steps: list[ir.Step] = []
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)):
        if not steps or not _overlap(steps[-1], step):
            steps.append(step)
    within = draw(st.sampled_from(TIMES))
    return ir.Sequence(tuple(steps), within, draw(st.sampled_from([time for time in TIMES if time <= within])))


@st.composite
def rotations(draw: Draw) -> ir.Rotation:
    secret = draw(st.binary(min_size=32, max_size=32))
    every, within = draw(st.sampled_from((1 * S, 30 * S))), draw(st.sampled_from(TIMES))
    return ir.Rotation(secret, every, draw(st.sampled_from(ROTATION_PORTS)), draw(st.integers(1, 4)), within, within)


@st.composite
def spas(draw: Draw, numbers: list[int]) -> ir.Spa:
    """``numbers``: those that are left for keys. All knocks' keys differ in number, whatever their ports."""
    keys = []
    for _ in range(draw(st.integers(1, 2))):
        number = numbers.pop()
        secret = draw(st.binary(min_size=31, max_size=31)) + bytes((number % 256,))
        keys.append(ir.SpaKey(number, f"key-{number}", secret, nat=draw(st.booleans())))
    return ir.Spa(draw(st.sampled_from(SPA_PORTS)), tuple(keys), draw(st.sampled_from((1 * S, 30 * S))))


@st.composite
def knocks(draw: Draw, most: int = 4) -> tuple[ir.Knock, ...]:
    """As the language has them: ports that are steps are opened by none, and one ``except`` is enough for all."""
    numbers = [40000, 300, 7, 5, 4, 3, 2, 1]
    exempt = ir.Match(src=ir.AddressRanges(v4=(prefix(0xC6336508, 24),)))
    unless = draw(st.sampled_from((None, None, exempt, ir.Match(ttl=one(1)))))
    found: list[ir.Knock] = []
    for number in range(draw(st.integers(1, most))):
        way = draw(st.one_of(sequences(), sequences(), rotations(), spas(numbers)))
        close = draw(st.one_of(st.none(), st.none(), sequences()))
        found.append(
            ir.Knock(
                f"k{number}",
                way,
                tuple(draw(st.lists(st.sampled_from(SERVICES), min_size=1, max_size=3, unique=True))),
                draw(st.sampled_from((2 * S, 10 * S))),
                None if close == way else close,
                scope_v4=draw(st.sampled_from((32, 32, 24, 1))),
                scope_v6=draw(st.sampled_from((128, 128, 64, 65, 63, 1))),
                to=draw(st.sampled_from((None, None, None, prefixes("203.0.113.1", "2001:db8::1")))),
                unless=unless,
            )
        )
    return tuple(found)


@st.composite
def policies_with_knocks(draw: Draw, most_rules: int = 6) -> ir.Policy:
    """Rules as policies have them; some ask who has knocked, and some pass or drop what comes to a few ports."""
    policy = draw(policies(most_rules))
    held = draw(knocks())
    names = st.lists(st.sampled_from([knock.name for knock in held]), min_size=1, max_size=2, unique=True).map(tuple)
    rules = []
    for rule in policy.rules:
        what = draw(st.sampled_from(("as it is", "few ports", "few ports", "asks", "excepts")))
        match = rule.match
        if what == "few ports":
            match = ir.Match(proto=one(TCP), dport=one(draw(st.sampled_from((80, 81, 7000)))))
        elif what == "asks":
            match = replace(match, knocked=draw(names))
        unless = ir.Match(knocked=draw(names)) if what == "excepts" else rule.unless
        rules.append(replace(rule, match=match, unless=unless))
    return replace(policy, rules=tuple(rules), knocks=held)


@dataclass
class _Conversation:
    """Draws packets one after the other, and lets time go by between them."""

    draw: Draw
    policy: ir.Policy
    now: Instant = START

    def one_of(self, values: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(values))

    def wait(self) -> None:
        waits = (0, 0, 0, 0, 0, 1, 1 * S - 1, 1 * S, 1 * S + 1, 2 * S, 2 * S + 1, 5 * S, 5 * S + 1, 31 * S)
        self.now = self.now.after(self.one_of(waits))

    def run(self) -> list[str]:
        """All that a knock takes, in its order more often than not."""
        src, dst = self.ends()
        knock = self.one_of(self.policy.knocks)
        way = self.one_of([way for way in (knock.way, knock.way, knock.close) if way is not None])
        probes = [self.probe(knock, src, dst) for _ in range(self.one_of((0, 1, 2)))]
        if isinstance(way, ir.Spa):
            return [self.spa(knock, way, src, dst), *probes]
        if isinstance(way, ir.Rotation):
            way = rotated(way, self.now.wall_ns // way.every_ns + self.one_of((0, 0, 0, -1, 1, -2, 2)))
        packets = [text for step in way.steps if (text := self.step(step, src, dst))]
        match self.one_of(("right", "right", "right", "again", "left out", "swapped", "more")):
            case "again":
                packets = [text for text in packets for _ in range(self.one_of((1, 2)))]
            case "left out" if packets:
                packets.pop(self.draw(st.integers(0, len(packets) - 1)))
            case "swapped":
                packets.reverse()
            case "more":
                packets.insert(self.draw(st.integers(0, len(packets))), self.other(src, dst))
        return packets + probes

    def probe(self, knock: ir.Knock, src: str, dst: str) -> str:
        """To a port that the knock opens, of the same source more often than not."""
        service = self.one_of(knock.opens)
        src = self.one_of((src, src, src, *(V6_SOURCES if ":" in src else V4_SOURCES)))
        return packet_of(ir.Step(*service), src, dst, self.one_of(("", "", "", "frag=first", "ttl=1")))

    def ends(self) -> tuple[str, str]:
        if self.one_of((True, True, False)):
            return self.one_of(V4_SOURCES), self.one_of(V4_HOSTS)
        return self.one_of(V6_SOURCES), self.one_of(V6_HOSTS)

    def step(self, step: ir.Step, src: str, dst: str) -> str | None:
        """None: the step is of no packet of this family."""
        is_v6 = ":" in src
        if step.protocol == ICMPV6 and not is_v6:
            return None
        if step.protocol == ICMP and is_v6 and step.number not in (0, 8):
            return None
        options = self.one_of(("", "", "", "", "", "vlan=7", "options", "frag=first", "payload=00"))
        flags = self.one_of(("S", "S", "S", "S", "SEW", "SA", "A")) if step.protocol == TCP else ""
        return packet_of(step, src, dst, f"{flags} {options}".strip())

    def spa(self, knock: ir.Knock, way: ir.Spa, src: str, dst: str) -> str:
        key = self.one_of(way.keys)
        ages = (0, 0, 0, 0, -1, 1, -way.window_ns, -way.window_ns - 1, way.window_ns, way.window_ns + 1)
        message = Message(
            key_number=self.one_of((key.number,) * 8 + (key.number + 1, 0, 65535)),
            time_ns=max(0, self.now.wall_ns + self.one_of(ages)),
            nonce=7,
            source=source_bytes(self.one_of((src,) * 6 + ("192.0.2.1",))),
            service=self.one_of((0, 0, 0, len(knock.opens), len(knock.opens) + 1)),
            ttl_s=self.one_of((0, 0, 1, 65535)),
            close=self.one_of((False, False, False, True)),
        )
        payload = bytearray(message.signed(key.key))
        if self.one_of((True, *[False] * 7)):
            payload[self.draw(st.integers(0, 55))] ^= 1 << self.draw(st.integers(0, 7))
        payload = self.one_of((payload,) * 8 + (payload[:-1], payload + b"\0"))
        options = self.one_of(("", "", "", "", "vlan=7", "options", "frag=first"))
        return udp_packet(bytes(payload), src, dst, way.port, options)

    def other(self, src: str, dst: str) -> str:
        """To an opened port, to one of the rules' or to any other."""
        ports = ("tcp", 22), ("udp", 22), ("tcp", 443), ("tcp", 80), ("tcp", 81), ("tcp", 23), ("udp", 62201)
        name, port = self.one_of((*ports, *ports[:3]))
        if self.one_of((True, *[False] * 9)):
            return f"{name} {src} > {dst} frag=later"
        options = self.one_of(("", "", "", "", "frag=first", "ttl=1"))
        return f"{name} {end(src, 40000)} > {end(dst, port)} {options}".strip()

    def packets(self) -> list[str | bytes]:
        match self.one_of(("run", "run", "run", "other", "other", "any")):
            case "run":
                return list(self.run())
            case "other":
                return [self.other(*self.ends())]
            case _:
                return [self.draw(frame_at(self.policy.rules))]


@st.composite
def conversations(draw: Draw, most: int = 12) -> tuple[ir.Policy, list[Sent]]:
    """A policy with knocks, and frames in the order of their times. Each policy begins without any state."""
    conversation = _Conversation(draw, draw(policies_with_knocks()))
    sent = []
    for _ in range(draw(st.integers(1, most))):
        for packet in conversation.packets():
            conversation.wait()
            frame = parse_packet(packet) if isinstance(packet, str) else packet
            sent.append(Sent(frame, draw(st.sampled_from((0, 0, 1, None))), conversation.now))
    return conversation.policy, sent
