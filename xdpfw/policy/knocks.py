# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks, with what their key and secret files hold."""

from __future__ import annotations

from collections.abc import Iterator
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


def exposed_secrets(sources: Sources) -> list[str]:
    """A line for each file of keys or a secret that others than its owner have access to."""
    return [
        f"{path} holds secrets, and others than its owner have access to it (mode {mode:04o}): chmod 600 {path}"
        for path, mode in sources.exposed.items()
    ]
