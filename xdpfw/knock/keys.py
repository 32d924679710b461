# SPDX-License-Identifier: GPL-2.0-or-later
"""The two halves of SPA keys, as text: what stands in the files.

A server half has the keys of all devices, a client half that of one::

    xdpfw-spa-server 1                          xdpfw-spa-client 1
    server 0011223344556677                     server 0011223344556677
    key 1 laptop BASE64 [nat]                   key 1 laptop BASE64
                                                port 62201

One item a line, in any order behind the first; ``#`` begins a comment. The client half has the key itself, 32 random
bytes; the server half has it bound to the server, by bound_key(), and so is of no use at another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xdpfw.errors import PolicyError, Position

VERSION: Final = 1
SERVER_HEADER: Final = "xdpfw-spa-server"
CLIENT_HEADER: Final = "xdpfw-spa-client"
SERVER_BYTES: Final = 8
KEY_BYTES: Final = 32
MAX_KEY_NUMBER: Final = 65535
MAX_NAME_CHARACTERS: Final = 32

NAME_FORM: Final = (
    f"a name has up to {MAX_NAME_CHARACTERS} letters, digits, '.', '_' and '-', and begins with a letter or digit"
)

_KEY_CHARACTERS: Final = 44
_WORD = re.compile(r"\S+")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_SERVER = re.compile(r"[0-9a-fA-F]{16}")
# Longer than any other word of a half, so that this finds keys in comments and broken lines, too.
_SECRET = re.compile(r"[A-Za-z0-9+/]{43,}=*")


class KeyFileError(PolicyError):
    """A key file that is wrong, with the place in it. Its messages have no key material."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """``key``: 32 bytes, bound to the server. ``nat``: any source may use it. ``line`` counts from 1; 0: none yet."""

    number: int
    name: str
    key: bytes = field(repr=False)
    nat: bool = False
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """The line of a server half."""
        return f"key {self.number} {self.name} {_encoded(self.key)}{' nat' if self.nat else ''}"


@dataclass(frozen=True, slots=True)
class ServerHalf:
    """``server``: the id, 8 bytes. ``keys`` in the order of the file; their numbers, names and bytes are distinct."""

    server: bytes
    keys: tuple[ServerKey, ...] = ()

    def __str__(self) -> str:
        """The text of the file."""
        lines = [f"{SERVER_HEADER} {VERSION}", f"server {self.server.hex()}", *map(str, self.keys)]
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class ClientHalf:
    """``key``: 32 bytes, not bound yet. ``port``: of UDP, where the server's is known."""

    server: bytes
    number: int
    name: str
    key: bytes = field(repr=False)
    port: int | None = None

    @property
    def bound(self) -> bytes:
        """What messages to this server are signed with: 32 bytes."""
        return bound_key(self.key, self.server)

    def __str__(self) -> str:
        """The text of the file."""
        lines = [
            f"{CLIENT_HEADER} {VERSION}",
            f"server {self.server.hex()}",
            f"key {self.number} {self.name} {_encoded(self.key)}",
        ]
        if self.port is not None:
            lines.append(f"port {self.port}")
        return "".join(f"{line}\n" for line in lines)


def bound_key(key: bytes, server: bytes) -> bytes:
    """The key, 32 bytes, that a device and this server share: keyed BLAKE2s-256 (RFC 7693) over the server's id."""
    return hashlib.blake2s(server, key=key).digest()


def fingerprint(key: bytes) -> int:
    """64 bits that a bound key is known by: the first 8 bytes of its BLAKE2s-256, little-endian; never 0."""
    return int.from_bytes(hashlib.blake2s(key).digest()[:8], "little") or 1


def redacted(text: str) -> str:
    """A server half with a stand-in for each key, also for those in comments.

    It parses as the half does, and the stand-in of another key is another, but no stand-in tells its key.
    """

    def stand_in(found: re.Match[str]) -> str:
        return _encoded(hashlib.blake2s(found[0].encode(), person=b"xdpfw-st").digest())

    return _SECRET.sub(stand_in, text)


def parse_server_half(text: str, path: str) -> ServerHalf:
    """Raises KeyFileError, with all that is wrong."""
    lines = _Lines(text, path, SERVER_HEADER)
    keys: list[ServerKey] = []
    for item in lines.items:
        with lines.collecting():
            if item.keyword == "server":
                lines.take_server(item)
            elif item.keyword == "key":
                key = lines.server_key(item)
                lines.check_distinct(item, key, keys)
                keys.append(key)
            else:
                raise lines.unknown(item, "server and key")
    return ServerHalf(lines.finish(), tuple(keys))


def parse_client_half(text: str, path: str) -> ClientHalf:
    """Raises KeyFileError, with all that is wrong."""
    lines = _Lines(text, path, CLIENT_HEADER)
    keys: list[ServerKey] = []
    ports: list[int] = []
    for item in lines.items:
        with lines.collecting():
            if item.keyword == "server":
                lines.take_server(item)
            elif item.keyword == "key":
                if keys:
                    raise lines.error(item, 0, "is a second key", hint="a client half has one")
                keys.append(lines.client_key(item))
            elif item.keyword == "port":
                if ports:
                    raise lines.error(item, 0, "stands here again", hint="a client half has one port at most")
                ports.append(lines.port(item))
            else:
                raise lines.unknown(item, "server, key and port")
    server = lines.finish()
    if not keys:
        raise lines.missing("key", "key NUMBER NAME BASE64")
    return ClientHalf(server, keys[0].number, keys[0].name, keys[0].key, ports[0] if ports else None)


class _Word(NamedTuple):
    text: str
    column: int


class _Item(NamedTuple):
    line: int
    words: tuple[_Word, ...]

    @property
    def keyword(self) -> str:
        return self.words[0].text


class _Lines:
    """The items of a half behind its first line, and what was found wrong so far."""

    def __init__(self, text: str, path: str, header: str) -> None:
        self._path = path
        self._errors: list[KeyFileError] = []
        self._server: bytes | None = None
        self._has_server = False  # be it right or wrong
        self._last_line = text.count("\n") + (not text.endswith("\n"))
        items = tuple(_items(text))
        right = f"{header} {VERSION}"
        if not items:
            raise KeyFileError("the file is empty", Position(path, 1, 1), hint=f"its first line is {right}")
        words = [word.text for word in items[0].words]
        if words != [header, str(VERSION)]:
            raise self.error(items[0], 0, *_header_problem(words, header))
        self.items = items[1:]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """What is wrong with an item is told together with what is wrong with others."""
        try:
            yield
        except KeyFileError as error:
            self._errors.append(error)

    def finish(self) -> bytes:
        """The server's id, where nothing was wrong. Raises KeyFileError."""
        if not self._has_server:
            self._errors.append(self.missing("server", "server ID, 16 hexadecimal digits"))
        if self._errors:
            first, *others = self._errors
            raise KeyFileError(first.message, first.position, hint=first.hint, others=others)
        assert self._server is not None
        return self._server

    def error(self, item: _Item, index: int, message: str, hint: str | None = None) -> KeyFileError:
        """About a word of an item: ``message`` goes on from it. Where there is no such word, from the item's first."""
        word = item.words[min(index, len(item.words) - 1)]
        return KeyFileError(f"{_shown(word.text)} {message}", Position(self._path, item.line, word.column), hint=hint)

    def missing(self, what: str, form: str) -> KeyFileError:
        return KeyFileError(f"the file has no {what}", Position(self._path, self._last_line, 1), hint=f"add {form}")

    def unknown(self, item: _Item, known: str) -> KeyFileError:
        return self.error(item, 0, "is not known here", hint=f"lines begin with {known}")

    def take_server(self, item: _Item) -> None:
        if self._has_server:
            raise self.error(item, 0, "stands here again", hint="a half is of one server")
        self._has_server = True
        if len(item.words) != 2:
            raise self._form(item, "server ID")
        if not _SERVER.fullmatch(item.words[1].text):
            raise self.error(item, 1, "is not the id of a server", hint="it has 16 hexadecimal digits")
        self._server = bytes.fromhex(item.words[1].text)

    def server_key(self, item: _Item) -> ServerKey:
        if len(item.words) not in (4, 5):
            raise self._form(item, "key NUMBER NAME BASE64, and nat behind it where any source may use the key")
        if len(item.words) == 5 and item.words[4].text != "nat":
            raise self.error(item, 4, "is not known here", hint="behind a key stands nat or nothing")
        return self._key(item, nat=len(item.words) == 5)

    def client_key(self, item: _Item) -> ServerKey:
        if len(item.words) != 4:
            raise self._form(item, "key NUMBER NAME BASE64")
        return self._key(item, nat=False)

    def _key(self, item: _Item, *, nat: bool) -> ServerKey:
        number, name, key = (word.text for word in item.words[1:4])
        if not _NUMBER.fullmatch(number) or int(number) > MAX_KEY_NUMBER:
            raise self.error(item, 1, "is not the number of a key", hint=f"numbers are 1 to {MAX_KEY_NUMBER}")
        if not is_name(name):
            raise self.error(item, 2, "is not the name of a key", hint=NAME_FORM)
        decoded = _decoded(key)
        if decoded is None:
            message = f"{name} has a word of {len(key)} characters that is not {KEY_BYTES} bytes in base64"
            raise KeyFileError(
                f"key {message}",
                Position(self._path, item.line, item.words[3].column),
                hint=f"it has {_KEY_CHARACTERS} characters, the last one =",
            )
        return ServerKey(int(number), name, decoded, nat, item.line)

    def check_distinct(self, item: _Item, key: ServerKey, others: list[ServerKey]) -> None:
        for other in others:
            if key.number == other.number:
                raise self.error(item, 1, f"is the number of {other.name} in line {other.line}, too")
            if key.name == other.name:
                raise self.error(item, 2, f"is the name of key {other.number} in line {other.line}, too")
            if key.key == other.key:
                hint = "each device has one of its own: xdpfw keygen"
                raise self.error(item, 2, f"has the same key as {other.name} in line {other.line}", hint=hint)

    def port(self, item: _Item) -> int:
        if len(item.words) != 2:
            raise self._form(item, "port NUMBER")
        if not _NUMBER.fullmatch(item.words[1].text) or int(item.words[1].text) > 65535:
            raise self.error(item, 1, "is not a port", hint="ports are 1 to 65535")
        return int(item.words[1].text)

    def _form(self, item: _Item, form: str) -> KeyFileError:
        found = len(item.words) - 1
        what = f"{found} word{'' if found == 1 else 's'}" if found else "nothing"
        return self.error(item, 0, f"has {what} behind it", hint=f"write {form}")


def is_name(text: str) -> bool:
    """Whether a key may have this name; NAME_FORM says how they are."""
    return _NAME.fullmatch(text) is not None


def _items(text: str) -> Iterator[_Item]:
    for line, content in enumerate(text.split("\n"), start=1):
        code = content.partition("#")[0]
        if words := tuple(_Word(found[0], found.start() + 1) for found in _WORD.finditer(code)):
            yield _Item(line, words)


def _header_problem(words: list[str], header: str) -> tuple[str, str]:
    right = f"{header} {VERSION}"
    if words[0] == header:
        version = " ".join(words[1:]) or "nothing"
        return f"has {_shown(version)} behind it, where only version {VERSION} is known", f"write {right}"
    if words[0] == CLIENT_HEADER:
        return "begins a client half, where a server half belongs", "a client half stays with its device"
    if words[0] == SERVER_HEADER:
        return "begins a server half, where a client half belongs", "xdpfw keygen NAME writes NAME.key for the client"
    return f"does not begin a {'server' if header == SERVER_HEADER else 'client'} half", f"its first line is {right}"


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _decoded(text: str) -> bytes | None:
    """The 32 bytes, or None: there is one way only to write a key."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES and _encoded(key) == text else None


def _shown(word: str) -> str:
    """A word as messages show it, unless it could be a key."""
    if len(word) > MAX_NAME_CHARACTERS:
        return f"a word of {len(word)} characters"
    return word if re.fullmatch(r"[!-~]+", word) else ascii(word)
