# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces: what they are, which XDP program they run, and how ours gets there.

Everything happens in the calling thread's network namespace; ``namespace`` changes it. pyroute2 takes 0.15 s to import
and is imported where it is used, so that commands which only read stay fast.
"""

from __future__ import annotations

import contextlib
import enum
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from xdpfw.errors import AttachError, KernelError
from xdpfw.kernel.libbpf import BpfObject, check, ffi, libbpf, libc, object_info, options, program_name, take_log
from xdpfw.kernel.loader import Program

NAMESPACES: Final = Path("/run/netns")
CLONE_NEWNET: Final = 0x40000000
ATTACH_TYPE_XDP: Final = 37
LINK_UPDATE_REPLACE: Final = 1 << 2
XDP_UPDATE_IF_NOEXIST: Final = 1 << 0
IFF_UP: Final = 1 << 0
ARPHRD_ETHER: Final = 1
ARPHRD_LOOPBACK: Final = 772


class Mode(enum.StrEnum):
    """Where a program sits: in the driver, or behind it in the kernel's generic path."""

    NATIVE = "native"
    GENERIC = "generic"


_MODE_FLAGS: Final = {Mode.NATIVE: 1 << 2, Mode.GENERIC: 1 << 1}  # XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
_MODES: Final = {1: Mode.NATIVE, 2: Mode.GENERIC}  # XDP_ATTACHED_DRV, XDP_ATTACHED_SKB


class Attached(NamedTuple):
    """The XDP program that an interface runs. ``mode`` is None for one in hardware, or several at once."""

    program_id: int
    mode: Mode | None


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    name: str
    ifindex: int
    link_type: int  # ARPHRD_*
    mtu: int  # bytes of payload, Ethernet header not included
    kind: str | None  # of a virtual device: "veth", "bridge", ...; None for hardware and lo
    up: bool
    attached: Attached | None
    mac: bytes = bytes(6)  # as on the wire


class Attachment(NamedTuple):
    """A link that was made. ``note`` says why ``auto`` fell back, where it did."""

    link: Link
    mode: Mode
    note: str | None


@contextlib.contextmanager
def namespace(name: str | None) -> Iterator[None]:
    """Puts this thread into the network namespace ``/run/netns/NAME`` and back; None stays where it is.

    Threads and processes that start meanwhile start there. Only the network namespace changes: bpffs and files stay
    in sight, unlike under ``ip netns exec``. Sockets belong to the namespace that they were made in, so none may be
    carried across. Raises KernelError.
    """
    if name is None:
        yield
        return
    with contextlib.ExitStack() as opened:
        home = opened.enter_context(open("/proc/thread-self/ns/net", "rb"))
        target = opened.enter_context(_open_namespace(name))
        _enter(target.fileno(), f"network namespace {name}")
        try:
            yield
        finally:
            _enter(home.fileno(), "the network namespace of before")


def check_namespace(name: str) -> None:
    """Raises KernelError where there is no network namespace ``/run/netns/NAME``."""
    _open_namespace(name).close()


def _open_namespace(name: str) -> BinaryIO:
    try:
        return open(NAMESPACES / name, "rb")
    except OSError as error:
        known = ", ".join(sorted(path.name for path in NAMESPACES.glob("*"))) or "none"
        hint = f"ip netns add {name} makes it; there are: {known}"
        raise KernelError("open", f"network namespace {name}", error.errno or 0, hint=hint) from None


def _enter(fd: int, label: str) -> None:
    if libc().setns(fd, CLONE_NEWNET) < 0:
        check(-ffi.errno, "enter", label)


def find(name: str) -> InterfaceInfo:
    """What the kernel knows of an interface. Raises AttachError where there is none of this name."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            found = route.link("get", ifname=name)[0]
        except NetlinkError as error:
            names = [message.get_attr("IFLA_IFNAME") for message in route.get_links()]
            missing = AttachError("find", f"interface {name}", error.code, hint=_names_near(name, names))
            if error.code == errno.ENODEV:
                missing.message = f"interface {name} does not exist here"
            raise missing from None
        information = found.get_attr("IFLA_LINKINFO")
        return InterfaceInfo(
            name=found.get_attr("IFLA_IFNAME"),
            ifindex=found["index"],
            link_type=found["ifi_type"],
            mtu=found.get_attr("IFLA_MTU"),
            kind=information.get_attr("IFLA_INFO_KIND") if information else None,
            up=bool(found["flags"] & IFF_UP),
            attached=attached(found["index"]),
            mac=bytes.fromhex((found.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        )


def _names_near(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    there = f"interfaces here: {', '.join(names)}"
    return f"did you mean {near[0]}? {there}" if near else there


def attached(ifindex: int) -> Attached | None:
    """The XDP program of an interface, whoever's it is; quick. None, too, where there is no such interface."""
    query = options("bpf_xdp_query_opts")
    check(libbpf().bpf_xdp_query(ifindex, 0, query), "look up", f"XDP program of interface {ifindex}")
    program_id = query.prog_id or query.drv_prog_id or query.skb_prog_id or query.hw_prog_id
    return Attached(program_id, _MODES.get(query.attach_mode)) if program_id else None


class Link(BpfObject):
    """The tie of our program to an interface. It ends with its last pin and descriptor, or with the interface."""

    @property
    def program_id(self) -> int:
        return int(self._info.prog_id)

    @property
    def ifindex(self) -> int:
        """0 once the interface is gone."""
        return int(self._info.xdp_ifindex)

    @property
    def _info(self) -> Any:
        return object_info(self._fd, "bpf_link_info")

    def replace(self, expected: Program, new: Program) -> None:
        """Puts ``new`` in the place of ``expected``: each packet meets the one or the other.

        Raises AttachError: EPERM where the link does not run ``expected``, ENOLINK where the interface is gone.
        """
        update = options("bpf_link_update_opts", flags=LINK_UPDATE_REPLACE, old_prog_fd=expected.fileno())
        result = libbpf().bpf_link_update(self._fd, new.fileno(), update)
        if result < 0:
            take_log()
            raise AttachError(
                "replace", f"program of interface {self.ifindex}", -result, hint=_REPLACE_HINTS.get(-result)
            )

    def detach(self) -> None:
        """Takes the program off the interface at once, whatever pins there are. Again is harmless."""
        check(libbpf().bpf_link_detach(self._fd), "detach", f"XDP link of interface {self.ifindex}")


_REPLACE_HINTS: Final = {
    errno.EPERM: "it is not the program that was put there last: is another xdpfw at work?",
    errno.ENOLINK: "the interface is gone",
}


def attach(interface: InterfaceInfo, program: Program, mode: str) -> Attachment:
    """Makes the interface run ``program``. ``mode`` is ``native``, ``generic`` or ``auto``: native, else generic.

    Raises AttachError where the interface is not Ethernet, is held by another program (which is never taken over) or
    refuses; the kernel's own words are in its hint where it has any.
    """
    if interface.link_type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        hint = f"its link type is {interface.link_type}; a firewall in XDP reads Ethernet frames"
        raise AttachError("attach to", interface.name, errno.EPROTONOSUPPORT, hint=hint)
    if mode == Mode.GENERIC:
        return Attachment(_create(interface, program, Mode.GENERIC), Mode.GENERIC, None)
    if mode == Mode.NATIVE:
        remedy = "mode: auto or mode: generic would do without the driver"
        return Attachment(_create(interface, program, Mode.NATIVE, remedy), Mode.NATIVE, None)
    try:
        return Attachment(_create(interface, program, Mode.NATIVE), Mode.NATIVE, None)
    except AttachError as error:
        if error.errno in _FINAL:
            raise
        link = _create(interface, program, Mode.GENERIC)
        return Attachment(link, Mode.GENERIC, f"{interface.name} runs in generic mode: {error}")


_FINAL: Final = (errno.EBUSY, errno.EEXIST, errno.EPERM, errno.ENODEV)
"""Refusals that another mode would meet, too."""


def _create(interface: InterfaceInfo, program: Program, mode: Mode, remedy: str | None = None) -> Link:
    flags = _MODE_FLAGS[mode]
    link_options = options("bpf_link_create_opts", flags=flags)
    result = libbpf().bpf_link_create(program.fileno(), interface.ifindex, ATTACH_TYPE_XDP, link_options)
    if result >= 0:
        return Link(result)
    number = -result
    label = f"{interface.name} in {mode} mode"
    if number in (errno.EBUSY, errno.EEXIST):
        raise AttachError("attach to", label, number, hint=foreign_hint(interface))
    hints = filter(None, [_kernel_words(interface.ifindex, program, flags), remedy])
    raise AttachError("attach to", label, number, hint="; ".join(hints) or None)


def foreign_hint(interface: InterfaceInfo) -> str:
    """Who holds an interface that is not ours to take."""
    holder = attached(interface.ifindex)
    if holder is None:
        return "another XDP program is on it"
    program = f"program {holder.program_id}, named {program_name(holder.program_id)},"
    how = f" in {holder.mode} mode" if holder.mode else ""
    return f"{program} is on it{how}, and is never taken over; bpftool net and bpftool link show what holds it"


def _kernel_words(ifindex: int, program: Program, flags: int) -> str | None:
    """Why the kernel refused a link. Links say so by a number alone; netlink, which refuses alike, has words for it."""
    take_log()
    if libbpf().bpf_xdp_attach(ifindex, program.fileno(), flags | XDP_UPDATE_IF_NOEXIST, ffi.NULL) == 0:
        ours = options("bpf_xdp_attach_opts", old_prog_fd=program.fileno())
        check(libbpf().bpf_xdp_detach(ifindex, flags, ours), "detach from", f"interface {ifindex}")
        return "and yet it was possible a moment later: try again"
    marker = "Kernel error message: "
    words = [line.partition(marker)[2].strip() for line in take_log() if marker in line]
    return f"the kernel says: {words[-1]}" if words and words[-1] else None


def name_of(ifindex: int) -> str | None:
    """The present name of an interface, or None if it is gone; quick."""
    import socket

    with contextlib.suppress(OSError):
        return socket.if_indextoname(ifindex)
    return None
