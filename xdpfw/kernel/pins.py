# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout in bpffs, which is all the memory that xdpfw has.

    <bpffs>/xdpfw/<instance>/generations/<number>/program, tables, ...   a generation (xdpfw.kernel.program)
                                                  meta, source           what it was made from (Blob)
                             generations/new-<number>/                   one that is being put together, or removed
                             links/<interface>                           XDP links
                             egress/<ifindex>                            what sees them send (xdpfw.kernel.egress)
                             state/grants, events, ...                   what outlives generations (xdpfw.kernel.state)
                             syncookies                                  a setting to put back (xdpfw.cookies)

A generation is there once its directory has its number: one rename puts it there whole. bpffs keeps names with a dot
for itself, so interfaces such as ``eth0.100`` are written with ``%2E``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xdpfw.errors import KernelError, UsageError
from xdpfw.kernel.libbpf import ffi, libc

BPFFS: Final = Path("/sys/fs/bpf")
BPFFS_MAGIC: Final = 0xCAFE4A11
STATFS_BYTES: Final = 256
DIRECTORY_MODE: Final = 0o700
NEW_PREFIX: Final = "new-"
SHORT_CHANGE_S: Final = 10.0
"""What changes a set or the like, as integrations do every moment, has the lock for less: worth waiting for."""

LOCK_INTERVAL_S: Final = 0.02
INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_bpffs(path: Path) -> bool:
    """True if ``path`` lies on a BPF file system."""
    status = ffi.new("long[]", STATFS_BYTES // ffi.sizeof("long"))
    return bool(libc().statfs(os.fsencode(path), status) == 0 and status[0] == BPFFS_MAGIC)


def ensure_bpffs(path: Path = BPFFS) -> None:
    """Mounts a BPF file system on ``path`` where there is none. Raises KernelError, which names the command for it.

    Not in a mount namespace that ends with its processes, as that of ``ip netns exec``: the firewall would end with it.
    """
    if is_bpffs(path):
        return
    if _has_own_mounts():
        raise KernelError("find the BPF file system on", str(path), errno.ENOENT, hint=_OWN_MOUNTS)
    if libc().mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") < 0:
        hint = f"as root: mount -t bpf bpf {path}"
        raise KernelError("mount the BPF file system on", str(path), ffi.errno, hint=hint)


_OWN_MOUNTS: Final = (
    "this process has mounts of its own, as under ip netns exec, and the firewall would end with them: "
    "call xdpfw outside, with --netns NS, or mount -t bpf bpf /sys/fs/bpf here if that is what you want"
)


def _has_own_mounts() -> bool:
    """Whether a process that this one comes from has another mount namespace, as far as one may look."""
    own = os.stat("/proc/self/ns/mnt")
    process = os.getppid()
    while process:
        with contextlib.suppress(OSError):
            if not os.path.samestat(own, os.stat(f"/proc/{process}/ns/mnt")):
                return True
        process = _parent(process)
    return False


def _parent(process: int) -> int:
    """0 for the first process, and for one that is gone. /proc/PID/stat: ``42 (name) S 1 ...``."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


@dataclass(frozen=True, slots=True)
class Pins:
    """One instance's part of bpffs. Nothing is there before ``lock`` makes it."""

    instance: str = "default"
    bpffs: Path = BPFFS

    def __post_init__(self) -> None:
        if not INSTANCE_NAME.fullmatch(self.instance):
            raise UsageError(
                f"instance name {self.instance!r}", hint="1 to 64 letters, digits, _ and - make an instance's name"
            )

    @property
    def root(self) -> Path:
        return self.bpffs / "xdpfw" / self.instance

    @property
    def state(self) -> Path:
        """Where the maps that outlive generations are pinned, all of them or none."""
        return self.root / "state"

    @property
    def syncookies(self) -> Path:
        """Where it is pinned what the TCP stack's setting was."""
        return self.root / "syncookies"

    @property
    def _removed_state(self) -> Path:
        return self.root / "removed-state"

    @contextlib.contextmanager
    def new_state(self) -> Iterator[Path]:
        """An empty directory to pin state into, which takes the place of what is there.

        An exception in the context removes it. Needs ``lock``.
        """
        new = self.root / "new-state"
        remove_tree(new)
        _make(new)
        try:
            yield new
            self.remove_state()
            new.rename(self.state)
        except BaseException:
            remove_tree(new)
            raise

    def remove_state(self) -> None:
        """Unpins it; none is fine. Renamed first, so that it is there whole or not at all."""
        remove_tree(self._removed_state)
        with contextlib.suppress(FileNotFoundError):
            self.state.rename(self._removed_state)
        remove_tree(self._removed_state)

    @property
    def links_directory(self) -> Path:
        return self.root / "links"

    def link(self, interface: str) -> Path:
        """Where the link of this interface is pinned."""
        return self.links_directory / interface.replace("%", "%25").replace(".", "%2E")

    def link_under_way(self, ifindex: int) -> Path:
        """Where a link is pinned while interfaces exchange their names. No interface's name has a space."""
        return self.links_directory / f"renamed {ifindex}"

    def links(self) -> dict[str, Path]:
        """Pinned links by interface."""
        return {_interface(name): self.links_directory / name for name in _names(self.links_directory)}

    @property
    def _egress_directory(self) -> Path:
        return self.root / "egress"

    def egress_record(self, ifindex: int) -> Path:
        """What is to stand for our program at the way out of this interface: a link, or a directory."""
        _make(self._egress_directory)
        return self._egress_directory / str(ifindex)

    def egress_records(self) -> dict[int, Path]:
        """Those that are there, by interface index as it was when they were made."""
        return {int(name): self._egress_directory / name for name in _names(self._egress_directory)}

    def generation(self, number: int) -> Path:
        return self._generations_directory / str(number)

    def generations(self) -> list[int]:
        """The numbers of all that were committed, the oldest first."""
        return sorted(int(name) for name in _names(self._generations_directory) if name.isdecimal())

    @contextlib.contextmanager
    def new_generation(self) -> Iterator[tuple[int, Path]]:
        """A number that is free, and an empty directory to pin into.

        Leaving the context commits it; an exception removes the directory with all that is in it. Needs ``lock``.
        """
        number = max(self.generations(), default=0) + 1
        directory = self._generations_directory / f"{NEW_PREFIX}{number}"
        remove_tree(directory)
        _make(directory)
        try:
            yield number, directory
            directory.rename(self.generation(number))
        except BaseException:
            remove_tree(directory)
            self.remove_generation(number)  # a signal may have come behind the rename
            raise

    def remove_generation(self, number: int) -> None:
        """Unpins a generation; none is fine. It lives on where an interface runs it.

        Renamed first, so that it is there whole or not at all, even for a process that is killed meanwhile.
        """
        removed = self._generations_directory / f"{NEW_PREFIX}{number}"
        remove_tree(removed)
        with contextlib.suppress(FileNotFoundError):
            self.generation(number).rename(removed)
        remove_tree(removed)

    def remove_unfinished(self) -> None:
        """Removes what a process that was killed left half done. Needs ``lock``."""
        for name in _names(self._generations_directory):
            if name.startswith(NEW_PREFIX):
                remove_tree(self._generations_directory / name)
        for left in (self.root / "new-state", self._removed_state):
            remove_tree(left)
        for name in _names(self.state):
            if name.startswith(NEW_PREFIX):
                (self.state / name).unlink()

    def remove(self) -> None:
        """Removes everything of this instance, links included."""
        self.remove_state()
        for number in self.generations():
            self.remove_generation(number)
        remove_tree(self.root)
        with contextlib.suppress(OSError):  # other instances are there
            self.root.parent.rmdir()

    @contextlib.contextmanager
    def lock(self, wait_s: float = 0, *, gives_way: bool = False) -> Iterator[None]:
        """Keeps other writers of this instance out; makes its directories. A lock ends with its process.

        ``wait_s``: how long another process may have it still. ``gives_way``: whoever waits and does not give way goes
        first, so that an ``apply`` gets it however many bans are made one behind the other. Raises KernelError: EAGAIN
        where another process has it then, too, EROFS where nothing can be written.
        """
        ensure_bpffs(self.bpffs)
        if os.statvfs(self.bpffs).f_flag & os.ST_RDONLY:
            raise KernelError("write to", str(self.bpffs), errno.EROFS, hint=f"mount -o remount,rw {self.bpffs}")
        descriptor = self._lock(time.monotonic() + wait_s, gives_way)
        try:
            for directory in (self._generations_directory, self.links_directory):
                _make(directory)
            yield
        finally:
            try:
                self._remove_if_empty()
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def lock_all(self) -> Iterator[None]:
        """Keeps other instances out of what all of them share, for a moment. Needs ``lock``."""
        descriptor = os.open(self.root.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def _generations_directory(self) -> Path:
        return self.root / "generations"

    def _lock(self, deadline_s: float, gives_way: bool) -> int:
        """An open descriptor of the instance's directory, locked. ``deadline_s``: of the monotonic clock."""
        first = None
        try:
            while True:
                try:
                    _make(self.root.parent)
                    _make(self.root)
                    descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
                except FileNotFoundError:  # another process has just removed it
                    continue
                except OSError as error:
                    raise _refusal("open", self.root, error) from None
                if (not gives_way or self._is_nobody_first()) and _flock(descriptor, fcntl.LOCK_EX):
                    if _is(descriptor, self.root):
                        return descriptor
                    os.close(descriptor)
                    continue
                holder = _lock_holder(descriptor)
                os.close(descriptor)
                if time.monotonic() >= deadline_s:
                    hint = f"process {holder} is changing it" if holder else "another process is changing it"
                    raise KernelError("lock", f"instance {self.instance}", errno.EAGAIN, hint=hint)
                if first is None and not gives_way:
                    first = self._go_first()
                time.sleep(LOCK_INTERVAL_S)
        finally:
            if first is not None:
                os.close(first)

    def _go_first(self) -> int | None:
        """Has those who give way do so until what it returns is closed; None where another one goes first already.

        It is the lock of the generations' directory. Where nothing is in force there is none, and nobody to go before.
        """
        try:
            descriptor = os.open(self._generations_directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        if _flock(descriptor, fcntl.LOCK_EX):
            return descriptor
        os.close(descriptor)
        return None

    def _is_nobody_first(self) -> bool:
        try:
            descriptor = os.open(self._generations_directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return True
        try:
            return _flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # none is there where nothing that is sent is seen
            self._egress_directory.rmdir()
        with contextlib.suppress(OSError):
            for directory in (self._generations_directory, self.links_directory, self.root, self.root.parent):
                directory.rmdir()


def instances(bpffs: Path = BPFFS) -> list[str]:
    """The instances that have something in bpffs, by name."""
    return sorted(_names(bpffs / "xdpfw"))


def remove_tree(directory: Path) -> None:
    """Unpins all that is below ``directory``, and the directory itself; none is fine."""
    for name in _names(directory):
        path = directory / name
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink()
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()


def _make(directory: Path) -> None:
    try:
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal("make directory", directory, error) from None


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _refusal("list", directory, error) from None


def _refusal(operation: str, path: Path, error: OSError) -> KernelError:
    hint = "this takes root" if isinstance(error, PermissionError) else None
    return KernelError(operation, str(path), error.errno or 0, hint=hint)


def _interface(name: str) -> str:
    return name.replace("%2E", ".").replace("%25", "%")


def _flock(descriptor: int, kind: int) -> bool:
    """False where another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    """False if another process has removed the directory in between, and perhaps made it anew."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_holder(descriptor: int) -> int | None:
    """The process that has the lock. A line of /proc/locks: ``1: FLOCK ADVISORY WRITE 42 00:1f:5678 0 EOF``."""
    inode = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return int(fields[4])
    return None
