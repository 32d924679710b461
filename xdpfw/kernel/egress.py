# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces' way out: where the program sits that sees what is sent.

It is a TCX link where the kernel has them (Linux 6.6), pinned as egress/<ifindex>. Else it is a filter of the qdisc
clsact, which ends with nothing but the interface: a directory egress/<ifindex> is there before the filter is and longer
than it, and in it one that says whether the qdisc is ours, too. Either way it comes before what others have put there,
as they may end a packet's way. Everything happens in the calling thread's network namespace.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from xdpfw.errors import AttachError
from xdpfw.kernel.interface import InterfaceInfo, Link, name_of
from xdpfw.kernel.libbpf import check, ffi, libbpf, options, take_log
from xdpfw.kernel.loader import Program
from xdpfw.kernel.pins import DIRECTORY_MODE, Pins, remove_tree

PROGRAM_TYPE_SCHED_CLS: Final = 3
ATTACH_TYPE_TCX_EGRESS: Final = 47
FLAG_BEFORE: Final = 1 << 3
"""BPF_F_BEFORE: with nothing named, before all others."""

INGRESS: Final = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
EGRESS: Final = 0xFFFFFFF3
FILTER_HANDLE: Final = int.from_bytes(b"xdpf", "big")
FILTER_NAME: Final = "xdpfw"
ETH_P_ALL: Final = 3
TCA_BPF_ID: Final = 11
_NO_CLSACT: Final = "the kernel needs clsact and BPF filters: CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF"


class Hook(enum.StrEnum):
    TCX = "tcx"
    CLSACT = "clsact"


class Egress(Protocol):
    """Our program at an interface's way out. Usable with ``with``."""

    hook: Hook

    @property
    def ifindex(self) -> int:
        """0 once the interface is gone, or somebody has taken the program off."""

    @property
    def program_id(self) -> int | None: ...

    def replace(self, program: Program) -> None:
        """Each packet is seen by the one or the other. Raises AttachError."""

    def detach(self) -> None:
        """Takes it off and removes what is pinned for it. Again is harmless. Raises KernelError."""


class TcxEgress:
    """A pinned link, which is this object's to close."""

    hook = Hook.TCX

    def __init__(self, link: Link, pin: Path) -> None:
        self._link = link
        self._pin = pin

    @property
    def ifindex(self) -> int:
        return self._link.ifindex

    @property
    def program_id(self) -> int | None:
        return self._link.program_id

    def replace(self, program: Program) -> None:
        result = libbpf().bpf_link_update(self._link.fileno(), program.fileno(), options("bpf_link_update_opts"))
        if result < 0:
            take_log()
            raise AttachError("replace", f"what sees packets leave interface {self.ifindex}", -result)

    def detach(self) -> None:
        if self._link.ifindex:
            self._link.detach()
        self._pin.unlink(missing_ok=True)


class FilterEgress:
    """A filter of clsact."""

    hook = Hook.CLSACT

    def __init__(self, ifindex: int, record: Path) -> None:
        self._ifindex = ifindex
        self._record = record

    @property
    def ifindex(self) -> int:
        return self._ifindex if self._find() else 0

    @property
    def program_id(self) -> int | None:
        found = self._find()
        return None if found is None else _program_of(found)

    def replace(self, program: Program) -> None:
        found = self._find()
        if found is None:
            raise AttachError("find", f"filter {FILTER_NAME} of interface {self._ifindex}", errno.ENOENT)
        with _traffic_control(self._ifindex, "replace what sees packets leave") as route:
            self._put(route, "replace-filter", _priority_of(found), program)

    def detach(self) -> None:
        found = self._find()
        with _traffic_control(self._ifindex, "take off what sees packets leave") as route:
            if found is not None:
                route.tc(
                    "del-filter",
                    "bpf",
                    self._ifindex,
                    handle=FILTER_HANDLE,
                    parent=EGRESS,
                    prio=_priority_of(found),
                    protocol=ETH_P_ALL,
                )
            is_empty = not any(_filters(route, self._ifindex, parent) for parent in (INGRESS, EGRESS))
            if self._made_qdisc.exists() and is_empty and _has_clsact(route, self._ifindex):
                route.tc("del", "clsact", self._ifindex)
        remove_tree(self._record)

    def attach(self, program: Program) -> None:
        """Puts the program there. Raises AttachError; then, too, what was begun is for ``detach``."""
        self._record.mkdir(DIRECTORY_MODE, exist_ok=True)
        with _traffic_control(self._ifindex, "attach to the way out of") as route:
            if not _has_clsact(route, self._ifindex):
                self._made_qdisc.mkdir(DIRECTORY_MODE, exist_ok=True)
                route.tc("add", "clsact", self._ifindex)
            self._put(route, "add-filter", _free_priority(_filters(route, self._ifindex, EGRESS)), program)

    @property
    def _made_qdisc(self) -> Path:
        return self._record / "qdisc"

    def _find(self) -> Any | None:
        if name_of(self._ifindex) is None:
            return None
        with _traffic_control(self._ifindex, "look up what sees packets leave") as route:
            return next((each for each in _filters(route, self._ifindex, EGRESS) if _is_ours(each)), None)

    def _put(self, route: Any, command: str, priority: int, program: Program) -> None:
        route.tc(
            command,
            "bpf",
            self._ifindex,
            handle=FILTER_HANDLE,
            parent=EGRESS,
            prio=priority,
            protocol=ETH_P_ALL,
            fd=program.fileno(),
            name=FILTER_NAME,
            direct_action=True,
        )


def held(pins: Pins, opened: contextlib.ExitStack) -> Iterator[Egress]:
    """All that an instance has pinned, those that are nowhere any more among them."""
    for number, path in pins.egress_records().items():
        if path.is_dir():
            yield FilterEgress(number, path)
        else:
            yield TcxEgress(opened.enter_context(Link.open(str(path))), path)


def attach(interface: InterfaceInfo, program: Program, pins: Pins, hook: Hook | None = None) -> None:
    """Makes ``program`` see what the interface sends, before others do. ``hook``: None takes the kernel's best.

    Raises AttachError. ``take_off`` undoes it, also where it was broken off.
    """
    record = pins.egress_record(interface.ifindex)
    if (hook or best_hook(program)) is Hook.CLSACT:
        FilterEgress(interface.ifindex, record).attach(program)
        return
    result = _create_link(program, interface.ifindex)
    if result < 0:
        raise AttachError("attach to the way out of", interface.name, -result)
    with Link(result) as link:
        link.pin(str(record))


def take_off(pins: Pins, ifindex: int) -> None:
    """Undoes ``attach``, as far as it came."""
    with contextlib.ExitStack() as opened:
        for each in held(pins, opened):
            if each.ifindex in (0, ifindex):
                each.detach()


def best_hook(program: Program) -> Hook:
    """TCX where the kernel has it: it is asked for a link to an interface that nobody has."""
    return Hook.TCX if _create_link(program, 0) == -errno.ENODEV else Hook.CLSACT


def null_program() -> Program:
    """``return TC_ACT_UNSPEC`` as two instructions: ``r0 = -1; exit``."""
    instructions = ffi.new("struct bpf_insn[]", [[0xB7 | 0xFFFFFFFF << 32], [0x95]])
    load = options("bpf_prog_load_opts")
    fd = libbpf().bpf_prog_load(PROGRAM_TYPE_SCHED_CLS, b"probe", b"GPL", instructions, len(instructions), load)
    return Program(check(fd, "load", "a program of two instructions"))


def _create_link(program: Program, ifindex: int) -> int:
    """A descriptor, or -errno."""
    link_options = options("bpf_link_create_opts", flags=FLAG_BEFORE)
    result = libbpf().bpf_link_create(program.fileno(), ifindex, ATTACH_TYPE_TCX_EGRESS, link_options)
    take_log()
    return int(result)


@contextlib.contextmanager
def _traffic_control(ifindex: int, operation: str) -> Iterator[Any]:
    """netlink, whose refusals become AttachErrors; that there is no such interface any more is none."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            yield route
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return
            hint = _HINTS.get(error.code)
            raise AttachError(operation, name_of(ifindex) or f"interface {ifindex}", error.code, hint=hint) from None


_HINTS: Final = {
    errno.ENOENT: _NO_CLSACT,
    errno.EOPNOTSUPP: _NO_CLSACT,
    errno.EEXIST: "another instance of xdpfw has a filter there: tc filter show dev INTERFACE egress",
}


def _filters(route: Any, ifindex: int, parent: int) -> list[Any]:
    """Filters, without the entries that stand for a priority as a whole."""
    return [each for each in route.get_filters(ifindex, parent=parent) if each["handle"]]


def _has_clsact(route: Any, ifindex: int) -> bool:
    return any(each.get_attr("TCA_KIND") == "clsact" for each in route.get_qdiscs(ifindex))


def _is_ours(found: Any) -> bool:
    if found["handle"] != FILTER_HANDLE or found.get_attr("TCA_KIND") != "bpf":
        return False
    return bool(found.get_attr("TCA_OPTIONS").get_attr("TCA_BPF_NAME") == FILTER_NAME)


def _priority_of(found: Any) -> int:
    return int(found["info"]) >> 16


def _free_priority(filters: list[Any]) -> int:
    """The first that a filter of our kind may have: all of one priority are of one kind and protocol.

    Among filters of BPF with the same priority, the newest comes first.
    """
    taken = {
        _priority_of(each)
        for each in filters
        if each.get_attr("TCA_KIND") != "bpf" or each["info"] & 0xFFFF != ETH_P_ALL << 8
    }
    return next(priority for priority in itertools.count(1) if priority not in taken)


def _program_of(found: Any) -> int | None:
    """TCA_BPF_ID, which pyroute2 hands on unread."""
    for name, attribute in found.get_attr("TCA_OPTIONS")["attrs"]:
        if name == "UNKNOWN" and attribute["header"]["type"] == TCA_BPF_ID:
            (number,) = struct.unpack_from("=I", attribute.data, attribute.offset + 4)
            return int(number)
    return None
