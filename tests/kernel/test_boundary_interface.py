# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces, links and network namespaces, with a veth pair of each test's own (conftest.Pair draws it)."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xdpfw.errors import AttachError, KernelError
from xdpfw.kernel.interface import Attached, InterfaceInfo, Link, Mode, attach, attached, find, name_of, namespace
from xdpfw.kernel.maps import wait_for_programs
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

pytestmark = pytest.mark.needs("privileges", "data plane")

ARPHRD_NONE = 0xFFFE


@pytest.fixture
def here(veth: Any) -> Iterator[InterfaceInfo]:
    """This end of the pair, with the test inside its namespace."""
    with namespace(veth.namespace):
        yield find(veth.name)


@pytest.fixture
def other(image: Any) -> Iterator[Generation]:
    with Generation.load(image, interfaces=[], targets=[]) as loaded:
        yield loaded


def test_an_interface_is_found_with_what_it_is(here: InterfaceInfo) -> None:
    assert (here.name, here.kind, here.mtu, here.up, here.attached) == ("veth0", "veth", 1500, True, None)
    loopback = find("lo")
    assert (loopback.ifindex, loopback.kind, loopback.up) == (LOOPBACK, None, False)
    assert name_of(here.ifindex) == "veth0"
    assert (name_of(999), attached(999)) == (None, None)


def test_a_misspelt_interface_is_answered_with_the_nearest(here: InterfaceInfo) -> None:
    with pytest.raises(AttachError, match="did you mean veth0\\? interfaces here: lo, veth0") as caught:
        find("vet0")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(AttachError, match="interface a-name-that-is-too-long"):
        find("a-name-that-is-too-long")


@pytest.mark.parametrize(("wanted", "got"), [("native", Mode.NATIVE), ("generic", Mode.GENERIC), ("auto", Mode.NATIVE)])
def test_a_link_runs_the_program_until_its_last_descriptor(
    here: InterfaceInfo, generation: Generation, wanted: str, got: Mode
) -> None:
    link, mode, note = attach(here, generation.program, wanted)
    with link:
        assert (mode, note) == (got, None)
        assert (link.program_id, link.ifindex) == (generation.program_id, here.ifindex)
        assert find("veth0").attached == Attached(generation.program_id, got)
    assert attached(here.ifindex) is None


def test_auto_falls_back_and_says_why(here: InterfaceInfo, generation: Generation) -> None:
    link, mode, note = attach(find("lo"), generation.program, "auto")
    with link:
        assert mode is Mode.GENERIC
        assert note is not None
        assert note.startswith("lo runs in generic mode: attach to lo in native mode: Operation not supported")
        assert attached(LOOPBACK) == Attached(generation.program_id, Mode.GENERIC)


def test_native_where_there_is_none_names_the_modes_that_would_do(here: InterfaceInfo, generation: Generation) -> None:
    with pytest.raises(AttachError, match="mode: auto or mode: generic") as caught:
        attach(find("lo"), generation.program, "native")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert attached(LOOPBACK) is None


def test_a_refusal_has_the_kernels_own_words(here: InterfaceInfo, generation: Generation) -> None:
    with pytest.raises(AttachError, match="the kernel says: Underlying driver does not support XDP in native mode"):
        attach(find("lo"), generation.program, "native")


@pytest.mark.parametrize("mode", ["native", "generic", "auto"])
@pytest.mark.parametrize("held", ["native", "generic"])
def test_another_program_is_never_taken_over(
    here: InterfaceInfo, generation: Generation, other: Generation, held: str, mode: str
) -> None:
    foreign = attach(here, other.program, held).link
    with foreign:
        words = f"program {other.program_id}, named xdpfw, is on it in {held} mode, and is never taken over"
        with pytest.raises(AttachError, match=words) as caught:
            attach(here, generation.program, mode)
        assert caught.value.errno in (errno.EBUSY, errno.EEXIST)
        assert attached(here.ifindex) == Attached(other.program_id, Mode(held))


def test_what_is_not_ethernet_is_refused(generation: Generation) -> None:
    tunnel = InterfaceInfo("tun0", 7, ARPHRD_NONE, 1500, "tun", True, None)
    with pytest.raises(AttachError, match=r"attach to tun0: Protocol not supported .*its link type is 65534"):
        attach(tunnel, generation.program, "auto")


def test_a_program_is_replaced_only_by_who_knows_it(
    here: InterfaceInfo, generation: Generation, other: Generation
) -> None:
    with attach(here, generation.program, "auto").link as link:
        link.replace(generation.program, other.program)
        assert link.program_id == other.program_id
        with pytest.raises(AttachError, match="not the program that was put there last") as caught:
            link.replace(generation.program, other.program)
        assert caught.value.errno == errno.EPERM
        assert link.program_id == other.program_id


def test_a_pinned_link_holds_until_it_is_detached(here: InterfaceInfo, generation: Generation, bpffs: Path) -> None:
    path = str(bpffs / "link")
    with attach(here, generation.program, "auto").link as link:
        link.pin(path)
    assert attached(here.ifindex) == Attached(generation.program_id, Mode.NATIVE)
    with Link.open(path) as link:
        assert link.ifindex == here.ifindex
        link.detach()
        assert link.ifindex == 0
        link.detach()
        with pytest.raises(AttachError, match="the interface is gone"):
            link.replace(generation.program, generation.program)
    assert attached(here.ifindex) is None


def test_a_link_outlives_its_interface_without_harm(here: InterfaceInfo, generation: Generation) -> None:
    from pyroute2 import IPRoute

    with attach(here, generation.program, "auto").link as link:
        with IPRoute() as route:
            route.link("del", index=here.ifindex)
        assert link.ifindex == 0
        link.detach()


def test_nothing_stays_behind(here: InterfaceInfo, image: Any, open_descriptors: Callable[[], set[str]]) -> None:
    find("veth0")
    before = open_descriptors()
    with Generation.load(image, interfaces=[here.ifindex], targets=[]) as generation:
        for mode in ("native", "generic", "auto"):
            attach(find("veth0"), generation.program, mode).link.close()
        with pytest.raises(AttachError):
            attach(find("lo"), generation.program, "native")
        with pytest.raises(AttachError):
            find("veth7")
    wait_for_programs()
    assert open_descriptors() == before


def inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_namespace_is_entered_by_this_thread_alone_and_left_again(veth: Any) -> None:
    home = inode()
    elsewhere: list[int] = []
    inside = threading.Event()
    other_thread = threading.Thread(target=lambda: elsewhere.append(inode()) if inside.wait(10) else None)
    other_thread.start()
    with namespace(veth.namespace):
        assert inode() == Path("/run/netns", veth.namespace).stat().st_ino != home
        assert find(veth.name).up
        assert Path("/sys/fs/bpf").exists()
        inside.set()
        other_thread.join()
        with namespace(veth.peer_namespace):
            assert find(veth.peer).up
        with pytest.raises(ZeroDivisionError), namespace(veth.peer_namespace):
            raise ZeroDivisionError
        assert inode() != home
    assert inode() == home == elsewhere[0]
    with namespace(None):
        assert inode() == home


def test_a_namespace_that_is_not_there_is_named_with_those_that_are(veth: Any) -> None:
    with (
        pytest.raises(KernelError, match=f"network namespace no-such: .*there are: .*{veth.namespace}"),
        namespace("no-such"),
    ):
        pass
