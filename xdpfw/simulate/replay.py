# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture, packet by packet, through a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xdpfw.packet.capture import CapturedFrame, read_capture
from xdpfw.reference.interpreter import Decision
from xdpfw.reference.memory import START, Instant
from xdpfw.simulate.decider import Decider


@dataclass(frozen=True, slots=True)
class Replayed:
    """``decision`` is None where the packet has no Ethernet equivalent, so that no rule can be asked.

    ``is_late``: the packet's time is before that of an earlier one, which it was decided at.
    """

    captured: CapturedFrame
    decision: Decision | None
    is_late: bool = False

    def to_json(self) -> dict[str, Any]:
        """The shape that SPEC fixes; all but ``n`` null where there is no decision."""
        decision = self.decision
        return {
            "n": self.captured.number,
            "verdict": decision and decision.verdict,
            "rule": decision and decision.rule,
            "reason": decision and decision.kind,
            "detail": decision and decision.reason,
        }


@dataclass(slots=True)
class Totals:
    """``packets`` are those that were decided; each is once in ``verdicts`` and ``reasons``, and in ``rules`` at most.

    ``reasons`` are coarse, ``details`` fine; ``skipped`` counts by link type what has no Ethernet equivalent,
    ``cut`` the packets, among those decided, of which the capture has only the beginning, ``late`` those whose time
    is before that of an earlier one.
    """

    packets: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    skipped: Counter[int] = field(default_factory=Counter)
    cut: int = 0
    late: int = 0

    def add(self, replayed: Replayed) -> None:
        decision = replayed.decision
        if decision is None:
            self.skipped[replayed.captured.link_type] += 1
            return
        self.packets += 1
        self.cut += replayed.captured.cut
        self.late += replayed.is_late
        self.verdicts[decision.verdict.value] += 1
        self.reasons[decision.kind] += 1
        self.details[decision.reason] += 1
        if decision.rule is not None:
            self.rules[decision.rule] += 1

    def to_json(self) -> dict[str, Any]:
        """The shape that SPEC fixes. What no packet met is left out."""
        return {
            "packets": self.packets,
            "verdicts": dict(self.verdicts),
            "rules": dict(self.rules),
            "reasons": dict(self.reasons),
            "details": dict(self.details),
            "skipped": self.skipped.total(),
            "cut": self.cut,
            "late": self.late,
        }


class CaptureClock:
    """The time that a capture drives: its own on the wall, and an hour after boot at its first packet."""

    def __init__(self) -> None:
        self._first_ns: int | None = None
        self._latest_ns = 0

    def advance(self, time_ns: int) -> bool:
        """Goes on to a packet's time, in ns since 1970. Never goes back: False, where that time is over."""
        if self._first_ns is None:
            self._first_ns = self._latest_ns = time_ns
        is_over = time_ns < self._latest_ns
        self._latest_ns = max(self._latest_ns, time_ns)
        return not is_over

    @property
    def now(self) -> Instant:
        return Instant(START.boot_ns + self._latest_ns - (self._first_ns or 0), self._latest_ns)


def replay(capture: Path, decider: Decider, interface: int = 0) -> Iterator[Replayed]:
    """Decides on each packet as if it came in on the policy's interface of this number, at the time of its capture.

    Raises PolicyError where the capture is cut short or is none, after the packets before; KernelError.
    """
    clock = CaptureClock()
    for captured in read_capture(capture):
        is_late = not clock.advance(captured.time_ns)
        decision = None if captured.frame is None else decider.decide(captured.frame, interface, clock.now)
        yield Replayed(captured, decision, is_late)
