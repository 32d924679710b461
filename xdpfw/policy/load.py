# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy from its files: read, merge, validate. All that is wrong is found in one go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import consistency, knockfaults, models, names, rulefaults, source, values
from xdpfw.policy.addresses import Addresses
from xdpfw.policy.collector import collector_paused
from xdpfw.policy.consistency import Fault
from xdpfw.policy.entries import Entries, is_packed
from xdpfw.policy.knocks import LoadedKnock, loaded_knock
from xdpfw.policy.problems import Place, translated
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.source import Mapping, Path, Sources
from xdpfw.policy.values import NotationError, SetName, Span

MAX_INTERFACES: Final = 64
MAX_INCLUDE_DEPTH: Final = 8

_TOLD_EVERY: Final = 2048

Progress: TypeAlias = Callable[[str, int, int], None]

M = TypeVar("M", bound=BaseModel)


class LoadedRule(NamedTuple):
    name: str
    model: models.Rule
    place: Place


@dataclass(frozen=True, slots=True)
class LoadedTest:
    name: str
    model: models.Test
    place: Place


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that is right: merged, every name resolved to something that exists.

    ``rules`` has the disabled ones too; ``allow`` is as written, None where nothing is.
    """

    interfaces: dict[str, models.Interface]
    interface_positions: dict[str, Position]
    default: str
    invalid: str
    allow: models.Allow
    sets: dict[str, LoadedSet]
    knocks: dict[str, LoadedKnock]
    rules: tuple[LoadedRule, ...]
    tests: tuple[LoadedTest, ...]
    never_ban: tuple[Addresses | SetName, ...]
    protect_syn: tuple[Span | SetName, ...]
    sources: Sources


def load(path: str, sources: Sources, progress: Progress | None = None) -> LoadedPolicy:
    """The policy at ``path``. ``sources`` has read all of its files afterwards.

    ``progress`` is told a phase, how much of it is done, and of how much; see ``xdpfw.compiler.progress``.

    Raises PolicyError: the first error in order of the text, with all further ones in ``others``.
    """
    with collector_paused():
        loader = _Loader(sources, progress or _unseen)
        loader.file(path, None, ())
        return loader.policy()


@dataclass(frozen=True, slots=True)
class _Setting:
    """A single value such as ``default``, and where it stands."""

    value: Any
    position: Position


class _Listed(NamedTuple):
    """One value of a list that all files together make, and where it stands."""

    value: Any
    place: Place
    path: Path


@dataclass(slots=True)
class _Loader:
    sources: Sources
    progress: Progress
    errors: list[PolicyError] = field(default_factory=list)
    all_read: bool = True
    files: dict[str, Position | None] = field(default_factory=dict)  # and where each is named
    roots: list[Place] = field(default_factory=list)
    taken: dict[tuple[str, str], Place] = field(default_factory=dict)  # by kind and name
    settings: dict[str, _Setting] = field(default_factory=dict)
    interfaces: dict[str, models.Interface | None] = field(default_factory=dict)  # None: with errors
    sets: dict[str, LoadedSet | None] = field(default_factory=dict)
    entries: dict[str, Entries] = field(default_factory=dict)  # of sets' files
    knocks: dict[str, LoadedKnock | None] = field(default_factory=dict)
    rules: list[LoadedRule] = field(default_factory=list)
    tests: list[LoadedTest] = field(default_factory=list)
    never_ban: list[_Listed] = field(default_factory=list)
    protect_syn: list[_Listed] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def file(self, path: str, named_at: Position | None, within: tuple[str, ...]) -> None:
        """Add a file, those that it includes before itself. ``within`` are the files that led here."""
        self.files[path] = named_at
        try:
            text = self.sources.read(path, named_at=named_at)
            lines = text.count("\n")
            self.progress(f"reading {path}", 0, lines)
            root = source.parse(text, path, lambda line: self.progress(f"reading {path}", line, lines))
        except PolicyError as error:
            self.errors += (error, *error.others)
            self.all_read = False
            return
        place = Place(root, path)
        self.roots.append(place)
        header = self._validated(models.PolicyFile, root, place)
        for index, include in enumerate(_listed(root.get("include"))):
            if isinstance(include, str) and include:
                self._include(include, place.position("include", index), path, within)
        if header is not None:
            self._add_settings(header, place)
        for name in _named(root.get("interfaces")):
            self._add_interface(name, place)
        for name in _named(root.get("sets")):
            self._add_set(name, place)
        for name in _named(root.get("knocks")):
            self._add_knock(name, place)
        rules = _listed(root.get("rules"))
        for index, data in enumerate(rules):
            if not index % _TOLD_EVERY:
                self.progress(f"checking {path}", index, len(rules))
            name, rule_place = self._list_item("rule", index, data, place)
            if (rule := self._validated(models.Rule, data, rule_place)) is not None:
                self.rules.append(LoadedRule(name, rule, rule_place))
        for index, data in enumerate(_listed(root.get("tests"))):
            name, test_place = self._list_item("test", index, data, place)
            if (test := self._validated(models.Test, data, test_place)) is not None:
                self.tests.append(LoadedTest(name, test, test_place))

    def policy(self) -> LoadedPolicy:
        """The merged policy, once all files are in."""
        if self.all_read:
            self._check_whole()
        if self.errors:
            raise source.combined(sorted(self.errors, key=self._order))
        allow = {key: self.settings.get(f"allow.{key}") for key in models.Allow.model_fields}
        invalid = self.settings.get("invalid")
        return LoadedPolicy(
            interfaces={name: found for name, found in self.interfaces.items() if found is not None},
            interface_positions={name: self._interface_position(name) for name in self.interfaces},
            default=self.settings["default"].value,
            invalid="drop" if invalid is None else invalid.value,
            allow=models.Allow(**{key: found.value for key, found in allow.items() if found is not None}),
            sets={name: found for name, found in self.sets.items() if found is not None},
            knocks={name: found for name, found in self.knocks.items() if found is not None},
            rules=tuple(self.rules),
            tests=tuple(self.tests),
            never_ban=tuple(each.value for each in self.never_ban),
            protect_syn=tuple(each.value for each in self.protect_syn),
            sources=self.sources,
        )

    def _order(self, error: PolicyError) -> tuple[int, str, int, int]:
        if (position := error.position) is None:
            return (-1, "", 0, 0)
        order = list(self.files)
        number = order.index(position.file) if position.file in order else len(order)
        return (number, position.file, position.line, position.column)

    def _validated(self, model: type[M], data: object, place: Place) -> M | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self.errors.extend(translated(error, place, model))
            return None

    def _include(self, name: str, named_at: Position, including: str, within: tuple[str, ...]) -> None:
        path = _beside(including, name)
        if path in (*within, including):
            chain = " includes ".join((*within, including, path))
            self.errors.append(PolicyError(f"include {name} goes round in a circle: {chain}", named_at))
        elif path in self.files:
            first = f"first at {self.files[path]}"
            self.errors.append(PolicyError(f"include {name} is there twice", named_at, hint=first))
        elif len(within) == MAX_INCLUDE_DEPTH:
            message = f"include {name} is more than {MAX_INCLUDE_DEPTH} files deep"
            self.errors.append(PolicyError(message, named_at))
            self.all_read = False
        else:
            self.file(path, named_at, (*within, including))

    def _add_settings(self, header: models.PolicyFile, place: Place) -> None:
        for key in ("default", "invalid"):
            self._add_setting(key, getattr(header, key), place.position(key))
        for key in models.Allow.model_fields:
            self._add_setting(f"allow.{key}", getattr(header.allow, key, None), place.position("allow", key))
        for index, source_address in enumerate(header.never_ban):
            self.never_ban.append(_Listed(source_address, place, ("never_ban", index)))
        for index, port in enumerate((header.protect and header.protect.syn) or ()):
            self.protect_syn.append(_Listed(port, place, ("protect", "syn", index)))

    def _add_setting(self, key: str, value: str | bool | None, position: Position) -> None:
        if value is None:
            return
        first = self.settings.setdefault(key, _Setting(value, position))
        if first.value != value:
            here, there = values.text_of(value), values.text_of(first.value)
            message = f"{key} is {here} here and {there} in another file"
            self.errors.append(PolicyError(message, position, hint=f"that is at {first.position}"))

    def _add_interface(self, name: str, file: Place) -> None:
        place = self._section_item("interface", name, values.interface, file)
        if place is not None:
            self.interfaces[name] = self._validated(models.Interface, place.node(), place)

    def _add_set(self, name: str, file: Place) -> None:
        place = self._section_item("set", name, values.name, file)
        if place is not None:
            self.sets[name] = self._loaded_set(name, place)

    def _loaded_set(self, name: str, place: Place) -> LoadedSet | None:
        model = self._validated(models.Set, place.node(), place)
        if model is None:
            return None
        if name == names.BANS and not model.dynamic:
            hint = "add dynamic: true to give it a size or a timeout, or choose another name"
            self.errors.append(place.error("is the built-in set of bans, which is dynamic", hint=hint, of_key=True))
            return None
        path = None if model.file is None else _beside(place.file, model.file)
        loaded = LoadedSet(
            name, model.type, place, path, is_dynamic=model.dynamic, size=model.size, timeout_ns=model.timeout
        )
        before = len(self.errors)
        if path is None:
            loaded.add_elements(model.elements or (), self.errors)
        else:
            try:
                self._fill_from_file(loaded, path, place.position("file"))
            except PolicyError as error:
                self.errors.append(error)
        return loaded if len(self.errors) == before else None

    def _fill_from_file(self, loaded: LoadedSet, path: str, named_at: Position) -> None:
        """Files of sets are stored packed: they may be large, and a set of the policy in force is only counted."""
        if path in self.entries:
            loaded.prefixes = self.entries[path]
            return
        text = self.sources.read(path, named_at=named_at)
        if self.sources.are_stored and is_packed(text):
            loaded.prefixes = Entries.unpacked(text)
        else:
            before = len(self.errors)
            loaded.add_text(text, self.errors)
            if len(self.errors) > before:
                return
            self.sources.store_as(path, loaded.prefixes.packed())
        self.entries[path] = loaded.prefixes

    def _add_knock(self, name: str, file: Place) -> None:
        place = self._section_item("knock", name, values.name, file)
        if place is not None:
            self.knocks[name] = self._loaded_knock(name, place)

    def _loaded_knock(self, name: str, place: Place) -> LoadedKnock | None:
        model = self._validated(models.Knock, place.node(), place)
        if model is None:
            return None
        named = model.spa.keys if model.spa else model.rotate.secret if model.rotate else None
        path = None if named is None else _beside(place.file, named)
        try:
            return loaded_knock(name, model, place, path, self.sources)
        except PolicyError as error:
            self.errors += (error, *error.others)
            return None

    def _section_item(self, kind: str, name: str, notation: Callable[[object], str], file: Place) -> Place | None:
        """The place of an interface, a set or a knock, or None where its name is taken."""
        section = f"{kind}s"
        place = Place(file.root, file.file, (section, name), f"{kind} {values.quoted(name)}")
        try:
            notation(name)
        except NotationError as problem:
            position = place.position(of_key=True)
            self.errors.append(PolicyError(f"{section}: {problem.message}", position, hint=problem.hint))
        return place if self._is_free(kind, name, place) else None

    def _list_item(self, kind: str, index: int, data: object, file: Place) -> tuple[str, Place]:
        """The name of a rule or a test, its own or its number's in the list of all files, and its place."""
        self.counts[kind] += 1
        given = data.get("name") if isinstance(data, Mapping) else None
        is_named = isinstance(given, str | int)
        name = values.text_of(given) if is_named else f"{kind}-{self.counts[kind]}"
        place = Place(file.root, file.file, (f"{kind}s", index), f"{kind} {values.quoted(name)}")
        self._is_free(kind, name, place, "" if is_named else f"; give this {kind} a name of its own")
        return name, place

    def _is_free(self, kind: str, name: str, place: Place, advice: str = "") -> bool:
        """Take a name. An error, and False, where it is taken already."""
        first = self.taken.setdefault((kind, name), place)
        if first is not place:
            message = f"{kind} {values.quoted(name)} is there twice"
            hint = f"first at {_position_of_name(kind, first)}{advice}"
            self.errors.append(PolicyError(message, _position_of_name(kind, place), hint=hint))
        return first is place

    def _interface_position(self, name: str) -> Position:
        return _position_of_name("interface", self.taken["interface", name])

    def _check_whole(self) -> None:
        """What can only be said once all files are in."""
        top = self.roots[0]
        if not any("default" in place.root for place in self.roots):
            self.errors.append(top.error("default is missing", hint="add default: drop, or default: pass"))
        if not any(place.root.get("interfaces") for place in self.roots):
            hint = "name one or more, as in interfaces: {eth0: {}}"
            self.errors.append(PolicyError("there is no interface", top.position("interfaces"), hint=hint))
        for name in tuple(self.interfaces)[MAX_INTERFACES : MAX_INTERFACES + 1]:
            message = f"interface {name} is one more than the {MAX_INTERFACES} possible"
            self.errors.append(PolicyError(message, self._interface_position(name)))
        interfaces = tuple(self.interfaces) or None
        sets = {names.BANS: LoadedSet(names.BANS, "prefix", top, is_dynamic=True), **self.sets}
        faultless: set[consistency.Shape] = set()
        for rule in self.rules:
            for fault in consistency.faults(rule.model, sets, interfaces, faultless):
                self._add_fault(rule.place, fault)
            for fault in rulefaults.effect_faults(rule.model, sets):
                self._add_fault(rule.place, fault)
            for fault in knockfaults.knocked_faults(rule.model, self.knocks):
                self._add_fault(rule.place, fault)
        self._check_knocks(interfaces, sets)
        self._check_sets(sets)
        rule_names = {name: None for kind, name in self.taken if kind == "rule"}
        disabled = {rule.name for rule in self.rules if not rule.model.enabled}
        for test in self.tests:
            self.errors.extend(_test_errors(test, rule_names, disabled, interfaces))

    def _check_sets(self, sets: consistency.Sets) -> None:
        """That there are not too many dynamic ones, and those that are named beside the rules."""
        if excess := rulefaults.excess_sets([found for found in self.sets.values() if found is not None]):
            most = rulefaults.MAX_DYNAMIC_SETS
            message = f"is one dynamic set more than the {most} possible, {names.BANS} among them"
            self.errors.append(excess.place.error(message, hint="put what they hold into fewer sets", of_key=True))
        enabled = [rule for rule in self.rules if rule.model.enabled]
        for number, fault in rulefaults.excess_asked([rule.model for rule in enabled], sets):
            self._add_fault(enabled[number].place, fault)
        for listed, kind in ((self.never_ban, "prefix"), (self.protect_syn, "port")):
            for value, place, path in listed:
                if isinstance(value, SetName) and (found := consistency.set_fault(path, value, kind, sets)):
                    self._add_fault(place, found)
                elif value == names.BANS and isinstance(value, SetName):
                    self._add_fault(place, Fault(path, "@bans would lift every ban", "leave it out"))

    def _check_knocks(self, interfaces: Collection[str] | None, sets: consistency.Sets) -> None:
        knocks = [knock for knock in self.knocks.values() if knock is not None]
        for knock, fault in knockfaults.knock_faults(knocks, sets, interfaces):
            self._add_fault(knock.place, fault)
        enabled = [rule for rule in self.rules if rule.model.enabled]
        if excess := knockfaults.excess_knocked([rule.model for rule in enabled]):
            number, fault = excess
            self._add_fault(enabled[number].place, fault)

    def _add_fault(self, place: Place, fault: Fault) -> None:
        self.errors.append(place.error(fault.message, *fault.path, hint=fault.hint))


def _test_errors(
    test: LoadedTest, rules: Collection[str], disabled: Collection[str], interfaces: Collection[str] | None
) -> Iterator[PolicyError]:
    for index, step in enumerate(test.model.steps):
        at = ("steps", index)
        if step.rule in disabled:
            yield test.place.error(f"{step.rule} is not enabled", *at, "rule")
        elif step.rule is not None and step.rule not in rules:
            hint = names.suggestion(step.rule, rules)
            yield test.place.error(f"{step.rule} is not a rule of this policy", *at, "rule", hint=hint)
        if step.interface is not None and interfaces is not None and step.interface not in interfaces:
            message = f"{step.interface} is not one of the policy's interfaces"
            yield test.place.error(message, *at, "interface", hint=f"they are {', '.join(interfaces)}")


def _position_of_name(kind: str, place: Place) -> Position:
    """Rules and tests have their names, if any, beside the rest; others are known by their keys."""
    return place.position("name") if kind in ("rule", "test") else place.position(of_key=True)


def _unseen(phase: str, done: int, total: int) -> None:
    """Nobody looks."""


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _beside(file: str, name: str) -> str:
    """The path of ``name``, as written in ``file``."""
    return os.path.normpath(os.path.join(os.path.dirname(file), name))
