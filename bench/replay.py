# SPDX-License-Identifier: GPL-2.0-or-later
"""A wire to replay traces over: two namespaces, a veth pair between them, tcpreplay at one end.

    sender ─── veth ─── receiver: XDP program, or nftables at netdev ingress

What a packet costs is asked of the kernel at the receiving end, in one of two ways: the run time of an XDP program, or
the CPU time of the kernel thread that receives (NAPI, threaded), which whatever sits at ingress can be measured by.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from bench import traces
from tests.topology import Namespace, network, run, wait_for
from xdpfw.kernel.features import PROGRAM_TYPE_XDP
from xdpfw.kernel.interface import ATTACH_TYPE_XDP, Mode, attach, find, namespace
from xdpfw.kernel.libbpf import check, ffi, libbpf, options
from xdpfw.kernel.loader import Program

XDP_DROP: Final = 1
SENDING: Final = "send0"
LOWEST_PRIORITY: Final = 19
SETTLED_SECONDS: Final = 0.02


class RunTime(NamedTuple):
    """What kernel.bpf_stats_enabled counts of a program, or of a thread; differences of two are of interest."""

    ns: int
    packets: int

    def since(self, before: RunTime) -> float:
        """ns a packet. Raises ValueError where there was none."""
        if self.packets == before.packets:
            raise ValueError("no packet came through")
        return (self.ns - before.ns) / (self.packets - before.packets)


def run_time(program: Program) -> RunTime:
    """As the kernel tells of a program's descriptor; both stand still while kernel.bpf_stats_enabled is 0."""
    lines = Path(f"/proc/self/fdinfo/{program.fileno()}").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    return RunTime(int(fields["run_time_ns"]), int(fields["run_cnt"]))


def dropping_program() -> Program:
    """``return XDP_DROP`` as two instructions: ``r0 = 1; exit``. Raises KernelError."""
    instructions = ffi.new("struct bpf_insn[]", [[0xB7 | XDP_DROP << 32], [0x95]])
    load = options("bpf_prog_load_opts", expected_attach_type=ATTACH_TYPE_XDP)
    fd = libbpf().bpf_prog_load(PROGRAM_TYPE_XDP, b"drop", b"GPL", instructions, len(instructions), load)
    return Program(check(fd, "load", "a program of two instructions"))


@dataclass(frozen=True)
class Wire:
    """``receiving`` is the interface at the receiver's end. Everything runs on ``cpu``, traces lie in ``directory``."""

    sender: Namespace
    receiver: Namespace
    receiving: str
    cpu: int
    directory: Path

    def capture(self, name: str, frames: list[bytes]) -> Path:
        path = self.directory / f"{name}.pcap"
        traces.write_pcap(path, frames)
        return path

    def send(self, capture: Path, loops: int) -> None:
        """The whole trace so many times, as fast as it goes, until the last packet is received or lost."""
        replay = ("tcpreplay", "--quiet", "--preload-pcap", "--topspeed", f"--loop={loops}", f"--intf1={SENDING}")
        self.sender.run("taskset", "--cpu-list", str(self.cpu), *replay, capture)
        before = -1
        while (now := self.received()) != before:
            before = now
            time.sleep(SETTLED_SECONDS)

    def received(self) -> int:
        """Packets that the receiver's NAPI has taken, with an XDP program and without."""
        lines = self.receiver.run("ethtool", "--statistics", self.receiving).stdout.splitlines()
        fields = (line.strip().partition(": ") for line in lines)
        return sum(int(value) for name, _, value in fields if name.startswith("rx_queue_") and "xdp_packets" in name)

    @contextlib.contextmanager
    def running(self, program: Program) -> Iterator[None]:
        """The program on the receiving interface, in native mode."""
        with namespace(self.receiver.name):
            attachment = attach(find(self.receiving), program, Mode.NATIVE)
        with attachment.link:
            yield

    def thread(self) -> int:
        """The process id of the kernel thread that receives, where the wire is ``threaded``."""
        name = f"napi/{self.receiving}-"
        found = [path for path in Path("/proc").glob("[0-9]*/comm") if _read(path).startswith(name)]
        return int(found[0].parent.name)

    def thread_time(self) -> RunTime:
        """Of the thread that receives: time on a CPU, and the packets that it took."""
        on_cpu_ns = Path(f"/proc/{self.thread()}/schedstat").read_text(encoding="ascii").split()[0]
        return RunTime(int(on_cpu_ns), self.received())


@contextlib.contextmanager
def wire(*, threaded: bool = False) -> Iterator[Wire]:
    """``threaded``: a kernel thread of its own receives, on the sender's CPU and behind it.

    It then finds packets by the hundred, as a busy link's does. On a CPU of its own it would be faster than the sender,
    go to sleep behind each packet, and cost mostly that: measured, 670 ns a packet instead of 230.
    """
    cpu = max(os.sched_getaffinity(0))
    with network() as made, TemporaryDirectory() as directory:
        sender, receiver = made.namespace("sender", ipv6=False), made.namespace("receiver", ipv6=False)
        receiving = f"x{os.getpid()}"  # kernel threads of all namespaces are in one list
        made.pair(sender, SENDING, receiver, receiving)
        found = Wire(sender, receiver, receiving, cpu, Path(directory))
        if threaded:
            # sysfs shows the interfaces of the namespace that it was mounted in: this mounts it anew.
            switch = f"echo 1 >/sys/class/net/{receiving}/threaded"
            run("ip", "netns", "exec", receiver.name, "sh", "-c", switch)
            thread = wait_for(found.thread, "the thread that receives")
            os.sched_setaffinity(thread, {cpu})
            os.setpriority(os.PRIO_PROCESS, thread, LOWEST_PRIORITY)
        yield found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended meanwhile
        return ""
