# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a policy, and their YAML as plain data that knows where each key and value stands.

A policy needs a plainer YAML than YAML 1.1: there ``22:22`` is 1342, ``010`` is 8, ``no`` is false and the last of
two equal keys wins. Here a plain decimal number is an int, ``true`` and ``false`` are bools, ``null``, ``~`` and
nothing are None, and all else is the text as written. Anchors, aliases, merge keys and tags are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Container, Sequence
from collections.abc import Mapping as ReadOnlyMapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from xdpfw.errors import PolicyError, Position
from xdpfw.policy.values import quoted
from xdpfw.regularfile import regular

MAX_DEPTH: Final = 16
"""Mappings and lists within each other. The language itself needs 7."""

MAX_FILE_BYTES: Final = 64 << 20
"""100,000 rules take 12 MiB, a million prefixes 20."""

Value: TypeAlias = "str | int | bool | Mapping | Items | None"
Path: TypeAlias = tuple[str | int, ...]


class Mark(Protocol):
    """Where libyaml saw something begin; counts from 0."""

    line: int
    column: int


class Mapping(dict[str, Value]):
    """A YAML mapping. ``marks`` has two marks for each key, in order: of the key, and of its value."""

    __slots__ = ("_places", "mark", "marks")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.marks: list[Mark] = []
        self._places: dict[str, int] | None = None

    def marks_of(self, key: str) -> tuple[Mark, Mark]:
        """Of a key that is there, and of its value. The mapping must be complete."""
        if len(self) <= _FEW_KEYS:
            place = 2 * list(self).index(key)
            return self.marks[place], self.marks[place + 1]
        if self._places is None:
            self._places = dict(zip(self, range(0, len(self.marks), 2), strict=True))
        place = self._places[key]
        return self.marks[place], self.marks[place + 1]

    def forget(self, key: str) -> Mark | None:
        """Take a key out, if it is there, and return its mark."""
        if key not in self:
            return None
        place = 2 * list(self).index(key)
        first = self.marks[place]
        del self[key], self.marks[place : place + 2]
        return first


class Items(list[Value]):
    """A YAML sequence. ``marks`` has a mark for each item."""

    __slots__ = ("mark", "marks")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.marks: list[Mark] = []


_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_TOLD_EVERY: Final = 4096

_FEW_KEYS: Final = 32
"""Of which looking through them costs less than an index of them."""

_DIGITS: Final = frozenset("0123456789")
_ODD_KEYS: Final = frozenset(("<<", "", "~", "null"))
_REFUSED_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")


_COMPRESSED: Final = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""How files of gzip (RFC 1952), xz and zstd (RFC 8878) begin."""

_STAND_IN: Final = "# a stand-in: xdpfw does not store the secret itself\n"


class Access(NamedTuple):
    """Who may do what with a file: its permission bits, and its owner by number."""

    mode: int
    owner: int


class Sources:
    """The files that make up a policy: itself, those that it includes, those of its sets and of its knocks' secrets.

    What was read from disk can be stored as it is (``files``) and read again later without the disk
    (``from_bundle``), with the same paths. Secrets are not among it: a stand-in is, which differs where they do.
    """

    def __init__(self, bundle: ReadOnlyMapping[str, str] | None) -> None:
        self._bundle = bundle
        self._files: dict[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._access: dict[str, Access] = {}

    @classmethod
    def from_disk(cls) -> Sources:
        return cls(None)

    @classmethod
    def from_bundle(cls, files: ReadOnlyMapping[str, str]) -> Sources:
        """Sources that only know ``files``: path, as it was given to ``read``, to text."""
        return cls(dict(files))

    @property
    def files(self) -> ReadOnlyMapping[str, str]:
        """All that has been read so far, in order: path as given to ``read``, to text."""
        return MappingProxyType(self._files)

    @property
    def digest(self) -> str:
        """SHA-256 in hex over the texts in the order in which they were read: the same wherever the files lie.

        Of secrets, the stand-ins count, and of the files of sets the entries.
        """
        return self.digest_without(())

    def digest_without(self, paths: Container[str]) -> str:
        """``digest`` over all files but these."""
        digest = hashlib.sha256()
        for path, text in self._files.items():
            if path not in paths:
                data = text.encode()
                digest.update(len(data).to_bytes(8, "big"))
                digest.update(data)
        return digest.hexdigest()

    def read(self, path: str, *, named_at: Position | None = None) -> str:
        """The text of a file. ``named_at`` is where a policy names it, if one does.

        Raises PolicyError, at ``named_at``, where there is no such file or it is no text in UTF-8.
        """
        if path in self._secrets:
            hint = "give the secret a file of its own"
            raise PolicyError(f"{path} is the file of a secret, too", named_at, hint=hint)
        if path not in self._files:
            self._files[path] = self._fetch(path, named_at)
        return self._files[path]

    def store_as(self, path: str, text: str) -> None:
        """Keeps ``text`` in the place of what was read from ``path``: the same in a form that is shorter to store."""
        self._files[path] = text

    @property
    def are_stored(self) -> bool:
        """True for those of a bundle, which has files as they are stored."""
        return self._bundle is not None

    def read_secret(self, path: str, stand_in: Callable[[str], str], *, named_at: Position | None = None) -> str:
        """The text of a file that must not be stored: ``files`` gets what ``stand_in`` makes of it.

        From a bundle of stored files, the stand-in itself comes back. Raises PolicyError as ``read`` does, and where
        the file is also one that is not secret.
        """
        if path not in self._secrets:
            if path in self._files:
                hint = "give the secret a file of its own"
                raise PolicyError(f"{path} is another file of the policy, too", named_at, hint=hint)
            text = self._fetch(path, named_at, is_secret=True)
            self._secrets[path] = text
            is_stored = self._bundle is not None and text.endswith(_STAND_IN)
            self._files[path] = text if is_stored else f"{stand_in(text)}{_STAND_IN}"
        return self._secrets[path]

    @property
    def secrets_on_disk(self) -> ReadOnlyMapping[str, Access]:
        """Who has access to the files of secrets that were read from disk, by path."""
        return {path: self._access[path] for path in self._secrets if path in self._access}

    def _fetch(self, path: str, named_at: Position | None, *, is_secret: bool = False) -> str:
        if self._bundle is not None:
            return self._stored(path, named_at)
        return self._from_disk(path, named_at, is_secret=is_secret)

    def _stored(self, path: str, named_at: Position | None) -> str:
        assert self._bundle is not None
        if path in self._bundle:
            return self._bundle[path]
        raise PolicyError(f"{path} is not among the stored files", named_at)

    def _from_disk(self, path: str, named_at: Position | None, *, is_secret: bool) -> str:
        try:
            with open(path, "rb", opener=regular) as file:
                status = os.fstat(file.fileno())
                self._access[path] = Access(stat.S_IMODE(status.st_mode), status.st_uid)
                data = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            is_kept = is_secret and isinstance(error, PermissionError)
            hint = "it holds secrets: run this as root, or as its owner" if is_kept else None
            raise PolicyError(f"cannot read {path!r}: {reason}", named_at, hint=hint) from None
        if len(data) > MAX_FILE_BYTES:
            raise PolicyError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB", named_at)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            before = data[: error.start].decode()
            place = offset(path, before, len(before))
            is_compressed = data.startswith(_COMPRESSED)
            hint = "it is compressed: unpack it first" if is_compressed else "save the file as UTF-8"
            raise PolicyError(f"byte 0x{data[error.start]:02x} is not valid UTF-8", place, hint=hint) from None


def combined(errors: Sequence[PolicyError]) -> PolicyError:
    """One error that carries all of ``errors`` (one or more), in the order in which they are given."""
    first, *others = errors
    first.others = tuple(others)
    return first


def parse(text: str, file: str, lines_read: Callable[[int], None] | None = None) -> Mapping:
    """The mapping that a YAML document is. ``file`` is for positions. ``lines_read`` is told the number now and then.

    Raises PolicyError where the text is no YAML, no mapping, or uses what this language leaves out.
    """
    return _Reader(file, lines_read).read(text)


def known_steps(root: Mapping, path: Path) -> Path:
    """``path`` without the steps that the tree does not have."""
    found: list[str | int] = []
    current: Value = root
    for step in path:
        child = _child(current, step)
        if child is not None:
            found.append(step)
            current = child[0]
    return tuple(found)


def node(root: Mapping, path: Path) -> Value:
    """The value at ``path``. Steps that the tree does not have are passed over, here and in ``position``."""
    current: Value = root
    for step in path:
        child = _child(current, step)
        if child is not None:
            current = child[0]
    return current


def position(root: Mapping, file: str, path: Path, *, of_key: bool = False) -> Position:
    """Where the value at ``path`` begins, or its key."""
    current: Value = root
    mark = root.mark
    for step in path:
        child = _child(current, step)
        if child is not None:
            mark = child[2] if of_key else child[1]
            current = child[0]
    return Position(file, mark.line + 1, mark.column + 1)


def _child(parent: Value, step: str | int) -> tuple[Value, Mark, Mark] | None:
    """The value that ``step`` leads to, and the marks of itself and of its key."""
    if isinstance(parent, Mapping) and isinstance(step, str) and step in parent:
        of_key, of_value = parent.marks_of(step)
        return parent[step], of_value, of_key
    if isinstance(parent, Items) and isinstance(step, int) and step < len(parent):
        return parent[step], parent.marks[step], parent.marks[step]
    return None


def scalar(text: str) -> str | int | bool | None:
    """What a plain (unquoted) scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if text[0] in _DIGITS and _NUMBER.fullmatch(text) else text


class _Reader:
    """One pass over libyaml's events, with a stack of its own: libyaml's composer recurses until it crashes."""

    def __init__(self, file: str, lines_read: Callable[[int], None] | None = None) -> None:
        self.file = file
        self.lines_read = lines_read
        self.errors: list[PolicyError] = []

    def read(self, text: str) -> Mapping:
        text = text.removeprefix("\ufeff")
        if refused := _REFUSED_CHARACTER.search(text):
            place = offset(self.file, text, refused.start())
            raise PolicyError(f"character U+{ord(refused[0]):04X} is not allowed in a policy", place)
        try:
            root = self._document(CParser(text))
        except yaml.MarkedYAMLError as error:
            raise combined([*self.errors, self._syntax_error(error, text)]) from None
        except PolicyError as error:
            raise combined([*self.errors, error]) from None
        if self.errors:
            raise combined(self.errors)
        if isinstance(root, Mapping):
            return root
        raise PolicyError(
            "the policy is empty" if root is None else "a policy is a mapping of keys to values",
            Position(self.file, 1, 1),
            hint='it begins with "version: 1"',
        )

    def _document(self, parser: Any) -> Value:
        root: Value = None
        documents = 0
        stack: list[Any] = []
        parent: Any = None  # a Mapping or Items; None outside of both
        awaits_key = False  # the parent is a mapping, and a key comes next
        key = ""
        ended = 0
        next_event = parser.get_event
        while True:
            event = next_event()
            kind = event.__class__
            value: Any
            if kind is ScalarEvent:
                if event.anchor or event.tag:
                    self._refuse_properties(event)
                if awaits_key:
                    key = event.value
                    if key in parent or key in _ODD_KEYS:
                        self._refuse_key(event, parent)
                    parent.marks.append(event.start_mark)
                    awaits_key = False
                    continue
                value = event.value if event.style else scalar(event.value)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if event.anchor or event.tag:
                    self._refuse_properties(event)
                value = Mapping(event.start_mark) if kind is MappingStartEvent else Items(event.start_mark)
                if awaits_key:
                    raise self._error(event, "a key is a single word, not a list or a mapping")
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                stack.pop()
                parent = stack[-1] if stack else None
                awaits_key = parent.__class__ is Mapping
                ended += 1
                if not ended % _TOLD_EVERY and self.lines_read is not None:
                    self.lines_read(event.start_mark.line)
                continue
            elif kind is AliasEvent:
                self._refuse_alias(event)
                if awaits_key:
                    key = f"*{event.anchor}"
                    parent.forget(key)
                    parent.marks.append(event.start_mark)
                    awaits_key = False
                    continue
                value = None
            elif kind is StreamEndEvent:
                return root
            else:
                if kind is DocumentStartEvent:
                    documents += 1
                    if documents > 1:
                        raise self._error(event, "a second document begins here", hint="a policy file holds one")
                continue

            if parent.__class__ is Mapping:
                parent[key] = value
                parent.marks.append(event.start_mark)
                awaits_key = True
            elif parent is None:
                root = value
            else:
                parent.append(value)
                parent.marks.append(event.start_mark)
            if kind is MappingStartEvent or kind is SequenceStartEvent:
                parent = value
                awaits_key = kind is MappingStartEvent
                stack.append(value)
                if len(stack) > MAX_DEPTH:
                    raise self._error(event, f"lists and mappings lie more than {MAX_DEPTH} deep")

    def _refuse_key(self, event: Any, parent: Mapping) -> None:
        key: str = event.value
        if not event.style:
            if key == "<<":
                self.errors.append(self._error(event, "merge keys are not supported", hint="write the keys out"))
            elif key in ("", "~", "null"):
                self.errors.append(self._error(event, "a key is missing before the colon"))
        if (first := parent.forget(key)) is not None:
            self.errors.append(
                self._error(event, f"key {quoted(key)} is there twice", hint=f"first at line {first.line + 1}")
            )

    def _refuse_properties(self, event: Any) -> None:
        if event.anchor:
            self.errors.append(self._error(event, f"anchor &{event.anchor} is not supported", hint="use a set"))
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.errors.append(
                self._error(event, f"tag {tag} is not supported", hint="text that begins with ! needs quotes")
            )

    def _refuse_alias(self, event: Any) -> None:
        self.errors.append(
            self._error(event, f"alias *{event.anchor} is not supported", hint="text that begins with * needs quotes")
        )

    def _error(self, event: Any, message: str, *, hint: str | None = None) -> PolicyError:
        mark = event.start_mark
        return PolicyError(message, Position(self.file, mark.line + 1, mark.column + 1), hint=hint)

    def _syntax_error(self, error: yaml.MarkedYAMLError, text: str) -> PolicyError:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return PolicyError(f"this is no valid YAML: {error.problem}", Position(self.file, 1, 1))
        place = Position(self.file, mark.line + 1, mark.column + 1)
        lines = text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        found = line[mark.column : mark.column + 1]
        if found == "\t":
            return PolicyError("a tab stands where YAML needs spaces", place, hint="indent with spaces")
        if found in ("@", "`", "%") or error.context == "while scanning a tag":
            begins = "!" if error.context == "while scanning a tag" else found
            return PolicyError(f"text that begins with {begins} needs quotes", place, hint=f'as in "{begins}name"')
        message = f"this is no valid YAML: {error.problem}"
        if error.context and error.context_mark:
            start = error.context_mark
            message += f", {error.context} that begins at line {start.line + 1}, column {start.column + 1}"
        return PolicyError(message, place)


def offset(file: str, text: str, index: int) -> Position:
    """The position of the character ``text[index]``."""
    return Position(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))
