# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands do with the dynamic sets of a firewall in force: put entries in, take them out, list them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from xdpfw.addresstable import U64
from xdpfw.errors import KernelError, PolicyError, Position, UsageError
from xdpfw.kernel import abi
from xdpfw.kernel.members import Keys, MemberSet, Prefix, covers, keys_of_ranges, prefixes_of
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.ring import EventRecord
from xdpfw.kernel.sets import NeverBan, map_id
from xdpfw.kernel.state import State, boot_ns
from xdpfw.observe.metadata import DynamicSetMeta, Metadata
from xdpfw.observe.names import prefix_text
from xdpfw.policy.addresses import V4_BITS, Addresses
from xdpfw.policy.entries import Entries, lines, parse_entry
from xdpfw.policy.values import NotationError

LOCK_WAIT_S: Final = 30.0
"""Other commands change sets, too, and an ``apply`` may be under way: what a program asks for is not lost for that."""

MOST_NOTED: Final = int(abi.Limit.EVENTS_PER_SECOND)
"""Of what one command does, so many events are recorded; the last of them says how many were not."""

_NO_RULE: Final = 0xFFFFFFFF


class Entry(NamedTuple):
    """Times are ns of CLOCK_BOOTTIME; ``until_ns`` None: for good. ``by_rule``: a rule's ``add_to`` has put it in."""

    prefix: Prefix
    until_ns: int | None
    added_ns: int
    by_rule: bool

    def __str__(self) -> str:
        return prefix_text(*self.prefix)


class Added(NamedTuple):
    """How many entries are new, and were there before; ``refused``: there was no room, even though ``displaced``
    entries that rules had put in were given up.
    """

    new: int
    renewed: int
    refused: int
    displaced: int


class Deleted(NamedTuple):
    deleted: int
    missing: int


@dataclass(frozen=True, slots=True)
class LiveSet:
    """A dynamic set of an instance; only within ``opened``. What changes it needs the instance's lock."""

    meta: DynamicSetMeta
    _members: MemberSet
    _state: State
    _generation: int

    @property
    def refused(self) -> int:
        """How many sources rules would have put in, had there been room."""
        return self._members.refused

    @property
    def identity(self) -> object:
        """Another one where the set was made anew since, or has another size."""
        return map_id(self._state.dynamic_sets, self.meta.slot)

    def add(self, prefixes: Keys, timeout_ns: int | U64 | None = None) -> Added:
        """Puts prefixes in for ``timeout_ns``, or for as long as the set says; those that are in already, too.

        ``timeout_ns``: one for all, or one each; 0: for good, whatever the set says.
        """
        now_ns = boot_ns()
        if timeout_ns is None:
            timeout_ns = self.meta.timeout_ns or 0
        times_ns: U64 = np.broadcast_to(np.asarray(timeout_ns, np.uint64), len(prefixes))
        added = self._members.add(prefixes, np.where(times_ns, np.uint64(now_ns) + times_ns, np.uint64(0)), now_ns)
        self._note(abi.EventKind.EVENT_SET_ADD, prefixes[added.new], now_ns, times_ns[added.new])
        new, refused = int(added.new.sum()), int(added.refused.sum())
        return Added(new, len(prefixes) - new - refused, refused, added.displaced)

    def delete(self, prefixes: Keys) -> Deleted:
        """Takes prefixes out, each as it was put in: what is within it, or around it, stays."""
        now_ns = boot_ns()
        deleted = self._members.delete(prefixes, now_ns)
        self._note(abi.EventKind.EVENT_SET_DELETE, prefixes[deleted], now_ns)
        count = int(deleted.sum())
        return Deleted(count, len(prefixes) - count)

    def flush(self) -> int:
        """Takes all entries out, and returns how many there were."""
        now_ns = boot_ns()
        keys, _ = self._members.flush(now_ns)
        self._note(abi.EventKind.EVENT_SET_DELETE, keys, now_ns)
        return len(keys)

    def entries(self) -> list[Entry]:
        """Those whose time is not over, IPv4 first, in order of their addresses."""
        keys, members = self._members.read()
        now_ns = boot_ns()
        found = [
            Entry(prefix, until_ns or None, added_ns, origin == abi.SetOrigin.RULE)
            for prefix, (until_ns, added_ns, origin, _) in zip(prefixes_of(keys), members.tolist(), strict=True)
            if not until_ns or until_ns > now_ns
        ]
        return sorted(found)

    def ends(self, prefixes: Keys | None = None) -> list[tuple[Prefix, int]]:
        """Entries whose time is not over, those of ``prefixes`` alone if given, and when each ends: 0 for good."""
        keys, members = self._members.read() if prefixes is None else (prefixes, self._members.held(prefixes))
        ends_ns = members["until_ns"]
        is_live = (members["added_ns"] != 0) & ((ends_ns == 0) | (ends_ns > boot_ns()))
        return list(zip(prefixes_of(keys[is_live]), ends_ns[is_live].tolist(), strict=True))

    def count(self) -> int:
        return self._members.count(boot_ns())

    def _note(self, kind: abi.EventKind, keys: Keys, now_ns: int, times_ns: U64 | None = None) -> None:
        noted = prefixes_of(keys[:MOST_NOTED])
        durations_ns = [0] * len(noted) if times_ns is None else times_ns[:MOST_NOTED].tolist()
        for number, (prefix, duration_ns) in enumerate(zip(noted, durations_ns, strict=True), 1):
            self._state.add_note(
                EventRecord(
                    int(kind),
                    now_ns,
                    self._generation,
                    suppressed=len(keys) - MOST_NOTED if number == MOST_NOTED else 0,
                    family=prefix.family,
                    source=prefix.address,
                    prefix_bits=prefix.bits,
                    duration_ns=duration_ns,
                    rule=_NO_RULE,
                    detail=self.meta.slot,
                )
            )


@contextlib.contextmanager
def opened(pins: Pins, generation: int, meta: Metadata, name: str) -> Iterator[LiveSet]:
    """The dynamic set of this name, of the generation in force. Raises UsageError where it has none, KernelError."""
    found = next((each for each in meta.dynamic_sets if each.name == name), None)
    if found is None:
        known = ", ".join(each.name for each in meta.dynamic_sets)
        is_fixed = any(each.name == name for each in meta.sets)
        what = "is in the policy, which alone says what is in it" if is_fixed else "is not in the policy in force"
        raise UsageError(f"dynamic set {name}: {what}", hint=f"dynamic sets are {known}" if known else None)
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(State.open(pins.state))
        members = MemberSet.open(state, found.slot)
        if members is None:
            raise KernelError("open", f"dynamic set {name}", 2, hint="xdpfw apply puts it right")
        stack.enter_context(members)
        yield LiveSet(found, members, state, generation)


def parse_prefixes(texts: Iterable[str]) -> Keys:
    """Prefixes and addresses as they are written on the command line. Raises UsageError."""
    found: list[Addresses] = []
    for text in texts:
        try:
            found.append(_prefix(text))
        except NotationError as error:
            raise UsageError(error.message, hint=error.hint) from None
    return _keys(Entries.of(found))


def read_prefixes(text: str, file: str) -> Keys:
    """Prefixes of a file's text, one a line, as files of sets have them. Raises PolicyError, with line and column."""
    with contextlib.suppress(NotationError):
        entries = Entries.read(text)
        keys = keys_of_ranges(entries.v4, entries.v6)
        if keys is not None:
            return keys
    errors = []
    for line, column, entry in lines(text):
        try:
            _prefix(entry)
        except NotationError as error:
            errors.append(PolicyError(error.message, Position(file, line, column), hint=error.hint))
    errors[0].others = tuple(errors[1:MOST_NOTED])
    raise errors[0]


def never_banned_at_all(pins: Pins, generation: int, prefix: Prefix) -> bool:
    """Whether ``never_ban`` itself has it as a whole: entries of the dynamic sets that it names come and go."""
    with NeverBan.open_of(pins.generation(generation)) as never:
        return never.has(*prefix)


def never_banned(pins: Pins, generation: int, prefixes: Sequence[Prefix]) -> list[Prefix]:
    """Those that no ban is for as a whole, whatever is banned: by ``never_ban``, and entries of its dynamic sets."""
    directory = pins.generation(generation)
    found = []
    with NeverBan.open_of(directory) as never, State.open(pins.state) as state:
        for slot in never.slots:
            members = MemberSet.open(state, slot)
            if members is not None:
                with members:
                    keys = members.live(boot_ns())
                    found += [prefix for prefix in prefixes if covers(keys, prefix)]
        found += [prefix for prefix in prefixes if prefix not in found and never.has(*prefix)]
    return found


def _prefix(text: str) -> Addresses:
    """Raises NotationError for what is no address or prefix."""
    if text[:1] == "@":
        raise NotationError(f"{text} is a set, and not an entry of one")
    found = parse_entry(text)
    size = found.high - found.low + 1
    if size & (size - 1) or found.low & (size - 1):
        raise NotationError(f"{text} is no prefix, and dynamic sets hold nothing else", hint=_as_prefixes(found))
    return found


def _as_prefixes(range_: Addresses) -> str:
    from xdpfw.compiler.neverban import prefixes

    found = list(prefixes(range_.low, range_.high, range_.bits))
    if len(found) > 4:
        return f"it takes {len(found)} prefixes"
    family = abi.Family.IPV4 if range_.bits == V4_BITS else abi.Family.IPV6
    return f"it is {' '.join(prefix_text(family, first, bits) for first, bits in found)}"


def _keys(entries: Entries) -> Keys:
    keys = keys_of_ranges(entries.v4, entries.v6)
    assert keys is not None  # each was looked at
    return keys
