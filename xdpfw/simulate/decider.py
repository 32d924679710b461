# SPDX-License-Identifier: GPL-2.0-or-later
"""Who decides on a frame: the program in the kernel, or the reference interpreter. Both answer alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from xdpfw.compiler import ir
from xdpfw.compiler.image import MapImage, compile_policy
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.decode import MAX_VLAN_TAGS
from xdpfw.reference.interpreter import Decision, evaluate, note_sent
from xdpfw.reference.memory import START, Instant, Memory

DECIDING_BYTES: Final = 14 + 4 * MAX_VLAN_TAGS + ir.MAX_IP_LENGTH
"""More of a frame changes no decision: no header can claim bytes behind these. Test runs take a little more."""


class Decider(Protocol):
    """Has a memory: what came before decides on what comes. The time is what ``now`` says, and never the machine's."""

    def decide(self, frame: bytes, interface: int | None = 0, now: Instant = START) -> Decision:
        """What becomes of an Ethernet frame (no FCS) that arrives on the policy's interface of this number.

        ``interface`` None is one that the policy does not name. ``Decision.counted`` may be empty: see ``counted``;
        and so may be ``Decision.events``.
        """

    def sent(self, frame: bytes, now: Instant = START) -> None:
        """Takes in that the firewall's own side sends an Ethernet frame through an interface of the policy."""

    def forget(self) -> None:
        """From here on it is as if no packet had come before. What was counted stays."""

    def counted(self) -> dict[str, int]:
        """By name, how many frames each ``count`` rule has matched so far."""


class ReferenceDecider:
    """The reference interpreter: slow, and in need of no privileges."""

    def __init__(self, policy: ir.Policy) -> None:
        self._policy = policy
        self._memory = Memory()
        self._counted: Counter[str] = Counter()

    def decide(self, frame: bytes, interface: int | None = 0, now: Instant = START) -> Decision:
        decision = evaluate(self._policy, frame, interface, memory=self._memory, now=now)
        self._counted.update(decision.counted)
        return decision

    def sent(self, frame: bytes, now: Instant = START) -> None:
        note_sent(self._policy, frame, memory=self._memory, now=now)

    def forget(self) -> None:
        self._memory = Memory()

    def counted(self) -> dict[str, int]:
        return {rule.name: self._counted[rule.name] for rule in _count_rules(self._policy)}


class KernelDecider:
    """The program in the kernel, by test runs of a generation that is loaded for this and attached to nothing."""

    def __init__(self, policy: ir.Policy, generation: Generation) -> None:
        self._rules = policy.rules
        self._generation = generation

    def decide(self, frame: bytes, interface: int | None = 0, now: Instant = START) -> Decision:
        verdict, reason, number, _, _ = self._generation.run(
            frame[:DECIDING_BYTES], interface, boot_ns=now.boot_ns, wall_ns=now.wall_ns
        )
        assert reason is not None
        if number is None:
            return Decision(ir.Verdict(verdict), reason)
        rule, found = self._rules[number], ir.Verdict(verdict)
        return Decision(found, reason, rule.name, rule.action.interface if found is ir.Verdict.REDIRECT else None)

    def sent(self, frame: bytes, now: Instant = START) -> None:
        self._generation.send(frame[:DECIDING_BYTES], boot_ns=now.boot_ns)

    def forget(self) -> None:
        self._generation.forget()

    def counted(self) -> dict[str, int]:
        _, counters = self._generation.counters()
        return {
            rule.name: counter.packets
            for rule, counter in zip(self._rules, counters, strict=True)
            if rule.action.kind is ir.ActionKind.COUNT
        }


@contextmanager
def in_kernel(policy: ir.Policy, image: MapImage | None = None) -> Iterator[KernelDecider]:
    """A decider in the kernel while the context lasts. ``image`` saves compiling the policy once more.

    Redirects need a target that exists: ``lo`` stands in for all, as no frame is sent. Raises CapacityError,
    KernelError.
    """
    image = image or compile_policy(policy)
    targets = [LOOPBACK] * len(image.targets)
    with Generation.load(image, interfaces=[], targets=targets, trace=True) as generation:
        yield KernelDecider(policy, generation)


def _count_rules(policy: ir.Policy) -> list[ir.Rule]:
    return [rule for rule in policy.rules if rule.action.kind is ir.ActionKind.COUNT]
