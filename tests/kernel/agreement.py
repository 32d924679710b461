# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy in the kernel beside the reference: every frame through both; counters, events and grants at the end."""

from __future__ import annotations

import contextlib
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from ipaddress import ip_network

from tests.kernel.told import Told
from tests.policies import INTERFACES
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy, numbered_sets
from xdpfw.compiler.knocks import identity
from xdpfw.kernel import abi
from xdpfw.kernel.flows import FlowTable
from xdpfw.kernel.members import MemberSet, keys_of, prefixes_of
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import State
from xdpfw.kernel.testrun import ETHERNET_HEADER_BYTES, LOOPBACK, Outcome
from xdpfw.knock.keys import fingerprint
from xdpfw.packet.notation import describe, parse_packet
from xdpfw.reference.interpreter import Decision, evaluate, note_sent
from xdpfw.reference.memory import START, Instant, Member, MemberKey, Memory

IPV6_BYTES = b"\x86\xdd"

FIRST_IFINDEX = 1000
"""Of the policy's interfaces. Test runs come in on ``lo``, which then stands for one of them."""


@dataclass
class Agreement:
    """Runs frames, raises AssertionError where kernel and reference part."""

    policy: ir.Policy
    generation: Generation
    packets: Tally[tuple[str, str | int]] = field(default_factory=Tally)
    bytes: Tally[tuple[str, str | int]] = field(default_factory=Tally)
    execute: Callable[[bytes, int | None], Outcome] | None = None  # in place of Generation.run; knows no time
    memory: Memory = field(default_factory=Memory)
    now: Instant = START
    left: bytes = b""  # the last frame, as it left the program
    views: tuple[str, ...] = ("packets", "bytes")  # that check_counters looks at
    told: Told = field(init=False)

    def __post_init__(self) -> None:
        self.told = Told(self.policy)

    def run(self, packet: bytes | str, interface: int | None = 0) -> Decision:
        """Decides a frame, or a packet in the notation. Returns what both say."""
        frame = parse_packet(packet) if isinstance(packet, str) else packet
        expected = evaluate(self.policy, frame, interface, memory=self.memory, now=self.now)
        outcome = (self.execute or self._run)(frame, interface)
        found = (
            outcome.verdict,
            outcome.reason,
            None if outcome.rule is None else self.policy.rules[outcome.rule].name,
            outcome.frame,
        )
        # What an answer to a SYN is like, only the kernel knows: tests/kernel/test_syn_cookies.py looks at it.
        left = outcome.frame if expected.reason == "protect.syn_cookie" else self._changed(frame, expected)
        wanted = (str(expected.verdict), expected.reason, expected.rule, left)
        assert found == wanted, self._report(frame, interface, found, wanted)
        self._note(frame, interface, expected)
        self.told.add(frame, interface, expected, self.memory, self.now)
        self.left = outcome.frame
        return expected

    def send(self, packet: bytes | str) -> None:
        """Has the firewall's own side send a frame, or a packet in the notation."""
        frame = parse_packet(packet) if isinstance(packet, str) else packet
        note_sent(self.policy, frame, memory=self.memory, now=self.now)
        self.generation.send(frame, boot_ns=self.now.boot_ns)

    def wait(self, ns: int) -> None:
        """Lets time go by, on both clocks."""
        self.now = self.now.after(ns)

    def put(self, name: str, *prefixes: str, until_ns: int | None = None) -> None:
        """Puts prefixes into a dynamic set, as an operator would."""
        state, numbers = self.generation.state, [each.name for each in numbered_sets(self.policy)]
        assert state is not None
        found = MemberSet.open(state, numbers.index(name))
        assert found is not None
        networks = [ip_network(prefix) for prefix in prefixes]
        keys = [
            MemberKey(
                ir.Family.IPV4 if each.version == 4 else ir.Family.IPV6, int(each.network_address), each.prefixlen
            )
            for each in networks
        ]
        with found:
            added = found.add(keys_of(keys), until_ns or 0, self.now.boot_ns)
        assert not added.refused.any()
        members = self.memory.members.setdefault(name, {})
        for key in keys:
            held = members.get(key)
            added_ns = self.now.boot_ns if held is None or held.is_over(self.now) else held.added_ns
            members[key] = Member(until_ns, added_ns)

    def forget(self) -> None:
        """Begins with a new state. Counters count on."""
        self.memory = Memory()
        self.generation.forget()

    def _run(self, frame: bytes, interface: int | None) -> Outcome:
        return self.generation.run(frame, interface, boot_ns=self.now.boot_ns, wall_ns=self.now.wall_ns)

    def check_counters(self) -> None:
        """Every counter of reasons, rules and interfaces is what the decisions so far add up to."""
        reasons, rules = self.generation.counters()
        found = {("reason", abi.reason_name(number)): counter for number, counter in enumerate(reasons)}
        found |= {("rule", rule.name): counter for rule, counter in zip(self.policy.rules, rules, strict=True)}
        for index, row in enumerate(self.generation.interface_verdicts()):
            for verdict, counter in zip(abi.Verdict, row, strict=True):
                found[f"interface {index}", verdict.name.lower()] = counter
        for view in self.views:
            counted: Tally[tuple[str, str | int]] = getattr(self, view)
            assert {key: getattr(c, view) for key, c in found.items() if getattr(c, view)} == +counted, view

    def check_knocks(self) -> None:
        """Every event, every count of a knock, every grant and last time is what the reference has."""
        state = self.generation.state
        if state is None or self.execute is not None:
            return
        with state.kernel_ring() as ring:
            found, _, lost = ring.read(ring.oldest)
        assert (found, lost) == (self.told.records[-abi.Limit.EVENT_SLOTS :], 0)
        assert {kind: count for kind, count in state.suppressed().items() if count} == self.told.suppressed()
        assert self.generation.knock_counters() == self.told.counters()
        grants = {grant[:6]: (grant.until_ns, grant.key, grant.key_number) for grant in state.list_grants()}
        assert grants == dict(_as_kept(self.memory))
        members = {name: members for name, members in self.memory.members.items() if members}
        assert dict(_members(state, self.policy)) == members
        times = {time.fingerprint: time.last_wall_ns for time in state.list_spa_times() if time.last_wall_ns}
        wanted = {fingerprint(key): last for key, last in self.memory.spa_last_wall_ns.items() if last}
        assert times == wanted

    def check_flows(self) -> None:
        """The live flows are those that the reference has, each as far and as long."""
        state = self.generation.state
        if state is None or self.generation.egress is None or self.execute is not None:
            return
        found = {
            flow[:6]: (flow.state.name.removeprefix("FLOW_"), *flow[9:])
            for flow in FlowTable(state).live(self.now.boot_ns)
        }
        wanted = {
            (int(key.family), key.proto, key.remote, key.remote_port, key.local, key.local_port): (
                flow.state.name,
                flow.until_ns,
                flow.expected_ack,
            )
            for key, flow in self.memory.flows.items()
            if flow.until_ns > self.now.boot_ns
        }
        assert found == wanted

    def counted(self, rule: str) -> int:
        """Packets that the kernel has counted for a rule."""
        numbers = {each.name: number for number, each in enumerate(self.policy.rules)}
        return self.generation.counters()[1][numbers[rule]].packets

    def _changed(self, frame: bytes, decision: Decision) -> bytes:
        """The frame as it must leave the program."""
        dst, src = frame[:6], frame[6:12]
        if decision.verdict is ir.Verdict.TX:
            dst, src = src, dst
        elif decision.verdict is ir.Verdict.REDIRECT:
            action = next(rule.action for rule in self.policy.rules if rule.name == decision.rule)
            if action.kind is ir.ActionKind.ROUTE:
                return one_hop_further(frame)
            dst = dst if action.dst_mac is None else action.dst_mac.to_bytes(6, "big")
            src = src if action.src_mac is None else action.src_mac.to_bytes(6, "big")
        return dst + src + frame[12:]

    def _note(self, frame: bytes, interface: int | None, decision: Decision) -> None:
        if len(frame) < ETHERNET_HEADER_BYTES:
            return  # no test run takes it, so that nothing is counted
        column = abi.Absent.NO_INTERFACE if interface is None else interface
        keys: list[tuple[str, str | int]] = [
            (f"interface {int(column)}", str(decision.verdict)),
            ("reason", decision.reason) if decision.rule is None else ("rule", decision.rule),
            *(("rule", name) for name in decision.counted),
        ]
        for key in keys:
            self.packets[key] += 1
            self.bytes[key] += len(frame)

    def _report(self, frame: bytes, interface: int | None, found: object, wanted: object) -> str:
        """All that it takes to see it again."""
        rules = "\n".join(
            f"    {rule.name}: {_conditions(rule.match)} except {_conditions(rule.unless)}: {rule.action}"
            for rule in self.policy.rules
        )
        return (
            f"\n  kernel:    {found}\n  reference: {wanted}\n  interface: {interface}\n  packet:    {describe(frame)}"
            f"\n  frame:     {frame.hex()}\n  default {self.policy.default}, invalid {self.policy.invalid}, "
            f"{self.policy.allow}, rules:\n{rules}"
        )


def _conditions(match: ir.Match | None) -> str:
    if match is None:
        return "nothing"
    found = ((condition.name, getattr(match, condition.name)) for condition in fields(match))
    return f"Match({', '.join(f'{name}={value!r}' for name, value in found if value is not None)})"


def one_hop_further(frame: bytes) -> bytes:
    """With a smaller TTL and the IPv4 checksum that goes with it (RFC 1624, equation 3); MAC addresses stay."""
    changed = bytearray(frame)
    if frame[12:14] == IPV6_BYTES:
        changed[ETHERNET_HEADER_BYTES + 7] -= 1
        return bytes(changed)
    before, after = (int.from_bytes(frame[22:24]) - step for step in (0, 0x100))
    total = (~int.from_bytes(frame[24:26]) & 0xFFFF) + (~before & 0xFFFF) + after
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    changed[22:26] = after.to_bytes(2) + (~total & 0xFFFF).to_bytes(2)
    return bytes(changed)


def _as_kept(memory: Memory) -> Iterator[tuple[tuple[int, ...], tuple[int, int, int]]]:
    """Grants as the kernel's map has them: by family, prefix, its bits, knock, protocol and port."""
    for key, grant in memory.grants.items():
        where = (int(key.family), key.prefix, key.prefix_bits, identity(key.knock), *key.service)
        by = (fingerprint(grant.key.key), grant.key.number) if grant.key else (0, 0)
        yield where, (grant.until_ns, *by)


def _members(state: State, policy: ir.Policy) -> Iterator[tuple[str, dict[MemberKey, Member]]]:
    """What the kernel has in each dynamic set that has any members; test runs have each in the slot of its number."""
    for slot, each in enumerate(numbered_sets(policy)):
        found = MemberSet.open(state, slot)
        assert found is not None
        with found:
            keys, members = found.read()
            if len(keys):
                yield (
                    each.name,
                    {
                        MemberKey(ir.Family(prefix.family), prefix.address, prefix.bits): Member(
                            until_ns or None, added_ns
                        )
                        for prefix, (until_ns, added_ns, *_) in zip(prefixes_of(keys), members.tolist(), strict=True)
                    },
                )


@contextlib.contextmanager
def agreement(policy: ir.Policy) -> Iterator[Agreement]:
    """Loads the policy; checks all counters and what is kept of knocks at the end. Redirects go to ``lo``."""
    image = compile_policy(policy)
    ifindexes = [FIRST_IFINDEX + index for index in range(len(INTERFACES))]
    targets = [LOOPBACK] * len(image.targets)
    with Generation.load(image, interfaces=ifindexes, targets=targets, trace=True) as generation:
        both = Agreement(policy, generation)
        yield both
        both.check_counters()
        both.check_knocks()
        both.check_flows()
