# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a set to what an API decides, and takes nothing out that others have put there.

Every entry goes in with the time that its decision has left: a bouncer that dies leaves nothing for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from xdpfw.integrations.crowdsec import Changes, Network

NS_PER_S: Final = 1_000_000_000

SLACK_NS: Final = 5 * NS_PER_S
"""Ends that differ by less are the same: an API says what is left, and an answer with many decisions takes its time."""

RESYNC_NS: Final = 1800 * NS_PER_S
"""So often everything is asked for: what had no room may have some now, and what somebody flushed comes back."""


class Api(Protocol):
    def decisions(self, *, startup: bool) -> Changes:
        """What has changed since the last question, or everything. Raises XdpfwError."""


class Members(Protocol):
    """A set of the firewall in force. Times are ns of CLOCK_BOOTTIME. All raise XdpfwError, where none is in force."""

    def identity(self) -> object:
        """Another one where the set was made anew, and so is empty."""

    def entries(self, among: Iterable[Network] | None = None) -> Mapping[Network, int]:
        """All that have not ended, or those ``among`` these, and when each ends: 0 is never."""

    def add(self, remaining_ns: Mapping[Network, int]) -> int:
        """Adds entries, and gives those that are there this end. How many there was no room for."""

    def delete(self, networks: Iterable[Network]) -> None:
        """Passes over those that are not there."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round did. ``everything``: it asked for all decisions, not for changes; ``left`` as in ``Changes``."""

    everything: bool
    decisions: int
    added: int
    deleted: int
    refused: int
    left: Counter[str]

    @property
    def is_change(self) -> bool:
        return bool(self.added or self.deleted or self.refused)

    def to_json(self) -> dict[str, Any]:
        return {
            "all": self.everything,
            "decisions": self.decisions,
            "added": self.added,
            "deleted": self.deleted,
            "refused": self.refused,
            "left": dict(self.left),
        }


class Written(NamedTuple):
    """What became of an entry: its end, and the end that others had given it before, 0 where it was not there."""

    end_ns: int
    others_ns: int


@dataclass(slots=True)
class Bouncer:
    """``is_sole``: all entries of the set are the API's; else only those that this bouncer has written.

    What others have put into a shared set stays as it is where it lasts longer. What ends earlier is prolonged while
    the decision is in force, and then has its own end again.
    """

    api: Api
    members: Members
    is_sole: bool
    clock_ns: Callable[[], int]
    _written: dict[Network, Written] = field(default_factory=dict)
    """Of a shared set: the entries that are this bouncer's."""

    _identity: object = None
    _resync_ns: int = 0

    def round(self) -> Report:
        """Asks once and does what the answer says. Raises XdpfwError; the next round then asks for everything, as
        nobody knows what the API takes for told.
        """
        identity = self.members.identity()
        everything = identity != self._identity or self.clock_ns() >= self._resync_ns
        self._identity = None
        changes = self.api.decisions(startup=everything)
        report = self._take(changes, everything)
        self._identity = identity
        if everything:
            self._resync_ns = self.clock_ns() + RESYNC_NS
        return report

    def _take(self, changes: Changes, everything: bool) -> Report:
        held = self.members.entries(None if everything else changes.new.keys() | changes.deleted)
        unwanted = [each for each, end_ns in held.items() if each not in changes.new and self._is_own(each, end_ns)]
        wanted: dict[Network, int] = {}
        own: dict[Network, Written] = {}
        now_ns = self.clock_ns()
        for network, remaining_ns in changes.new.items():
            end_ns, held_ns = now_ns + remaining_ns, held.get(network)
            is_own = held_ns is not None and self._is_own(network, held_ns)
            others_ns = self._others_ns(network) if is_own else held_ns or 0
            if held_ns is not None and _is_same(held_ns, end_ns):
                own[network] = Written(held_ns, others_ns if is_own else 0)
            elif held_ns is None or is_own or 0 < held_ns < end_ns:
                own[network] = Written(end_ns, others_ns)
                wanted[network] = remaining_ns
        self.members.delete(unwanted)  # first, as what goes makes room for what comes
        refused = self.members.add(wanted)
        self._give_back(unwanted, now_ns)
        if not self.is_sole:
            before = {} if everything else self._written
            told = changes.new.keys() | changes.deleted
            self._written = {each: written for each, written in before.items() if each not in told} | own
        return Report(everything, len(changes.new), len(wanted) - refused, len(unwanted), refused, changes.left)

    def _is_own(self, network: Network, end_ns: int) -> bool:
        written = self._written.get(network)
        return self.is_sole or (written is not None and _is_same(end_ns, written.end_ns))

    def _others_ns(self, network: Network) -> int:
        written = self._written.get(network)
        return 0 if written is None else written.others_ns

    def _give_back(self, networks: Iterable[Network], now_ns: int) -> None:
        """What others had put in before this bouncer prolonged it, for as long as that would still last."""
        ends_ns = ((network, self._others_ns(network)) for network in networks)
        self.members.add({network: end_ns - now_ns for network, end_ns in ends_ns if end_ns > now_ns})


def _is_same(end_ns: int, other_ns: int) -> bool:
    """Whether both are the end of the same decision; never is nobody's."""
    return bool(end_ns and other_ns) and abs(end_ns - other_ns) < SLACK_NS
