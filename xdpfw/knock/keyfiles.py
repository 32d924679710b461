# SPDX-License-Identifier: GPL-2.0-or-later
"""Key files on disk: read, and written so that nobody else can read them and nobody sees half of one."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from xdpfw.errors import KernelError, Position
from xdpfw.knock.keys import (
    KEY_BYTES,
    MAX_KEY_NUMBER,
    NAME_FORM,
    SERVER_BYTES,
    ClientHalf,
    KeyFileError,
    ServerHalf,
    ServerKey,
    bound_key,
    is_name,
    parse_server_half,
)
from xdpfw.regularfile import regular

MAX_FILE_BYTES: Final = 1 << 20
"""4,096 keys take 400 KiB."""

MODE: Final = 0o600
SECRET_BYTES: Final = 32

_COMMENTED_OUT: Final = re.compile(r"(?m)^[ \t]*#[ \t]*key[ \t]+([1-9][0-9]{0,4})[ \t]")


def read(path: Path) -> str:
    """The text of a key or secret file. Raises KeyFileError."""
    try:
        with open(path, "rb", opener=regular) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeyFileError(f"cannot read {str(path)!r}: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not text in UTF-8") from None


def is_open_to_others(path: Path) -> bool:
    """Whether the file's mode lets others than its owner read or write it. Raises OSError."""
    return path.stat().st_mode & 0o077 != 0


def create(path: Path, text: str) -> None:
    """Writes a new file, for its owner alone. Raises KeyFileError where there is one, else KernelError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        hint = "keys are never overwritten; give another name, or move that file away"
        raise KeyFileError(f"{path} exists already", hint=hint) from None
    except OSError as error:
        raise KernelError("create", str(path), error.errno or 0) from None
    try:
        _fill(descriptor, text)
    except BaseException as error:
        path.unlink()
        if isinstance(error, OSError):
            raise KernelError("write", str(path), error.errno or 0) from None
        raise


def replace(path: Path, text: str) -> None:
    """Gives an existing file another text, at once. Owner and mode stay. Raises KernelError."""
    path = path.resolve()  # where it is a link, the file that it leads to
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        before = path.stat()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, before.st_mode & 0o777)
        except BaseException:
            os.close(descriptor)
            raise
        _fill(descriptor, text)
        temporary.rename(path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise KernelError("replace", str(path), error.errno or 0) from None
        raise


def add_key(
    server_file: Path, client_file: Path, name: str, *, nat: bool = False, port: int | None = None
) -> ClientHalf:
    """Makes a key: a line more in ``server_file``, which is made where there is none, and a new ``client_file``.

    All that stands in the server half stays, comments included. Either both files are written or none. Raises
    KeyFileError, where the name is taken or a half is wrong; KernelError.
    """
    if not is_name(name):
        raise KeyFileError(f"{name!r} is not the name of a key", hint=NAME_FORM)
    if server_file.resolve() == client_file.resolve():
        hint = "give one of them another name"
        raise KeyFileError(f"{server_file} would be both halves, of the server and of the client", hint=hint)
    with _locked(server_file.resolve().parent):
        is_new = not os.path.lexists(server_file)
        text = str(ServerHalf(secrets.token_bytes(SERVER_BYTES))) if is_new else read(server_file)
        half = parse_server_half(text, str(server_file))
        for key in half.keys:
            if key.name == name:
                hint = "give another name, or take that line away, which ends what the key granted"
                place = Position(str(server_file), key.line, 1)
                raise KeyFileError(f"there is a key {name} already", place, hint=hint)
        client = ClientHalf(
            half.server, _new_number(half, text, server_file), name, secrets.token_bytes(KEY_BYTES), port
        )
        added = ServerKey(client.number, name, bound_key(client.key, half.server), nat)
        between = "" if text.endswith("\n") else "\n"
        create(client_file, str(client))
        try:
            (create if is_new else replace)(server_file, f"{text}{between}{added}\n")
        except BaseException:
            client_file.unlink()
            raise
    return client


def new_secret() -> str:
    """The text of a secret for a rotation."""
    return f"{secrets.token_hex(SECRET_BYTES)}\n"


def _new_number(half: ServerHalf, text: str, path: Path) -> int:
    """One above the highest in the file, also of keys that are commented out; the smallest free one where none is.

    Events tell keys by their numbers: that of a removed key would stand for another device.
    """
    taken = {key.number for key in half.keys}
    highest = max(taken | {int(found[1]) for found in _COMMENTED_OUT.finditer(text)}, default=0)
    if highest < MAX_KEY_NUMBER:
        return highest + 1
    free = next((number for number in range(1, MAX_KEY_NUMBER + 1) if number not in taken), None)
    if free is None:
        raise KeyFileError(f"{path} has {MAX_KEY_NUMBER} keys already, and no number is left")
    return free


def _fill(descriptor: int, text: str) -> None:
    """Writes, and waits until it is on the disk. Closes the descriptor. Raises OSError."""
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two that add a key at once would each write a half without the other's. Raises KernelError."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", str(directory), error.errno or 0) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
