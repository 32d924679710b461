# SPDX-License-Identifier: GPL-2.0-or-later
"""What a generation was made from, pinned beside its maps, so that no command needs the policy file for it.

Two blobs: ``meta``, small and quick to read, and ``source``, the text of all of the policy's files.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xdpfw.kernel.maps import Blob

META: Final = "meta"
SOURCE: Final = "source"


@dataclass(frozen=True, slots=True)
class InterfaceMeta:
    name: str
    ifindex: int
    mode: str  # as the policy asks for it


@dataclass(frozen=True, slots=True)
class RuleMeta:
    name: str
    action: str
    text: str
    comment: str | None
    sets: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """True for a rule that only counts."""
        return self.action == "count"


@dataclass(frozen=True, slots=True)
class SetMeta:
    name: str
    kind: str
    entries: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """``policy_file`` is an absolute path, ``applied_at`` in seconds since the epoch; the digests are SHA-256 in hex.

    ``interfaces``, ``rules`` and ``targets`` (the interface indexes that rules redirect to) are in the order of the
    numbers that the data plane knows them by.
    """

    policy_file: str
    source_digest: str
    image_digest: str
    program_digest: str  # of the object file that the program came from
    applied_at: float
    netns: str | None
    interfaces: tuple[InterfaceMeta, ...]
    targets: tuple[int, ...]
    rules: tuple[RuleMeta, ...]
    sets: tuple[SetMeta, ...]

    def to_bytes(self) -> bytes:
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(columns, default=_as_list).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Metadata:
        columns: dict[str, Any] = json.loads(data)
        columns["interfaces"] = tuple(InterfaceMeta(*row) for row in columns["interfaces"])
        columns["targets"] = tuple(columns["targets"])
        columns["rules"] = tuple(
            RuleMeta(name, action, text, comment, tuple(sets)) for name, action, text, comment, sets in columns["rules"]
        )
        columns["sets"] = tuple(SetMeta(*row) for row in columns["sets"])
        return cls(**columns)


def _as_list(row: object) -> list[Any]:
    assert dataclasses.is_dataclass(row)
    return [getattr(row, field.name) for field in dataclasses.fields(row)]


def pin(directory: Path, metadata: Metadata, files: Mapping[str, str]) -> None:
    """Pins both blobs beside a generation. ``files``: path as given -> text."""
    source = zlib.compress(json.dumps(dict(files)).encode(), level=1)
    for name, data in ((META, metadata.to_bytes()), (SOURCE, source)):
        with Blob.create(name, data) as blob:
            blob.pin(str(directory / name))


def read(directory: Path) -> Metadata:
    """The metadata of the generation pinned in ``directory``. Raises KernelError."""
    with Blob.open(str(directory / META)) as blob:
        return Metadata.from_bytes(blob.read())


def read_source(directory: Path) -> dict[str, str]:
    """The policy's files, itself first: path as given -> text. Raises KernelError."""
    with Blob.open(str(directory / SOURCE)) as blob:
        files: dict[str, str] = json.loads(zlib.decompress(blob.read()))
    return files
