# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a policy carries: packets, and what is expected of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xdpfw.compiler import ir
from xdpfw.errors import PolicyError, Position
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import Decision
from xdpfw.reference.memory import START, Instant
from xdpfw.simulate.decider import Decider

NS_PER_S = 1_000_000_000
LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""What YAML 1.1 counts as the end of a line."""


@dataclass(frozen=True, slots=True)
class ReadyStep:
    """A step with the frame that its packet stands for; None for a step that waits."""

    step: ir.TestStep
    frame: bytes | None
    interface: int


@dataclass(frozen=True, slots=True)
class ReadyCase:
    case: ir.TestCase
    steps: tuple[ReadyStep, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """``found`` is None for a step that waits, or that sends."""

    ready: ReadyStep
    found: Decision | None

    @property
    def ok(self) -> bool:
        step, found = self.ready.step, self.found
        return found is None or (step.expect in (None, found.verdict) and step.rule in (None, found.rule))

    def to_json(self) -> dict[str, Any]:
        step, found = self.ready.step, self.found
        if step.is_sent:
            return {"ok": True, "sent": step.packet, "interface": step.interface}
        if found is None:
            return {"ok": True, "wait_s": step.wait_ns / NS_PER_S}
        return {
            "ok": self.ok,
            "packet": step.packet,
            "interface": step.interface,
            "expected": {"verdict": step.expect, "rule": step.rule},
            "found": {"verdict": found.verdict, "rule": found.rule, "reason": found.kind, "detail": found.reason},
        }


@dataclass(frozen=True, slots=True)
class CaseResult:
    case: ir.TestCase
    steps: tuple[StepResult, ...]

    @property
    def ok(self) -> bool:
        return all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.case.name, "ok": self.ok, "steps": [step.to_json() for step in self.steps]}


def prepare(policy: ir.Policy, texts: Mapping[str, str]) -> tuple[ReadyCase, ...]:
    """Builds the frames of all tests. ``texts`` are the policy's files, path to text.

    Raises PolicyError where a packet's notation is wrong, with all further ones in ``others``.
    """
    errors: list[PolicyError] = []
    lines = {path: LINE_BREAK.split(text) for path, text in texts.items()}
    numbers = {interface.name: number for number, interface in enumerate(policy.interfaces)}

    def ready(step: ir.TestStep) -> ReadyStep:
        number = 0 if step.interface is None else numbers[step.interface]
        if step.packet is None:
            return ReadyStep(step, None, number)
        try:
            return ReadyStep(step, _frame(step.packet, step.position, lines), number)
        except PolicyError as error:
            errors.append(error)
            return ReadyStep(step, None, number)

    tests = tuple(ReadyCase(case, tuple(map(ready, case.steps))) for case in policy.tests)
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    return tests


def _frame(packet: str, position: Position | None, lines: Mapping[str, Sequence[str]]) -> bytes:
    """``position`` is where the value stands, its quotes included; a capture is looked for beside the policy."""
    if position is None:
        return parse_packet(packet)
    if lines[position.file][position.line - 1][position.column - 1 :].startswith(('"', "'")):
        position = replace(position, column=position.column + 1)
    return parse_packet(packet, base_dir=Path(position.file).parent, position=position)


def run(tests: Sequence[ReadyCase], decider: Decider) -> Iterator[CaseResult]:
    """Runs tests in their order, each from START on as if nothing had come before. Only a wait takes time."""
    for test in tests:
        decider.forget()
        yield CaseResult(test.case, tuple(_run(test.steps, decider)))


def _run(steps: Sequence[ReadyStep], decider: Decider) -> Iterator[StepResult]:
    for ready, now in timed(steps):
        found = None
        if ready.frame is not None and ready.step.is_sent:
            decider.sent(ready.frame, now)
        elif ready.frame is not None:
            found = decider.decide(ready.frame, ready.interface, now)
        yield StepResult(ready, found)


def timed(steps: Sequence[ReadyStep]) -> Iterator[tuple[ReadyStep, Instant]]:
    """Each step of a test with the time at which it begins."""
    now = START
    for ready in steps:
        yield ready, now
        now = now.after(ready.step.wait_ns)
