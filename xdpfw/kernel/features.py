# SPDX-License-Identifier: GPL-2.0-or-later
"""What this kernel, this system and its interfaces can do, asked by name.

Each feature is tried out rather than told from a version, as distributions patch their kernels.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import functools
import mmap
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi, egress
from xdpfw.kernel.image import NoKnocks
from xdpfw.kernel.interface import ARPHRD_ETHER, ARPHRD_LOOPBACK, InterfaceInfo, Link, Mode, attached, find
from xdpfw.kernel.libbpf import PRIVILEGES_HINT, check, ffi, libbpf, options, program_name
from xdpfw.kernel.loader import Program
from xdpfw.kernel.maps import FLAG_MMAPABLE, ArrayMap
from xdpfw.kernel.pins import BPFFS, Pins, instances, is_bpffs
from xdpfw.kernel.program import Generation
from xdpfw.kernel.sysctl import syncookies

PROGRAM_TYPE_XDP: Final = 6
ATTACH_TYPE_XDP: Final = 37
TYPE_DEVMAP: Final = 14
FLAG_XDP_HAS_FRAGS: Final = 1 << 5
XDP_PASS: Final = 2
COOKIE_HELPERS: Final = (110, 204, 205, 206, 207)
"""tcp_gen_syncookie, tcp_raw_gen_syncookie_ipv4 and _ipv6, tcp_raw_check_syncookie_ipv4 and _ipv6 (linux/bpf.h)."""
OLDEST_KERNEL: Final = (6, 1)

CAPABILITIES: Final = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 39: "CAP_BPF"}

SIOCETHTOOL: Final = 0x8946
ETHTOOL_GFLAGS: Final = 0x25
ETH_FLAG_RXVLAN: Final = 1 << 8

NETDEV_COMMAND_DEV_GET: Final = 1
NETDEV_XDP_BASIC: Final = 1 << 0
NETDEV_XDP_REDIRECT_TARGET: Final = 1 << 2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``fix`` is empty where nothing is to be done.

    ``required``: without it the firewall does not run at all; the others cost speed or sight.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def system(bpffs: Path = BPFFS) -> list[Check]:
    """The kernel and the system. Nothing is changed: what the probes make is gone when this returns."""
    probes: tuple[Callable[[], Check], ...] = (
        kernel_version,
        libbpf_version,
        privileges,
        functools.partial(bpf_file_system, bpffs),
        jit,
        mmapable_arrays,
        device_maps,
        multi_buffer,
        test_run,
        data_plane,
        syn_cookies,
        way_out,
        btf,
        statistics,
    )
    return [probe() for probe in probes]


def interface(name: str, bpffs: Path = BPFFS) -> list[Check]:
    """One interface of the present network namespace. ``bpffs`` is where the instances are that may have it."""
    try:
        info = find(name)
    except KernelError as error:
        return [Check(f"interface {name}", False, error.message, error.hint or "")]
    ethernet = info.link_type in (ARPHRD_ETHER, ARPHRD_LOOPBACK)
    kind = info.kind or "device"
    state = "up" if info.up else "down"
    checks = [Check(f"interface {name}", ethernet, f"{kind}, MTU {info.mtu}, {state}, link type {info.link_type}")]
    return [*checks, xdp_holder(name, info.ifindex, bpffs), native_xdp(name, info.ifindex), vlan_tags(info)]


def kernel_version() -> Check:
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in f"{release}.0".split(".")[:2])
    oldest = ".".join(map(str, OLDEST_KERNEL))
    fix = "" if (major, minor) >= OLDEST_KERNEL else f"{oldest} is the oldest kernel that xdpfw is tested on"
    return Check("kernel", not fix, release, fix, required=False)


def libbpf_version() -> Check:
    try:
        library = libbpf()
    except KernelError as error:
        return Check("libbpf", False, error.message, error.hint or "")
    return Check("libbpf", True, f"{library.libbpf_major_version()}.{library.libbpf_minor_version()}")


def privileges() -> Check:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return Check("privileges", False, f"no {', '.join(missing)}", PRIVILEGES_HINT)
    return Check("privileges", True, ", ".join(CAPABILITIES.values()))


def bpf_file_system(path: Path = BPFFS) -> Check:
    if is_bpffs(path):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return Check("bpffs", False, f"mounted read-only on {path}", f"mount -o remount,rw {path}")
        return Check("bpffs", True, f"mounted on {path}")
    return Check("bpffs", False, f"not mounted on {path}", f"mount -t bpf bpf {path} (xdpfw apply does so, too)")


def jit() -> Check:
    try:
        value = Path("/proc/sys/net/core/bpf_jit_enable").read_text(encoding="ascii").strip()
    except OSError as error:
        return Check("JIT", False, f"unknown: {error.strerror}", PRIVILEGES_HINT, required=False)
    if value == "0":
        return Check("JIT", False, "off: BPF is interpreted", "sysctl -w net.core.bpf_jit_enable=1", required=False)
    return Check("JIT", True, "on", required=False)


def mmapable_arrays() -> Check:
    def probe() -> str:
        with (
            ArrayMap.create("probe", abi.Layout.BLOCK_BYTES, 1, map_flags=FLAG_MMAPABLE) as array,
            array.mapped(abi.Layout.BLOCK_BYTES, mmap.PROT_READ | mmap.PROT_WRITE) as memory,
        ):
            memory[0] = 1
            return "tables are filled in one write"

    return _try("mmapable arrays", probe)


def device_maps() -> Check:
    def probe() -> str:
        with ArrayMap.create("probe", ffi.sizeof("__u32"), 1, type=TYPE_DEVMAP):
            return "rules can redirect"

    return _try("device maps", probe)


def multi_buffer() -> Check:
    def probe() -> str:
        with null_program(FLAG_XDP_HAS_FRAGS):
            return "frames may be longer than a page"

    return _try("multi-buffer XDP", probe)


def test_run() -> Check:
    def probe() -> str:
        with null_program(0) as program:
            frame = ffi.new("char[]", 64)
            run = options("bpf_test_run_opts", data_in=frame, data_size_in=len(frame), repeat=1)
            check(libbpf().bpf_prog_test_run_opts(program.fileno(), run), "test-run", "a program")
            return "policies can be tested without an interface"

    return _try("test run", probe)


def data_plane() -> Check:
    def probe() -> str:
        with Generation.load(_EmptyImage(), interfaces=[], targets=[]) as generation:
            return f"the firewall's program loads ({generation.memory_bytes >> 10} KiB with an empty policy)"

    return _try("data plane", probe)


def syn_cookies() -> Check:
    """What ``protect`` needs: helpers of Linux 6.0, and a stack that has cookies."""

    def probe() -> str:
        for helper in COOKIE_HELPERS:
            found = libbpf().libbpf_probe_bpf_helper(PROGRAM_TYPE_XDP, helper, ffi.NULL)
            if check(found, "probe", f"BPF helper {helper}") == 0:
                raise KernelError("find", f"BPF helper {helper}", errno.ENOSYS, hint="Linux 6.0 or later")
        syncookies()
        return "SYNs can be answered with cookies (protect)"

    return dataclasses.replace(_try("SYN cookies", probe), required=False)


def way_out() -> Check:
    """How what interfaces send is seen, which policies that follow flows need."""

    def probe() -> str:
        with egress.null_program() as program:
            if egress.best_hook(program) is egress.Hook.TCX:
                return "flows are followed by TCX links"
            return "flows are followed by filters of clsact: this kernel has no TCX (Linux 6.6 has)"

    return _try("way out", probe)


def btf() -> Check:
    path = Path("/sys/kernel/btf/vmlinux")
    there = path.exists()
    detail = f"{path} is there" if there else f"{path} is missing; xdpfw itself does without"
    return Check("BTF", there, detail, "" if there else "a kernel with CONFIG_DEBUG_INFO_BTF=y", required=False)


def statistics() -> Check:
    try:
        value = Path("/proc/sys/kernel/bpf_stats_enabled").read_text(encoding="ascii").strip()
    except OSError as error:
        return Check("run-time statistics", False, f"unknown: {error.strerror}", PRIVILEGES_HINT, required=False)
    if value == "0":
        return Check("run-time statistics", True, "off", required=False)
    detail = "on: each packet costs some 66 ns more"
    return Check("run-time statistics", False, detail, "sysctl -w kernel.bpf_stats_enabled=0", required=False)


def xdp_holder(name: str, ifindex: int, bpffs: Path = BPFFS) -> Check:
    """Whether an XDP program is on an interface, and whose. One that is no instance's is never taken over."""
    label = f"{name}: XDP program"
    holder = attached(ifindex)
    if holder is None:
        return Check(label, True, "none")
    program = program_name(holder.program_id)
    detail = f"{program} (id {holder.program_id}), {holder.mode or 'in hardware or several'}"
    try:
        owner = _instance_of(holder.program_id, bpffs)
    except KernelError as error:
        return Check(label, False, f"{detail}; whose it is, is not to be seen", error.hint or "", required=False)
    if owner is not None:
        return Check(label, True, f"{detail}, of instance {owner}")
    off = "xdpgeneric" if holder.mode is Mode.GENERIC else "xdp"
    fix = f"stop what put it there; where nothing runs that did: ip link set dev {name} {off} off"
    return Check(label, False, f"taken by {detail}", fix)


def _instance_of(program_id: int, bpffs: Path) -> str | None:
    """The instance one of whose links runs this program. Raises KernelError."""
    for name in instances(bpffs):
        for path in Pins(name, bpffs).links().values():
            with Link.open(str(path)) as link:
                if link.program_id == program_id:
                    return name
    return None


def native_xdp(name: str, ifindex: int) -> Check:
    """What the driver says of itself (netlink family netdev, Linux 6.3; before that nobody knows without trying)."""
    label = f"{name}: native XDP"
    features = _xdp_features(ifindex)
    if features is None:
        return Check(label, True, "this kernel does not tell; mode: auto finds out", required=False)
    if not features & NETDEV_XDP_BASIC:
        return Check(label, False, "the driver has none; mode: auto takes generic", required=False)
    target = "is" if features & NETDEV_XDP_REDIRECT_TARGET else "is not"
    return Check(label, True, f"yes; it {target} a target for redirects just now", required=False)


def takes_redirects(ifindex: int) -> bool | None:
    """Whether an interface sends what native XDP redirects to it; None where the kernel does not tell."""
    features = _xdp_features(ifindex)
    return None if features is None else bool(features & NETDEV_XDP_REDIRECT_TARGET)


def vlan_tags(info: InterfaceInfo) -> Check:
    """Whether the interface takes VLAN tags off before XDP sees them, which hides them from every rule."""
    label = f"{info.name}: VLAN tags"
    if info.kind == "veth":
        return Check(label, True, "in the frames, where the other end of the pair has txvlan off", required=False)
    stripped = strips_vlan_tags(info.name)
    if stripped is None:
        return Check(label, True, "unknown: the driver does not tell", required=False)
    if stripped:
        fix = f"ethtool -K {info.name} rxvlan off"
        return Check(label, False, "the interface strips them: rules on vlan do not see them", fix, required=False)
    return Check(label, True, "left in the frames", required=False)


def _try(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except KernelError as error:
        return Check(name, False, error.message, error.hint or "a newer kernel")
    except OSError as error:
        return Check(name, False, error.strerror or str(error), "a newer kernel")


def null_program(flags: int = 0) -> Program:
    """``return XDP_PASS`` as two instructions: ``r0 = 2; exit``."""
    instructions = ffi.new("struct bpf_insn[]", [[0xB7 | XDP_PASS << 32], [0x95]])
    load = options("bpf_prog_load_opts", prog_flags=flags, expected_attach_type=ATTACH_TYPE_XDP)
    fd = libbpf().bpf_prog_load(PROGRAM_TYPE_XDP, b"probe", b"GPL", instructions, len(instructions), load)
    return Program(check(fd, "load", "a program of two instructions"))


class _EmptyImage:
    """A policy without rules, which passes everything."""

    tables = bytes(abi.Layout.BLOCK_BYTES)
    set_tables = b""
    config = abi.pack("config", {"default_verdict": abi.Verdict.PASS, "table_bytes": len(tables)})
    actions = b""
    rule_count = 0
    targets: tuple[str, ...] = ()
    knocks = NoKnocks()
    limits = b""
    cpu_choices: tuple[int, ...] = ()
    protected_ports: tuple[tuple[int, int], ...] = ()
    set_sizes: tuple[int, ...] = ()
    never_ban_keys: bytes = b""


def strips_vlan_tags(name: str) -> bool | None:
    """Whether an interface's receive side takes VLAN tags out of the frames; None where it does not tell.

    ``ethtool -k`` calls it rx-vlan-offload (linux/ethtool.h: ETHTOOL_GFLAGS, ETH_FLAG_RXVLAN).
    """
    flags = ffi.new("__u32[2]", [ETHTOOL_GFLAGS, 0])
    request = struct.pack("16sP16x", name.encode(), int(ffi.cast("uintptr_t", flags)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)
        except OSError:
            return None
    return bool(flags[1] & ETH_FLAG_RXVLAN)


def _xdp_features(ifindex: int) -> int | None:
    """NETDEV_XDP_ACT_* of an interface (linux/netdev.h), or None where the kernel does not tell."""
    from pyroute2.netlink import NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket

    class Device(genlmsg):  # type: ignore[misc]
        nla_map = (
            ("NETDEV_A_DEV_UNSPEC", "none"),
            ("NETDEV_A_DEV_IFINDEX", "uint32"),
            ("NETDEV_A_DEV_PAD", "none"),
            ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        )

    request: Any = Device()
    request["cmd"], request["version"] = NETDEV_COMMAND_DEV_GET, 1
    request["attrs"] = [("NETDEV_A_DEV_IFINDEX", ifindex)]
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind("netdev", Device)
            answer = netlink.nlm_request(request, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST)
        except NetlinkError:
            return None
        return int(next(iter(answer)).get_attr("NETDEV_A_DEV_XDP_FEATURES"))
