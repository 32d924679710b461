# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy from its files: read, merge, validate. All that is wrong is found in one go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import consistency, models, names, source, values
from xdpfw.policy.problems import Place, translated
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.source import Mapping, Sources
from xdpfw.policy.values import NotationError

MAX_INTERFACES: Final = 64

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LoadedRule:
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
    default: str
    invalid: str
    allow: models.Allow
    sets: dict[str, LoadedSet]
    rules: tuple[LoadedRule, ...]
    tests: tuple[LoadedTest, ...]
    sources: Sources


def load(path: str, sources: Sources) -> LoadedPolicy:
    """The policy at ``path``. ``sources`` has read all of its files afterwards.

    Raises PolicyError: the first error in order of the text, with all further ones in ``others``.
    """
    with source.collector_paused():
        loader = _Loader(sources)
        loader.file(path, None, ())
        return loader.policy()


@dataclass(frozen=True, slots=True)
class _Setting:
    """A single value such as ``default``, and where it stands."""

    value: Any
    position: Position


@dataclass(slots=True)
class _Loader:
    sources: Sources
    errors: list[PolicyError] = field(default_factory=list)
    root: Place | None = None
    files: dict[str, Position | None] = field(default_factory=dict)
    settings: dict[str, _Setting] = field(default_factory=dict)
    interfaces: dict[str, tuple[models.Interface | None, Position]] = field(default_factory=dict)
    sets: dict[str, tuple[LoadedSet | None, Position]] = field(default_factory=dict)
    rules: list[LoadedRule] = field(default_factory=list)
    rule_names: dict[str, Position] = field(default_factory=dict)
    rule_count: int = 0
    tests: list[LoadedTest] = field(default_factory=list)
    test_names: dict[str, Position] = field(default_factory=dict)
    test_count: int = 0

    def file(self, path: str, named_at: Position | None, within: tuple[str, ...]) -> None:
        """Add a file, those that it includes before itself. ``within`` are the files that led here."""
        try:
            root = source.parse(self.sources.read(path, named_at=named_at), path)
        except PolicyError as error:
            self.errors += (error, *error.others)
            return
        place = Place(root, path)
        if not within:
            self.root = place
        self.files[path] = named_at
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
        for index in range(len(_listed(root.get("rules")))):
            self._add_rule(place, index)
        for index in range(len(_listed(root.get("tests")))):
            self._add_test(place, index)

    def policy(self) -> LoadedPolicy:
        """The merged policy, once all files are in."""
        if self.root is not None:
            self._check_whole(self.root)
        if self.errors:
            raise source.combined(sorted(self.errors, key=self._order))
        allow = {key.removeprefix("allow."): found.value for key, found in self.settings.items() if key[:6] == "allow."}
        return LoadedPolicy(
            interfaces={name: found for name, (found, _) in self.interfaces.items() if found is not None},
            default=self.settings["default"].value,
            invalid=self.settings["invalid"].value if "invalid" in self.settings else "drop",
            allow=models.Allow(**allow),
            sets={name: found for name, (found, _) in self.sets.items() if found is not None},
            rules=tuple(self.rules),
            tests=tuple(self.tests),
            sources=self.sources,
        )

    def _order(self, error: PolicyError) -> tuple[int, int, int]:
        position = error.position
        if position is None:
            return (-1, 0, 0)
        order = list(self.files)
        return (order.index(position.file) if position.file in order else len(order), position.line, position.column)

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
            self.errors.append(
                PolicyError(f"include {name} is in twice", named_at, hint=f"first at {self.files[path]}")
            )
        else:
            self.file(path, named_at, (*within, including))

    def _add_settings(self, header: models.PolicyFile, place: Place) -> None:
        for key in ("default", "invalid"):
            self._set(key, getattr(header, key), place, (key,))
        for key in models.Allow.model_fields:
            self._set(f"allow.{key}", getattr(header.allow, key, None), place, ("allow", key))

    def _set(self, key: str, value: object, place: Place, path: source.Path) -> None:
        if value is None:
            return
        setting = _Setting(value, place.position(*path))
        first = self.settings.setdefault(key, setting)
        if first.value != value:
            self.errors.append(
                PolicyError(
                    f"{key} is {_written(value)} here and {_written(first.value)} in another file",
                    setting.position,
                    hint=f"that is at {first.position}",
                )
            )

    def _unique(self, what: str, name: str, position: Position, taken: dict[str, Position], hint: str = "") -> None:
        if name in taken:
            first = f"first at {taken[name]}"
            self.errors.append(
                PolicyError(f'{what} "{name}" is there twice', position, hint=f"{first}; {hint}" if hint else first)
            )
        else:
            taken[name] = position

    def _add_interface(self, name: str, file: Place) -> None:
        place = Place(file.root, file.file, ("interfaces", name), f'interface "{name}"')
        position = place.position(of_key=True)
        try:
            values.interface(name)
        except NotationError as problem:
            self.errors.append(PolicyError(f"interfaces: {problem.message}", position, hint=problem.hint))
        if name in self.interfaces:
            self.errors.append(
                PolicyError(f"{place.subject} is there twice", position, hint=f"first at {self.interfaces[name][1]}")
            )
        else:
            self.interfaces[name] = self._validated(models.Interface, place.node(), place), position

    def _add_set(self, name: str, file: Place) -> None:
        place = Place(file.root, file.file, ("sets", name), f'set "{name}"')
        position = place.position(of_key=True)
        try:
            values.name(name)
        except NotationError as problem:
            self.errors.append(PolicyError(f"sets: {problem.message}", position, hint=problem.hint))
        if name in self.sets:
            self.errors.append(
                PolicyError(f"{place.subject} is there twice", position, hint=f"first at {self.sets[name][1]}")
            )
        else:
            self.sets[name] = self._loaded_set(name, place), position

    def _loaded_set(self, name: str, place: Place) -> LoadedSet | None:
        model = self._validated(models.Set, place.node(), place)
        if model is None:
            return None
        loaded = LoadedSet(name, model.type, place)
        before = len(self.errors)
        if model.file is None:
            loaded.add_elements(model.elements or (), self.errors)
        else:
            path = _beside(place.file, model.file)
            try:
                loaded.add_lines(self.sources.read(path, named_at=place.position("file")), path, self.errors)
            except PolicyError as error:
                self.errors.append(error)
        return loaded if len(self.errors) == before else None

    def _add_rule(self, file: Place, index: int) -> None:
        self.rule_count += 1
        data = _listed(file.root["rules"])[index]
        given = data.get("name") if isinstance(data, Mapping) else None
        name = values.text_of(given) if isinstance(given, str | int) else f"rule-{self.rule_count}"
        place = Place(file.root, file.file, ("rules", index), f'rule "{name}"')
        self._unique(
            "rule",
            name,
            place.position("name"),
            self.rule_names,
            "" if given is not None else "that is the name of a rule without one: give it a name",
        )
        model = self._validated(models.Rule, data, place)
        if model is not None:
            self.rules.append(LoadedRule(name, model, place))

    def _add_test(self, file: Place, index: int) -> None:
        self.test_count += 1
        data = _listed(file.root["tests"])[index]
        given = data.get("name") if isinstance(data, Mapping) else None
        name = values.text_of(given) if isinstance(given, str | int) else f"test-{self.test_count}"
        place = Place(file.root, file.file, ("tests", index), f'test "{name}"')
        self._unique("test", name, place.position("name"), self.test_names)
        model = self._validated(models.Test, data, place)
        if model is not None:
            self.tests.append(LoadedTest(name, model, place))

    def _check_whole(self, root: Place) -> None:
        """What can only be said once all files are in."""
        if "default" not in self.settings and "default" not in root.root:
            self.errors.append(root.error("default is missing", hint="add default: drop, or default: pass"))
        if not self.interfaces and not root.root.get("interfaces"):
            self.errors.append(
                PolicyError("there is no interface", root.position("interfaces"), hint="as in interfaces: {eth0: {}}")
            )
        for name, (_, position) in list(self.interfaces.items())[MAX_INTERFACES:]:
            self.errors.append(
                PolicyError(f'interface "{name}" is one more than the {MAX_INTERFACES} possible', position)
            )
            break
        interfaces = tuple(self.interfaces) or None
        sets = {name: found for name, (found, _) in self.sets.items()}
        for rule in self.rules:
            for path, message, hint in consistency.faults(rule.model, sets, interfaces):
                self.errors.append(rule.place.error(message, *path, hint=hint))
        disabled = {rule.name for rule in self.rules if not rule.model.enabled}
        for test in self.tests:
            self.errors.extend(self._test_errors(test, disabled, interfaces))

    def _test_errors(
        self, test: LoadedTest, disabled: set[str], interfaces: tuple[str, ...] | None
    ) -> Iterator[PolicyError]:
        for index, step in enumerate(test.model.steps):
            at = ("steps", index)
            if step.rule is not None and step.rule not in self.rule_names:
                hint = names.suggestion(step.rule, self.rule_names)
                yield test.place.error(f"{step.rule} is not a rule of this policy", *at, "rule", hint=hint)
            elif step.rule in disabled:
                yield test.place.error(f"{step.rule} is not enabled", *at, "rule")
            if step.interface is not None and interfaces is not None and step.interface not in interfaces:
                hint = f"they are {', '.join(interfaces)}"
                yield test.place.error(
                    f"{step.interface} is not one of the policy's interfaces", *at, "interface", hint=hint
                )


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _written(value: object) -> str:
    return values.text_of(value)


def _beside(file: str, name: str) -> str:
    """The path of ``name``, as written in ``file``."""
    return os.path.normpath(os.path.join(os.path.dirname(file), name))
