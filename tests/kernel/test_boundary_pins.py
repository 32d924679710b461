# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout in bpffs: what is there is whole, and what is removed is gone."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xdpfw.errors import KernelError, UsageError
from xdpfw.kernel.maps import Blob
from xdpfw.kernel.pins import SHORT_CHANGE_S, Pins, ensure_bpffs, instances, is_bpffs, remove_tree
from xdpfw.kernel.program import Generation

pytestmark = pytest.mark.needs("privileges", "bpffs", "data plane")


@pytest.fixture
def pins(bpffs: Path) -> Pins:
    return Pins("default", bpffs)


def pin_blob(directory: Path) -> None:
    with Blob.create("meta", b"{}") as blob:
        blob.pin(str(directory / "meta"))


def fail_half_way(generation: Generation, directory: Path) -> None:
    generation.pin(directory)
    generation.pin(directory)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_generation_is_there_once_it_is_whole(pins: Pins, generation: Generation) -> None:
    with pins.lock():
        with pins.new_generation() as (number, directory):
            generation.pin(directory)
            assert number == 1
            assert pins.generations() == []
        assert pins.generations() == [1]
        with Generation.open(pins.generation(1)) as opened:
            assert opened.program_id == generation.program_id
        with pins.new_generation() as (number, _):
            assert number == 2
        assert pins.generations() == [1, 2]
        pins.remove_generation(1)
        assert pins.generations() == [2]


def test_a_failure_leaves_no_half_generation(pins: Pins, generation: Generation) -> None:
    with pins.lock():
        with pytest.raises(KernelError, match=r"pin .*File exists"), pins.new_generation() as (_, directory):
            fail_half_way(generation, directory)
        assert tree(pins.root) == ["generations", "links"]
    assert tree(pins.bpffs) == []


def test_what_a_killed_process_left_is_removed(pins: Pins) -> None:
    with pins.lock():
        left = pins.root / "generations" / "new-1"
        left.mkdir()
        pin_blob(left)
        assert pins.generations() == []
        pins.remove_unfinished()
        assert not left.exists()


def test_a_new_generation_takes_the_place_of_a_half_one(pins: Pins) -> None:
    with pins.lock():
        left = pins.root / "generations" / "new-1"
        left.mkdir()
        pin_blob(left)
        with pins.new_generation() as (_, directory):
            assert tree(directory) == []


def test_removing_an_instance_leaves_nothing_but_the_others(bpffs: Path) -> None:
    for name in ("one", "two"):
        pins = Pins(name, bpffs)
        with pins.lock(), pins.new_generation() as (_, directory):
            pin_blob(directory)
    assert instances(bpffs) == ["one", "two"]
    with Pins("one", bpffs).lock():
        Pins("one", bpffs).remove()
    assert instances(bpffs) == ["two"]
    with Pins("two", bpffs).lock():
        Pins("two", bpffs).remove()
    assert tree(bpffs) == []


def test_only_the_owner_may_look(pins: Pins) -> None:
    with pins.lock(), pins.new_generation() as (_, directory):
        for path in (pins.root.parent, pins.root, directory.parent, directory, pins.root / "links"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.parametrize("interface", ["eth0", "eth0.100", "a%2Eb", "%25.", "br-lan"])
def test_every_interface_has_a_name_in_bpffs(pins: Pins, interface: str) -> None:
    with pins.lock():
        path = pins.link(interface)
        with Blob.create("stand_in", b"") as blob:
            blob.pin(str(path))
        assert pins.links() == {interface: path}


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "a b", "ä", "x" * 65])
def test_an_instance_name_that_bpffs_would_refuse_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 64 letters, digits, _ and -"):
        Pins(name)


def test_without_privileges_it_says_what_it_takes(pins: Pins, unprivileged: None) -> None:
    with pytest.raises(KernelError, match=r"Permission denied .*this takes root"), pins.lock():
        pass
    with pytest.raises(KernelError, match=r"Permission denied .*this takes root"):
        pins.generations()


def test_nothing_there_reads_as_nothing(pins: Pins) -> None:
    assert (pins.generations(), pins.links(), instances(pins.bpffs)) == ([], {}, [])
    remove_tree(pins.root)


def test_a_second_writer_is_told_who_is_first(pins: Pins, open_descriptors: Callable[[], set[str]]) -> None:
    with pins.lock():
        before = open_descriptors()
        with pytest.raises(KernelError, match=f"process {os.getpid()} is changing it") as caught, pins.lock():
            pass
        assert caught.value.errno == errno.EAGAIN
        assert open_descriptors() == before
        with Pins("another", pins.bpffs).lock():
            pass
    with pins.lock():
        pass


def test_the_lock_ends_with_its_process(pins: Pins) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(pins.bpffs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(KernelError, match=f"process {holder.pid} is changing it"), pins.lock():
            pass
        holder.kill()
        holder.wait(timeout=10)
    with pins.lock():
        pass


def test_who_goes_first_gets_the_lock_from_many_who_give_way(pins: Pins) -> None:
    with pins.lock(), pins.new_generation() as (_, directory):
        pin_blob(directory)
    is_over = threading.Event()
    turns: list[int] = []

    def change_sets(number: int) -> None:
        while not is_over.is_set():
            with pins.lock(30, gives_way=True):
                turns.append(number)
                is_over.wait(0.05)

    changing = [threading.Thread(target=change_sets, args=(number,)) for number in range(4)]
    for each in changing:
        each.start()
    try:
        for _ in range(5):
            with pins.lock(SHORT_CHANGE_S):
                before = len(turns)
                time.sleep(0.1)
                assert len(turns) == before
    finally:
        is_over.set()
        for each in changing:
            each.join()
    with pins.lock(gives_way=True):
        pass


_HOLD = """
import sys
from pathlib import Path
from xdpfw.kernel.pins import Pins
with Pins("default", Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def fresh_mount_point(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if is_bpffs(tmp_path):
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def test_bpffs_is_mounted_where_it_is_not(fresh_mount_point: Path) -> None:
    assert not is_bpffs(fresh_mount_point)
    ensure_bpffs(fresh_mount_point)
    ensure_bpffs(fresh_mount_point)
    assert is_bpffs(fresh_mount_point)
    with Pins("default", fresh_mount_point).lock():
        pass
    mounts = Path("/proc/self/mounts").read_text()
    assert mounts.count(f" {fresh_mount_point} ") == 1


def test_a_read_only_bpffs_is_told_before_anything_is_done(fresh_mount_point: Path) -> None:
    subprocess.run(["mount", "-t", "bpf", "-o", "ro", "bpf", str(fresh_mount_point)], check=True, timeout=10)
    words = rf"write to {fresh_mount_point}: Read-only file system \(mount -o remount,rw {fresh_mount_point}\)"
    with pytest.raises(KernelError, match=words), Pins("default", fresh_mount_point).lock():
        pass


def test_a_place_that_cannot_be_mounted_on_is_named_with_the_command(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with (
        pytest.raises(KernelError, match=f"{missing}: No such file.*mount -t bpf bpf {missing}"),
        Pins("a", missing).lock(),
    ):
        pass


def test_nothing_is_mounted_where_it_would_end_with_the_process() -> None:
    """As under ip netns exec, whose processes have a /sys of their own: apply there would be in force until its end."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare, of the package util-linux")
    program = "from xdpfw.kernel.pins import ensure_bpffs; ensure_bpffs()"
    script = f"mount -t tmpfs tmpfs /sys/fs/bpf && {sys.executable} -c '{program}'"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mounts of its own" in done.stderr
