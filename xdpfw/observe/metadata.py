# SPDX-License-Identifier: GPL-2.0-or-later
"""What a generation was made from, pinned beside its maps, so that no command needs the policy file for it.

Three blobs: ``meta``, small and quick to read; ``source``, the text of all of the policy's files; ``wanted_sets``,
what the tables of sets with files are made from (xdpfw.compiler.rulestables).
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xdpfw.kernel.maps import Blob

if TYPE_CHECKING:
    from xdpfw.compiler import ir

META: Final = "meta"
SOURCE: Final = "source"
WANTED_SETS: Final = "wanted_sets"


@dataclass(frozen=True, slots=True)
class InterfaceMeta:
    name: str
    ifindex: int
    mode: str  # as the policy asks for it


class RuleMeta(NamedTuple):
    """A tuple, as there are 100,000 of them: what each becomes in JSON."""

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
class DynamicSetMeta:
    """``slot``: where its members are (xdpfw.kernel.sets); ``timeout_ns``: None: they stay for good."""

    name: str
    slot: int
    size: int
    timeout_ns: int | None = None


@dataclass(frozen=True, slots=True)
class KeyMeta:
    """An SPA key. ``fingerprint`` tells it from a later one of the same number, and nothing about it."""

    number: int
    name: str
    fingerprint: int


@dataclass(frozen=True, slots=True)
class KnockMeta:
    """``id``: the identity that maps know it by; ``services``: the ports that it opens, ``22/tcp``, in its order.

    ``scope_v4``, ``scope_v6``: the bits of a source that a grant is for.
    """

    name: str
    id: int
    text: str
    steps: int  # of its sequence; 0: it is opened by a single packet
    services: tuple[str, ...]
    keys: tuple[KeyMeta, ...] = ()
    scope_v4: int = 32
    scope_v6: int = 128

    @classmethod
    def of(cls, knock: ir.Knock, identity: int, fingerprint: Callable[[ir.SpaKey], int]) -> KnockMeta:
        """``fingerprint``: what maps know a key by."""
        from xdpfw.compiler import ir  # only apply needs it, and it takes a while

        match knock.way:
            case ir.Sequence():
                steps = len(knock.way.steps)
            case ir.Rotation():
                steps = knock.way.length
            case ir.Spa():
                steps = 0
        keys = knock.way.keys if isinstance(knock.way, ir.Spa) else ()
        return cls(
            knock.name,
            identity,
            knock.text,
            steps,
            tuple(service_name(service.protocol, service.port) for service in knock.opens),
            tuple(KeyMeta(key.number, key.name, fingerprint(key)) for key in keys),
            knock.scope_v4,
            knock.scope_v6,
        )


def service_name(protocol: int, port: int) -> str:
    """``22/tcp``. ``protocol`` is TCP or UDP."""
    return f"{port}/{'tcp' if protocol == IPPROTO_TCP else 'udp'}"


@dataclass(frozen=True, slots=True)
class Metadata:
    """``policy_file`` is an absolute path, ``applied_at`` in seconds since the epoch; the digests are SHA-256 in hex.

    ``interfaces``, ``rules``, ``knocks`` and ``targets`` (the interface indexes that rules redirect to) are in the
    order of the numbers that the data plane knows them by.
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
    knocks: tuple[KnockMeta, ...] = ()
    rules_digest: str = ""  # of all that rules are compiled from: the files of sets are not among it
    limited: tuple[str, ...] = ()  # rules that have a limit, in the order of the limits' numbers
    dynamic_sets: tuple[DynamicSetMeta, ...] = ()  # by number

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
        columns["dynamic_sets"] = tuple(DynamicSetMeta(*row) for row in columns.get("dynamic_sets", ()))
        # A generation that an xdpfw without knocks has put in force says nothing of them.
        columns["knocks"] = tuple(
            KnockMeta(name, id_, text, steps, tuple(services), tuple(KeyMeta(*key) for key in keys), *scope)
            for name, id_, text, steps, services, keys, *scope in columns.get("knocks", ())
        )
        columns["limited"] = tuple(columns.get("limited", ()))
        return cls(**columns)


def _as_list(row: object) -> list[Any]:
    assert dataclasses.is_dataclass(row)
    return [getattr(row, field.name) for field in dataclasses.fields(row)]


def pin(directory: Path, metadata: Metadata, files: Mapping[str, str], wanted_sets: bytes) -> None:
    """Pins the blobs beside a generation. ``files``: path as given -> text."""
    source = zlib.compress(json.dumps(dict(files)).encode(), level=1)
    for name, data in ((META, metadata.to_bytes()), (SOURCE, source), (WANTED_SETS, wanted_sets)):
        with Blob.create(name, data) as blob:
            blob.pin(str(directory / name))


def read(directory: Path) -> Metadata:
    """The metadata of the generation pinned in ``directory``. Raises KernelError."""
    with Blob.open(str(directory / META)) as blob:
        return Metadata.from_bytes(blob.read())


def read_wanted_sets(directory: Path) -> bytes:
    """Raises KernelError."""
    with Blob.open(str(directory / WANTED_SETS)) as blob:
        return blob.read()


def read_source(directory: Path) -> dict[str, str]:
    """The policy's files, itself first: path as given -> text. Raises KernelError."""
    with Blob.open(str(directory / SOURCE)) as blob:
        files: dict[str, str] = json.loads(zlib.decompress(blob.read()))
    return files
