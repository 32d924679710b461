# SPDX-License-Identifier: GPL-2.0-or-later
"""What applying a policy would change against the one in force: interfaces, settings, knocks, rules and sets."""

from __future__ import annotations

import bisect
import enum
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from xdpfw.compiler import ir
from xdpfw.compiler.ruletext import MAX_VALUES_SHOWN
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.values import duration_text


class Kind(enum.StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    MOVED = "moved"  # a rule that is as it was, but stands elsewhere among those that stay


@dataclass(frozen=True, slots=True)
class Change:
    """``before`` is None for what is added, ``after`` for what is removed."""

    kind: Kind
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class SetChange:
    """``added`` and ``removed`` count entries as they are written, not addresses."""

    kind: Kind
    name: str
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy, and its sets with their entries as they are written.

    Keys and secrets are stand-ins, as they are stored: both sides of a comparison come from ``Sources.from_bundle``.
    """

    policy: ir.Policy
    sets: Mapping[str, LoadedSet]


@dataclass(frozen=True, slots=True)
class Plan:
    """``first``: nothing is in force, so everything is added."""

    first: bool
    interfaces: tuple[Change, ...]
    settings: tuple[Change, ...]
    knocks: tuple[Change, ...]
    rules: tuple[Change, ...]
    sets: tuple[SetChange, ...]

    @property
    def changes(self) -> bool:
        return any((self.first, self.interfaces, self.settings, self.knocks, self.rules, self.sets))

    def to_json(self) -> dict[str, Any]:
        return {"changes": self.changes, **asdict(self)}


def compare(before: Snapshot | None, after: Snapshot) -> Plan:
    """The changes from ``before``, None where nothing is in force; none where both are the same object.

    A rule counts as changed for its own text; what its sets gain and lose is told of the sets alone.
    """
    if before is after:
        return Plan(first=False, interfaces=(), settings=(), knocks=(), rules=(), sets=())
    old = before.policy if before else None
    new = after.policy
    sets = tuple(_set_changes(before.sets if before else {}, after.sets))
    return Plan(
        first=before is None,
        interfaces=tuple(_changes(_interfaces(old), _interfaces(new))),
        settings=tuple(_changes(_settings(old), _settings(new))),
        knocks=tuple(_knock_changes(old, new, {change.name for change in sets if change.kind is Kind.CHANGED})),
        rules=tuple(_rule_changes(old, new, {change.name for change in sets})),
        sets=sets,
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old != new:
            kind = Kind.ADDED if old is None else Kind.REMOVED if new is None else Kind.CHANGED
            yield Change(kind, name, old, new)


def _interfaces(policy: ir.Policy | None) -> dict[str, str]:
    return {interface.name: f"mode {interface.mode}" for interface in policy.interfaces} if policy else {}


def _settings(policy: ir.Policy | None) -> dict[str, str]:
    if policy is None:
        return {}
    allow = {
        f"allow.{field.name}": "true" if getattr(policy.allow, field.name) else "false" for field in fields(ir.Allow)
    }
    dynamic = {f"sets.{each.name}": _dynamic_set(each) for each in policy.dynamic_sets}
    settings = {"default": str(policy.default), "invalid": str(policy.invalid), **allow, **dynamic}
    if policy.never_ban is not None:
        settings["never_ban"] = _addresses(policy.never_ban)
    if policy.protect_syn:
        ports = (str(low) if low == high else f"{low}-{high}" for low, high in policy.protect_syn)
        settings["protect.syn"] = ", ".join(ports)
    return settings


def _dynamic_set(found: ir.DynamicSet) -> str:
    timeout = "" if found.timeout_ns is None else f", timeout {duration_text(found.timeout_ns)}"
    return f"dynamic, size {found.size}{timeout}"


def _addresses(ranges: ir.AddressRanges) -> str:
    """With a digest where there is more than is shown, so that other addresses are another text."""
    of_families = ((V4_BITS, ranges.v4), (V6_BITS, ranges.v6))
    texts = [f"@{name}" for name in ranges.dynamic]
    texts += [str(Addresses(bits, low, high)) for bits, spans in of_families for low, high in spans]
    shown, more = ", ".join(texts[:MAX_VALUES_SHOWN]), len(texts) - MAX_VALUES_SHOWN
    if more <= 0:
        return shown
    return f"{shown} and {more} more ({hashlib.sha256(' '.join(texts).encode()).hexdigest()[:8]})"


def _knock_changes(before: ir.Policy | None, after: ir.Policy, changed_sets: set[str]) -> Iterator[Change]:
    """Secrets and sets may change under a text that stays: then the text after it says so."""
    old = {knock.name: knock for knock in before.knocks} if before else {}
    new = {knock.name: knock for knock in after.knocks}
    for name in {**old, **new}:
        was, will_be = old.get(name), new.get(name)
        if was is None or will_be is None:
            kind = Kind.ADDED if was is None else Kind.REMOVED
            yield Change(kind, name, was.text if was else None, will_be.text if will_be else None)
        elif was != will_be:
            also = ["its keys or secret change"] if _have_other_secrets(was, will_be) else []
            also += [f"its set {each} changes" for each in will_be.sets if each in changed_sets and each in was.sets]
            yield Change(Kind.CHANGED, name, was.text, will_be.text + (f" ({'; '.join(also)})" if also else ""))


def _have_other_secrets(was: ir.Knock, will_be: ir.Knock) -> bool:
    """Whether a secret is another, or a key that keeps its number. The texts tell of other numbers and names."""
    if isinstance(was.way, ir.Rotation) and isinstance(will_be.way, ir.Rotation):
        return was.way.secret != will_be.way.secret
    if isinstance(was.way, ir.Spa) and isinstance(will_be.way, ir.Spa):
        before = {key.number: key.key for key in was.way.keys}
        if any(before.get(key.number, key.key) != key.key for key in will_be.way.keys):
            return True
        return was.text == will_be.text and was.way.keys != will_be.way.keys  # of many keys, the text has a few
    return False


def _rule_changes(before: ir.Policy | None, after: ir.Policy, changed_sets: set[str]) -> Iterator[Change]:
    old = {rule.name: rule for rule in before.rules} if before else {}
    new = {rule.name: rule for rule in after.rules}
    for name, rule in old.items():
        if name not in new:
            yield Change(Kind.REMOVED, name, _text(rule), None)
    place = {name: number for number, name in enumerate(old)}
    staying = [name for name in new if name in old]
    in_order = {staying[at] for at in _longest_rising([place[name] for name in staying])}
    for name, rule in new.items():
        if name not in old:
            yield Change(Kind.ADDED, name, None, _text(rule))
            continue
        assert before is not None
        if not _is_same(old[name], before, rule, after, changed_sets):
            yield Change(Kind.CHANGED, name, _text(old[name]), _text(rule))
        elif name not in in_order:
            yield Change(Kind.MOVED, name, _text(old[name]), _text(rule))


def _text(rule: ir.Rule) -> str:
    return f"{rule.text} # {rule.comment}" if rule.comment else rule.text


def _is_same(old: ir.Rule, old_policy: ir.Policy, new: ir.Rule, new_policy: ir.Policy, changed_sets: set[str]) -> bool:
    if any(what(old) != what(new) for what in (_text, _effects)):
        return False
    # The text leaves out the end of long lists. The conditions do not, but have the contents of the sets in them.
    return bool(changed_sets & {*old.sets, *new.sets}) or _conditions(old, old_policy) == _conditions(new, new_policy)


def _effects(rule: ir.Rule) -> tuple[object, ...]:
    return rule.action, rule.limit, rule.add_to, rule.log_sample


def _conditions(rule: ir.Rule, policy: ir.Policy) -> tuple[object, ...]:
    """What a rule asks for, with interfaces by name: their numbers change with the policy's list of them."""
    found: list[object] = []
    for match in (rule.match, rule.unless):
        if match is not None and match.interface is not None:
            numbers = (number for low, high in match.interface for number in range(low, high + 1))
            found.append([policy.interfaces[number].name for number in numbers])
            match = replace(match, interface=None)
        found.append(match)
    return tuple(found)


def _longest_rising(numbers: Sequence[int]) -> Iterator[int]:
    """The places of a longest rising subsequence of distinct numbers, the last first."""
    ends: list[int] = []  # the lowest number that a rising subsequence of each length ends in
    places: list[int] = []  # where that stands
    earlier: list[int | None] = []  # of each place, the place before it in its subsequence
    for place, number in enumerate(numbers):
        length = bisect.bisect_left(ends, number)
        ends[length : length + 1] = [number]
        places[length : length + 1] = [place]
        earlier.append(places[length - 1] if length else None)
    at = places[-1] if places else None
    while at is not None:
        yield at
        at = earlier[at]


def _set_changes(before: Mapping[str, LoadedSet], after: Mapping[str, LoadedSet]) -> Iterator[SetChange]:
    """Of those whose entries are the policy's; dynamic ones are settings."""
    before, after = ({name: each for name, each in sets.items() if not each.is_dynamic} for sets in (before, after))
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            kind = Kind.ADDED if old is None else Kind.REMOVED
            yield SetChange(kind, name, _size(new), _size(old))
            continue
        shared = old.prefixes.shared(new.prefixes) + len(set(old.ports) & set(new.ports))
        added, removed = _size(new) - shared, _size(old) - shared
        if added or removed:
            yield SetChange(Kind.CHANGED, name, added, removed)


def _size(found: LoadedSet | None) -> int:
    """How many entries a set has, each counted once."""
    return 0 if found is None else len(found.prefixes) + len(set(found.ports))
