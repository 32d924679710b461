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
from xdpfw.simulate.decider import Decider


@dataclass(frozen=True, slots=True)
class Replayed:
    """``decision`` is None where the packet has no Ethernet equivalent, so that no rule can be asked."""

    captured: CapturedFrame
    decision: Decision | None

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
    ``cut`` the packets, among those decided, of which the capture has only the beginning.
    """

    packets: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    skipped: Counter[int] = field(default_factory=Counter)
    cut: int = 0

    def add(self, replayed: Replayed) -> None:
        decision = replayed.decision
        if decision is None:
            self.skipped[replayed.captured.link_type] += 1
            return
        self.packets += 1
        self.cut += replayed.captured.cut
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
        }


def replay(capture: Path, decider: Decider, interface: int = 0) -> Iterator[Replayed]:
    """Decides on each packet as if it came in on the policy's interface of this number.

    Raises PolicyError where the capture is cut short or is none, after the packets before; KernelError.
    """
    for captured in read_capture(capture):
        decision = None if captured.frame is None else decider.decide(captured.frame, interface)
        yield Replayed(captured, decision)
