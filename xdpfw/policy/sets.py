# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets: their entries, from the policy or from a file of one entry a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import values
from xdpfw.policy.addresses import V4_BITS, parse_addresses
from xdpfw.policy.problems import Place
from xdpfw.policy.values import NotationError, SetName, Span

MAX_ERRORS_PER_FILE: Final = 20


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """``v4`` and ``v6`` (host-order integers) for ``kind`` prefix, ``ports`` for kind port; in order of the text.

    ``file`` is the one that the entries are from, None for entries of the policy itself.
    """

    name: str
    kind: str
    place: Place
    file: str | None = None
    v4: list[tuple[int, int]] = field(default_factory=list)
    v6: list[tuple[int, int]] = field(default_factory=list)
    ports: list[Span] = field(default_factory=list)

    @property
    def entries(self) -> int:
        return len(self.v4) + len(self.v6) + len(self.ports)

    def add_elements(self, elements: Sequence[object], errors: list[PolicyError]) -> None:
        """Entries from the policy itself. What is wrong with them goes to ``errors``."""
        for index, element in enumerate(elements):
            try:
                if self.kind == "port":
                    self.ports.append(_port(element))
                else:
                    self._add_prefix(values.text_of(element))
            except NotationError as problem:
                errors.append(self._error(problem, self.place.position("elements", index), "element "))

    def add_lines(self, text: str, file: str, errors: list[PolicyError]) -> None:
        """Entries from a file: one a line, comments behind ``#`` and ``;``."""
        wrong = 0
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            entry = line.strip()
            if not entry or entry[0] in "#;":
                continue
            if "#" in entry or ";" in entry:
                entry = entry.partition("#")[0].partition(";")[0].rstrip()
            try:
                self._add_prefix(entry)
            except NotationError as problem:
                wrong += 1
                if wrong > MAX_ERRORS_PER_FILE:
                    more = NotationError(f"more lines are wrong; these are the first {MAX_ERRORS_PER_FILE}")
                    errors.append(self._error(more, Position(file, number, 1)))
                    return
                column = len(line) - len(line.lstrip()) + 1
                errors.append(self._error(problem, Position(file, number, column)))

    def _error(self, problem: NotationError, position: Position, what: str = "") -> PolicyError:
        return PolicyError(f"{self.place.subject}: {what}{problem.message}", position, hint=problem.hint)

    def _add_prefix(self, text: str) -> None:
        if text[:1] == "@":
            raise NotationError(f"{values.shown(text)} is a set within a set", hint="list both sets in the rule")
        bits, low, high = parse_addresses(text)
        (self.v4 if bits == V4_BITS else self.v6).append((low, high))


def _port(element: object) -> Span:
    found = values.port(element)
    if isinstance(found, SetName):
        raise NotationError(f"@{found} is a set within a set", hint="list both sets in the rule")
    return found
