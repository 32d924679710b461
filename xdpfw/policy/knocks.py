# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks, with what their key and secret files hold."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from xdpfw.errors import PolicyError, Position
from xdpfw.knock import keys, rotation
from xdpfw.knock.keys import ServerHalf
from xdpfw.knock.steps import Step
from xdpfw.policy import models
from xdpfw.policy.problems import Place
from xdpfw.policy.source import Sources


@dataclass(frozen=True, slots=True)
class LoadedKnock:
    """``keys`` where it has ``spa``, ``secret`` (32 bytes) where it has ``rotate``; ``file`` is what they are from."""

    name: str
    model: models.Knock
    place: Place
    file: str | None = None
    keys: ServerHalf | None = None
    secret: bytes | None = field(default=None, repr=False)

    @property
    def steps(self) -> Iterator[tuple[tuple[str, int], Step]]:
        """The steps of both sequences, each with its path from the knock on."""
        for key, sequence in (("sequence", self.model.sequence), ("close", self.model.close)):
            for index, step in enumerate(sequence or ()):
                yield (key, index), step


def loaded_knock(name: str, model: models.Knock, place: Place, path: str | None, sources: Sources) -> LoadedKnock:
    """A knock and its file, which lies at ``path``. Raises PolicyError."""
    if model.spa is not None:
        assert path is not None
        text = sources.read_secret(path, keys.redacted, named_at=place.position("spa", "keys"))
        return LoadedKnock(name, model, place, path, keys=keys.parse_server_half(text, path))
    if model.rotate is not None:
        assert path is not None
        text = sources.read_secret(path, rotation.redacted, named_at=place.position("rotate", "secret"))
        try:
            return LoadedKnock(name, model, place, path, secret=rotation.secret_key(text))
        except rotation.SecretError as problem:
            hint = f"xdpfw keygen --rotate {path} makes one, where there is none"
            raise PolicyError(f"{path} {problem}", Position(path, 1, 1), hint=hint) from None
    return LoadedKnock(name, model, place)


def secret_notes(knocks: Iterable[LoadedKnock], sources: Sources) -> list[str]:
    """Lines about the files of keys and secrets: those without a key, and those that others have access to."""
    return [*_without_keys(knocks), *_exposed(sources)]


def _without_keys(knocks: Iterable[LoadedKnock]) -> Iterator[str]:
    """Such a file is right, as that of a knock whose devices are all lost; or its keys were lost."""
    for knock in knocks:
        if knock.keys is not None and not knock.keys.keys:
            yield f"knock {knock.name} opens to nobody: {knock.file} has no keys (xdpfw keygen adds one)"


def _exposed(sources: Sources) -> Iterator[str]:
    for path, (mode, owner) in sources.secrets_on_disk.items():
        if mode & 0o077:
            what = f"others than its owner have access to it (mode {mode:04o}): chmod 600 {path}"
            yield f"{path} holds secrets, and {what}"
        if owner not in (0, os.geteuid()):
            what = f"belongs to {_user(owner)}, who can read and change it: chown root {path}"
            yield f"{path} holds secrets, and {what}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
