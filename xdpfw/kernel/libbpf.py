# SPDX-License-Identifier: GPL-2.0-or-later
"""libbpf: the library itself, its log, its errors, and what all kinds of BPF objects have in common."""

from __future__ import annotations

import collections
import errno
import functools
import os
from types import TracebackType
from typing import Any, Final, Self

from xdpfw.errors import KernelError
from xdpfw.kernel._bindings import ffi as _ffi

SONAME: Final = "libbpf.so.1"
MINIMUM_VERSION: Final = (1, 1)
PRIVILEGES_HINT: Final = "this takes root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"

ffi: Final[Any] = _ffi
_log: Final[collections.deque[str]] = collections.deque(maxlen=64)
_keep_alive: Final[list[Any]] = []


@functools.cache
def libc() -> Any:
    """The C library, of which the bindings declare what Python 3.11 does not offer."""
    return ffi.dlopen(None)


@functools.cache
def libbpf() -> Any:
    """The library, from version 1.1 on. Its messages go to ``take_log``, never to standard error.

    Raises KernelError where it is missing or older.
    """
    try:
        library = ffi.dlopen(SONAME)
    except OSError:
        raise KernelError("open", SONAME, errno.ENOENT, hint="apt-get install libbpf1") from None
    found = (library.libbpf_major_version(), library.libbpf_minor_version())
    if found < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        hint = f"libbpf {found[0]}.{found[1]} is too old, {wanted} is the oldest that will do"
        raise KernelError("open", SONAME, errno.ENOPKG, hint=hint)
    callback = ffi.callback("libbpf_print_fn_t", _keep_message)
    library.libbpf_set_print(callback)
    _keep_alive.append(callback)
    return library


def _keep_message(level: int, format: Any, arguments: Any) -> int:
    if level == 0:  # LIBBPF_WARN
        line = ffi.new("char[]", 4096)
        libc().vsnprintf(line, len(line), format, arguments)
        _log.append(ffi.string(line).decode(errors="replace").strip())
    return 0


def take_log() -> list[str]:
    """What libbpf has warned of since the last call."""
    lines = list(_log)
    _log.clear()
    return lines


def check(result: int, operation: str, object: str, *, hint: str | None = None) -> int:
    """``result`` of a call to libbpf, which returns ``-errno`` where it fails.

    Raises KernelError; a missing privilege and libbpf's own words make the hint where none is given.
    """
    log = take_log()
    if result >= 0:
        return result
    raise KernelError(operation, object, -result, hint=hint or _explain(-result, log))


def _explain(number: int, log: list[str]) -> str | None:
    if number in (errno.EPERM, errno.EACCES):
        return PRIVILEGES_HINT
    return "; ".join(line.removeprefix("libbpf: ") for line in log) or None


def options(struct: str, **members: Any) -> Any:
    """``struct <struct> *`` with its size, by which libbpf tells versions apart, and these members."""
    return ffi.new(f"struct {struct} *", {"sz": ffi.sizeof(f"struct {struct}"), **members})


def object_info(fd: int, struct: str) -> Any:
    """``struct <struct> *`` of the object behind ``fd``. Members that this kernel does not know are 0."""
    info = ffi.new(f"struct {struct} *")
    length = ffi.new("__u32 *", ffi.sizeof(info[0]))
    check(libbpf().bpf_obj_get_info_by_fd(fd, info, length), "look up", f"BPF object behind descriptor {fd}")
    return info


def program_name(program_id: int) -> str:
    """The name of a loaded program of any owner; ``"?"`` if it is gone."""
    fd = libbpf().bpf_prog_get_fd_by_id(program_id)
    if fd < 0:
        return "?"
    try:
        return str(ffi.string(object_info(fd, "bpf_prog_info").name).decode())
    finally:
        os.close(fd)


class BpfObject:
    """A program, map or link: a file descriptor that this object owns. Usable with ``with``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Self:
        """What is pinned at ``path``. Raises KernelError."""
        return cls(check(libbpf().bpf_obj_get(os.fsencode(path)), "open", path))

    def fileno(self) -> int:
        return self._fd

    def pin(self, path: str) -> None:
        """Keeps the object alive through a name in bpffs. Raises KernelError, with EEXIST if the name is taken."""
        check(libbpf().bpf_obj_pin(self._fd, os.fsencode(path)), "pin", path)

    def close(self) -> None:
        """Gives the descriptor back; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def locked_bytes(self) -> int:
        """Kernel memory that the object is charged for (0 for a link)."""
        with open(f"/proc/self/fdinfo/{self._fd}", encoding="ascii") as fields:
            return next((int(line.split()[1]) for line in fields if line.startswith("memlock:")), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
