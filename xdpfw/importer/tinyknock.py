# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies of tinyknock (https://github.com/theobori/tinyknock), a port knocking firewall in XDP.

Its file is YAML, read by libcyaml after this schema: all keys are there, and no others::

    policies:
      - target: 8000            # a port, of TCP and UDP both
        action: open            # or close, or abort: drop and tell of it as an XDP exception
        sequence:               # two steps or more
          - value: 1000         # a port
            protocol: tcp       # or udp; icmp is accepted and never met
          - {value: 2000, protocol: udp}

Numbers are as C writes them: 8000, 0x1f40, 017500. Words may be given as the numbers that they stand for: XDP's actions
and IP's protocols.

What it does: TCP and UDP over IPv4 is dropped, but for packets to a port that the same source has opened; all else
passes. A source has one place in one state machine, whatever the target: the packet that comes next in a sequence
moves it on, any other TCP or UDP packet puts it back to the start. There are no times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from xdpfw.errors import PolicyError, Position
from xdpfw.importer.imported import Difference, Imported
from xdpfw.policy import source
from xdpfw.policy.source import Items, Value

MAX_PORT: Final = 65535
MAX_ICMP_TYPE: Final = 255
ICMP_ERRORS: Final = (3, 11, 12)
"""What ``allow.icmp_errors`` passes before any step is looked at. A host needs them, path MTU discovery most of all."""

MIN_STEPS: Final = 2
MAX_STEPS: Final = 16
"""Of xdpfw."""

WITHIN: Final = "10s"

ACTIONS: Final = {"abort": 0, "close": 1, "open": 2}  # enum xdp_action of linux/bpf.h
PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17}
SERVICES: Final = ("tcp", "udp")

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}")
_PLAIN_KEY = re.compile(r"[a-z]+[0-9][a-z0-9.]*")
_WRONG_ROOT_HINT: Final = 'one of tinyknock begins with "policies:"'


@dataclass(frozen=True, slots=True)
class Step:
    value: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.value}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Policy:
    """``places``: where its steps are."""

    target: int
    action: str
    steps: tuple[Step, ...]
    position: Position
    places: tuple[Position, ...]

    def __str__(self) -> str:
        return f"{self.action} {self.target} by {', '.join(map(str, self.steps))}"


def convert(text: str, file: str, *, interfaces: Sequence[str], grant: str) -> Imported:
    """A policy for ``interfaces`` that does what that of tinyknock does; ``grant`` is how long a grant lasts, as 1h.

    Raises PolicyError, with a position in ``file``, where tinyknock would not have read it either.
    """
    return _Converter(read(text, file), interfaces, grant).convert()


def read(text: str, file: str) -> list[Policy]:
    """The policies of a file. Raises PolicyError."""
    try:
        root = source.parse(text, file)
    except PolicyError as error:
        if error.position == Position(file, 1, 1):  # it is no mapping
            error.hint = _WRONG_ROOT_HINT
        raise
    return _Reader(root, file).policies()


class _Reader:
    """Goes through the tree, and collects what is wrong with it."""

    def __init__(self, root: source.Mapping, file: str) -> None:
        self._root = root
        self._file = file
        self._errors: list[PolicyError] = []

    def policies(self) -> list[Policy]:
        found = []
        if self._has_keys((), ("policies",)):
            found = [self._policy(("policies", index)) for index in self._items(("policies",), "a policy", 1)]
        if self._errors:
            raise source.combined(self._errors)
        return [policy for policy in found if policy is not None]

    def _policy(self, path: source.Path) -> Policy | None:
        if not self._has_keys(path, ("target", "action", "sequence")):
            return None
        target = self._number((*path, "target"), 1)
        action = self._word((*path, "action"), ACTIONS)
        where = (*path, "sequence")
        indexes = self._items(where, "a step", MIN_STEPS)
        steps = [self._step((*where, index)) for index in indexes]
        whole = tuple(step for step in steps if step is not None)
        places = tuple(self._place((*where, index)) for index in indexes)
        return Policy(target, action, whole, self._place(path), places)

    def _step(self, path: source.Path) -> Step | None:
        if not self._has_keys(path, ("value", "protocol")):
            return None
        return Step(self._number((*path, "value"), 0), self._word((*path, "protocol"), PROTOCOLS))

    def _has_keys(self, path: source.Path, keys: Sequence[str]) -> bool:
        """True if there is a mapping with all of ``keys``; others are wrong, too."""
        value = source.node(self._root, path)
        if not isinstance(value, source.Mapping):
            self._wrong(path, f"{_shown(value)} stands where a mapping belongs", f"with {', '.join(keys)}")
            return False
        for key in value:
            if key not in keys:
                place = source.position(self._root, self._file, (*path, key), of_key=True)
                hint = f"there are {', '.join(keys)}"
                self._errors.append(PolicyError(f"{_shown(key)} is no key of tinyknock", place, hint=hint))
        missing = [key for key in keys if key not in value]
        for key in missing:
            self._wrong(path, f"{key} is missing", "tinyknock needs all of its keys")
        return not missing

    def _items(self, path: source.Path, what: str, least: int) -> range:
        value = source.node(self._root, path)
        if not isinstance(value, Items):
            self._wrong(path, f"{path[-1]} is no list", f"each of its items is {what}")
            return range(0)
        if len(value) < least:
            self._wrong(path, f"{path[-1]} has {len(value)} of {least} or more", "tinyknock refuses it")
        return range(len(value))

    def _number(self, path: source.Path, low: int) -> int:
        value = source.node(self._root, path)
        number = _c_number(value)
        if number is None or not low <= number <= MAX_PORT:
            hint = f"a number from {low} to {MAX_PORT}"
            self._wrong(path, f"{path[-1]} {_shown(value)} is no port", hint)
            return low
        return number

    def _word(self, path: source.Path, words: Mapping[str, int]) -> str:
        value = source.node(self._root, path)
        if isinstance(value, str) and value in words:
            return value
        number = _c_number(value)
        for word, meaning in words.items():
            if number == meaning:
                return word
        self._wrong(path, f"{path[-1]} {_shown(value)} is none of {', '.join(words)}")
        return next(iter(words))

    def _place(self, path: source.Path) -> Position:
        return source.position(self._root, self._file, path)

    def _wrong(self, path: source.Path, message: str, hint: str | None = None) -> None:
        self._errors.append(PolicyError(message, self._place(path), hint=hint))


def _c_number(value: Value) -> int | None:
    """As strtoull() with base 0 has it: 0x is hexadecimal, a leading 0 octal."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text, 8 if text[0] == "0" and text[1:2] not in ("x", "X") else 0)
    except ValueError:  # 089
        return None


def _shown(value: Value) -> str:
    if isinstance(value, source.Mapping | Items):
        return "a mapping" if isinstance(value, source.Mapping) else "a list"
    return "nothing" if value is None else ascii(value)


@dataclass(slots=True)
class _Knock:
    name: str
    policy: Policy
    services: tuple[str, ...]
    close: Policy | None = None

    def lines(self, grant: str) -> Iterator[str]:
        yield f"  {self.name}:"
        yield f"    sequence: [{', '.join(map(str, self.policy.steps))}]"
        yield f"    within: {WITHIN}"
        yield f"    opens: [{', '.join(f'{self.policy.target}/{service}' for service in self.services)}]"
        yield f"    for: {grant}"
        if self.close:
            yield f"    close: [{', '.join(map(str, self.close.steps))}]"


class _Converter:
    def __init__(self, policies: Sequence[Policy], interfaces: Sequence[str], grant: str) -> None:
        self._policies = policies
        self._interfaces = interfaces
        self._grant = grant
        self._differences: list[Difference] = []
        self._knocks: list[_Knock] = []

    def convert(self) -> Imported:
        fitting = [policy for policy in self._policies if self._fits(policy)]
        for policy in fitting:
            if policy.action == "open":
                self._add_knock(policy, fitting)
        for policy in fitting:
            if policy.action != "open":
                self._add_close(policy)
        self._tell_of_shared_ends(fitting)
        self._differences.sort(key=lambda each: (each.position.line, each.position.column) if each.position else (0, 0))
        return Imported(self._text(), (*self._differences, *_of_the_whole(self._grant)))

    def _fits(self, policy: Policy) -> bool:
        """False, and said so, where xdpfw has no such sequence."""
        if len(policy.steps) > MAX_STEPS:
            self._leave_out(policy, f"it has {len(policy.steps)} steps, and {MAX_STEPS} are the most")
            return False
        for (one, two), place in zip(pairwise(policy.steps), policy.places[1:], strict=True):
            if one == two:
                why = (
                    f"{one} comes twice in a row, where a packet that is sent again would be both: put another between"
                )
                self._leave_out(policy, why, place)
                return False
        for step, place in zip(policy.steps, policy.places, strict=True):
            if step.protocol == "icmp" and step.value > MAX_ICMP_TYPE:
                self._leave_out(policy, f"{step} is no type of ICMP, which goes to {MAX_ICMP_TYPE}", place)
                return False
            if step.protocol == "icmp" and step.value in ICMP_ERRORS:
                why = f"{step} can never be met: allow.icmp_errors passes it, and tinyknock never looks at one either"
                self._leave_out(policy, why, place)
                return False
            if step.protocol != "icmp" and not step.value:
                self._leave_out(policy, f"{step}: nothing is sent to port 0; knocks need no such step here", place)
                return False
        for step, place in zip(policy.steps, policy.places, strict=True):
            if step.protocol == "icmp":
                text = f"{step} is met by ICMP messages of this type; tinyknock never looks at one"
                self._differences.append(Difference(text, place))
        return True

    def _add_knock(self, policy: Policy, fitting: Sequence[Policy]) -> None:
        """A port can't be opened where its packets are steps."""
        used = {str(step) for each in fitting for step in each.steps}
        services = tuple(service for service in SERVICES if f"{policy.target}/{service}" not in used)
        for service in SERVICES:
            if service not in services:
                self._leave_out(
                    policy, f"{policy.target}/{service} is a step of a sequence, and so cannot be opened, too"
                )
        if not services:
            return
        same = sum(knock.policy.target == policy.target for knock in self._knocks)
        name = f"port-{policy.target}" + (f"-{same + 1}" if same else "")
        self._knocks.append(_Knock(name, policy, services))

    def _add_close(self, policy: Policy) -> None:
        targeted = [knock for knock in self._knocks if knock.policy.target == policy.target]
        if policy.action == "abort":
            text = f"abort {policy.target} is close: packets are dropped, and no XDP exception is raised for them"
            self._differences.append(Difference(text, policy.position))
        if not targeted:
            self._leave_out(policy, f"no sequence opens {policy.target}, so it is closed as it is")
        for knock in targeted:
            if knock.close is not None:
                self._leave_out(policy, f"{knock.name} is closed by {_steps(knock.close)} already")
            elif knock.policy.steps == policy.steps:
                self._leave_out(policy, f"these steps open {knock.name}, and the same cannot close it, too")
            else:
                knock.close = policy

    def _tell_of_shared_ends(self, fitting: Sequence[Policy]) -> None:
        """Of policies with the same steps, tinyknock knows the first only."""
        first: dict[tuple[Step, ...], Policy] = {}
        for policy in fitting:
            before = first.setdefault(policy.steps, policy)
            if before is not policy and policy.action == "open":
                text = (
                    f"{policy.target} is opened by {_steps(policy)}; tinyknock has the same steps "
                    f"at line {before.position.line}, and then does only what that says"
                )
                self._differences.append(Difference(text, policy.position))

    def _leave_out(self, policy: Policy, why: str, place: Position | None = None) -> None:
        self._differences.append(Difference(f"{policy}: {why}", place or policy.position, left_out=True))

    def _text(self) -> str:
        lines = ["# Made from a policy of tinyknock by xdpfw import."]
        lines += [f"# Left out, line {_line(each)}: {each.text}" for each in self._differences if each.left_out]
        interfaces = ", ".join(f"{_key(name)}: {{}}" for name in self._interfaces)
        lines += ["version: 1", f"interfaces: {{{interfaces}}}", "default: drop"]
        lines += ["knocks:"] if self._knocks else []
        for knock in self._knocks:
            lines += knock.lines(self._grant)
        lines += ["rules:", "  - {name: not-tcp-or-udp, except: {proto: [tcp, udp]}, action: pass}"]
        return "".join(f"{line}\n" for line in lines)


def _line(difference: Difference) -> int:
    assert difference.position
    return difference.position.line


def _key(interface: str) -> str:
    """Quoted, but for the names that interfaces commonly have."""
    return interface if _PLAIN_KEY.fullmatch(interface) else json.dumps(interface)


def _steps(policy: Policy) -> str:
    return ", ".join(map(str, policy.steps))


def _of_the_whole(grant: str) -> Iterator[Difference]:
    for text in (
        f"a grant ends after {grant}, or with its close; tinyknock's has no end but that",
        "IPv6 is filtered and knocked at as IPv4 is; tinyknock lets all of it pass",
        f"a sequence is done within {WITHIN}; tinyknock gives it all the time in the world",
        "a TCP step is a SYN alone, with no other flag and no data; tinyknock takes any TCP packet",
        "a source has a state by knock; tinyknock has one for all, so that steps of several policies mix",
        "a repeated step changes nothing; tinyknock begins again. No packet to port 0 need come before a sequence",
        "only packets that are dropped reset a sequence; in tinyknock all of TCP and UDP do, those to an open port too",
    ):
        yield Difference(text)
