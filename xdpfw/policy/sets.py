# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets: their entries, from the policy or from a file of one entry a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import values
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses
from xdpfw.policy.entries import Entries, lines, parse_entry
from xdpfw.policy.problems import Place
from xdpfw.policy.values import NotationError, SetName, Span

MAX_ERRORS_PER_FILE: Final = 20


@dataclass(slots=True)
class LoadedSet:
    """``prefixes`` for ``kind`` prefix, ``ports`` in order of the text for kind port.

    ``file`` is the one that the entries are from, None for entries of the policy itself. A dynamic set has none of
    either; ``size`` None is the default, ``timeout_ns`` None for good.
    """

    name: str
    kind: str
    place: Place
    file: str | None = None
    prefixes: Entries = field(default_factory=lambda: Entries.of(()))
    ports: list[Span] = field(default_factory=list)
    is_dynamic: bool = False
    size: int | None = None
    timeout_ns: int | None = None

    @property
    def entries(self) -> int:
        """How many are written."""
        return self.prefixes.count + len(self.ports)

    def add_elements(self, elements: Sequence[object], errors: list[PolicyError]) -> None:
        """Entries from the policy itself. What is wrong with them goes to ``errors``."""
        prefixes: list[Addresses] = []
        for index, element in enumerate(elements):
            try:
                if self.kind == "port":
                    self.ports.append(_port(element))
                else:
                    prefixes.append(parse_entry(values.text_of(element)))
            except NotationError as problem:
                errors.append(self._error(problem, self.place.position("elements", index), "element "))
        self.prefixes = Entries.of(prefixes)

    def add_text(self, text: str, errors: list[PolicyError]) -> None:
        """Entries from the text of ``file``. What is wrong with them goes to ``errors``."""
        try:
            self.prefixes = Entries.read(text)
        except NotationError:
            errors += self._errors_in(text)

    def _errors_in(self, text: str) -> Iterator[PolicyError]:
        assert self.file is not None
        wrong = 0
        for line, column, entry in lines(text):
            try:
                parse_entry(entry)
            except NotationError as problem:
                wrong += 1
                if wrong > MAX_ERRORS_PER_FILE:
                    more = NotationError(f"more lines are wrong; these are the first {MAX_ERRORS_PER_FILE}")
                    yield self._error(more, Position(self.file, line, 1))
                    return
                yield self._error(problem, Position(self.file, line, column))

    def _error(self, problem: NotationError, position: Position, what: str = "") -> PolicyError:
        return PolicyError(f"{self.place.subject}: {what}{problem.message}", position, hint=problem.hint)


def set_notes(sets: Iterable[LoadedSet]) -> list[str]:
    """Lines about the files of sets: those without entries, and those with every address of a family."""
    from_files = [each for each in sets if each.file is not None]
    return [*_empty_files(from_files), *_whole_families(from_files)]


def _empty_files(sets: Iterable[LoadedSet]) -> Iterator[str]:
    """A set without elements is meant so; one whose file has none may have lost them."""
    for each in sets:
        if not each.entries:
            yield f"set {each.name} is empty: {each.file} has no entries"


def _whole_families(sets: Iterable[LoadedSet]) -> Iterator[str]:
    """A list of others has an entry such as 0.0.0.0/0 by mistake."""
    for each in sets:
        table = each.prefixes.table
        for family, bits, ranges in (("IPv4", V4_BITS, table.v4), ("IPv6", V6_BITS, table.v6)):
            if len(ranges) == 1 and table.spans(bits) == [(0, (1 << bits) - 1)]:
                yield f"set {each.name} has every {family} address: an entry of {each.file} is too wide"


def _port(element: object) -> Span:
    found = values.port(element)
    if isinstance(found, SetName):
        raise NotationError(f"@{found} is a set within a set", hint="list both sets in the rule")
    return found
