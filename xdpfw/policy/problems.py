# SPDX-License-Identifier: GPL-2.0-or-later
"""What pydantic found wrong, as errors that a user can read, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import models, names, source, values
from xdpfw.policy.source import Mapping, Path, Value
from xdpfw.policy.values import NotationError

_DICT_KEY = "[key]"
_MODELS_BY_KEY: dict[str, type[BaseModel]] = {
    "allow": models.Allow,
    "match": models.Match,
    "except": models.Match,
    "action": models.Forward,
    "redirect": models.Redirect,
    "steps": models.Step,
    "log": models.Log,
    "spa": models.Spa,
    "rotate": models.Rotate,
    "scope": models.Scope,
    "limit": models.Limit,
    "per": models.Prefixes,
    "add_to": models.AddTo,
    "protect": models.Protect,
}


class Place(NamedTuple):
    """A node of a file: where it is, and how messages call it (``rule "ssh"``; empty for the file itself)."""

    root: Mapping
    file: str
    path: Path = ()
    subject: str = ""

    def node(self) -> Value:
        return source.node(self.root, self.path)

    def position(self, *steps: str | int, of_key: bool = False) -> Position:
        """Where the node that ``steps`` lead to from here begins; as near to it as the file goes."""
        return source.position(self.root, self.file, (*self.path, *steps), of_key=of_key)

    def error(self, message: str, *steps: str | int, hint: str | None = None, of_key: bool = False) -> PolicyError:
        """An error about the node that ``steps`` lead to. ``message`` goes on from the name of its field."""
        field = self._field(steps)
        text = f"{field} {message}" if field else message
        if self.subject:
            text = f"{self.subject}{': ' if field else ' '}{text}"
        return PolicyError(text, self.position(*steps, of_key=of_key), hint=hint)

    def _field(self, steps: Path) -> str:
        """What messages call a node: its key, and the step of a test or the ``except`` that it is in."""
        path = source.known_steps(self.root, (*self.path, *steps))[len(self.path) :]
        match path:
            case ("steps", int(index), *rest):
                return " ".join([f"step {index + 1}", *(str(key) for key in rest)])
            case (
                "allow" | "except" | "spa" | "rotate" | "scope" | "log" | "limit" | "add_to" | "protect" as outer,
                str(key),
                *_,
            ):
                return f"{outer} {key}"
        return next((key for key in reversed(path) if isinstance(key, str)), "")


def translated(error: ValidationError, place: Place, model: type[BaseModel]) -> Iterator[PolicyError]:
    """The errors of validating the node at ``place`` as ``model``."""
    for details in error.errors(include_url=False):
        yield _translated(details, place, model)


def _translated(details: ErrorDetails, place: Place, model: type[BaseModel]) -> PolicyError:
    steps = details["loc"]
    of_key = steps[-1:] == (_DICT_KEY,)
    problem = details.get("ctx", {}).get("error")
    if isinstance(problem, NotationError):
        return place.error(
            problem.message,
            *steps,
            hint=problem.hint,
            of_key=of_key,
        )
    match details["type"]:
        case "missing":
            if place.subject:
                return place.error(f"has no {steps[-1]}", *steps[:-1])
            hint = f"add version: {models.LANGUAGE_VERSION}"  # the one key that every file has
            return place.error(f"{steps[-1]} is missing", *steps[:-1], hint=hint)
        case "extra_forbidden":
            return _unknown_key(str(steps[-1]), steps[:-1], place, model)
        case "model_type" | "model_attributes_type" | "dict_type":
            return place.error("is not a mapping of keys to values", *steps, hint="write it as {key: value}")
        case "tuple_type" | "list_type":
            return place.error("is not a list", *steps, hint="write it as [one, another]")
        case other:
            raise AssertionError(f"pydantic error {other} has no translation")


def _unknown_key(key: str, parent: Path, place: Place, model: type[BaseModel]) -> PolicyError:
    container = next((step for step in reversed(parent) if step in _MODELS_BY_KEY), None)
    owner = model if container is None else _MODELS_BY_KEY[str(container)]
    known = [field.alias or name for name, field in owner.model_fields.items()]
    within = f" in {container}" if container not in (None, "steps") else ""
    return PolicyError(
        f"{place.subject}{': ' if place.subject else ''}unknown key {values.shown(key)}{within}",
        place.position(*parent, key, of_key=True),
        hint=names.suggestion(key, known),
    )
