# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces, veth pairs between them, and what runs there. All of it is gone when a test ends."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from xdpfw.kernel.interface import namespace

T = TypeVar("T")

TIME_SCALE: Final = float(os.environ.get("XDPFW_TEST_TIME_SCALE", "1"))
"""All time limits are multiplied by this: emulation is slow."""

POLL_SECONDS: Final = 0.01
LIMIT_SECONDS: Final = 15 * TIME_SCALE
COMMAND_LIMIT_SECONDS: Final = 60 * TIME_SCALE
MOST_BYTES: Final = 1 << 16
ETH_P_ALL: Final = 3

_serial = itertools.count()


def unique(label: str) -> str:
    """A name that no other test has, on a machine where several sessions run."""
    return f"xdpfw-{os.getpid()}-{next(_serial)}-{label}"


def wait_for(condition: Callable[[], T], what: str) -> T:
    """The first true answer of ``condition``. AssertionError, which says ``what`` was waited for, if none comes."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {LIMIT_SECONDS:.0f} s for {what}"
        time.sleep(POLL_SECONDS)
    return answer


def run(*arguments: str | Path, status: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command that must end in time and, unless ``status`` is None, with this exit status."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert status is None or done.returncode == status, (
        f"{' '.join(map(str, arguments))}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done


@dataclass(frozen=True)
class Namespace:
    name: str

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def link(self, interface: str) -> dict[str, Any]:
        """What ``ip link`` tells of an interface."""
        found: list[dict[str, Any]] = json.loads(run("ip", "-n", self.name, "-json", "link", "show", interface).stdout)
        return found[0]

    def mac(self, interface: str) -> str:
        return str(self.link(interface)["address"])

    def address(self, interface: str, *prefixes: str) -> None:
        """Gives an interface addresses that are usable at once."""
        for prefix in prefixes:
            nodad = ["nodad"] if ":" in prefix else []
            self.ip("address", "add", prefix, "dev", interface, *nodad)

    def run(self, *arguments: str | Path, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        with namespace(self.name):
            return run(*arguments, status=status)

    @contextlib.contextmanager
    def process(self, *arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """A process that is ended with the context."""
        with namespace(self.name):
            process = subprocess.Popen([str(argument) for argument in arguments], text=True, **options)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, that every call on it must end in time."""
        with namespace(self.name):
            made = socket.socket(family, kind, protocol)
        made.settimeout(LIMIT_SECONDS)
        return made

    def raw(self, interface: str) -> socket.socket:
        """Whole frames to and from an interface."""
        made = self.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((interface, ETH_P_ALL))
        return made

    def sysctl(self, key: str, value: int) -> None:
        with namespace(self.name):
            Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")

    def runs_xdp(self, interface: str) -> bool:
        return "xdp" in self.link(interface)


@dataclass
class Network:
    namespaces: list[Namespace] = field(default_factory=list)

    def namespace(self, label: str, *, ipv6: bool = True) -> Namespace:
        """Without ``ipv6`` its interfaces send nothing that they are not told to."""
        made = Namespace(unique(label))
        run("ip", "netns", "add", made.name)
        self.namespaces.append(made)
        made.ip("link", "set", "lo", "up")
        if not ipv6:
            made.sysctl("ipv6/conf/default/disable_ipv6", 1)
            made.sysctl("ipv6/conf/all/disable_ipv6", 1)
        return made

    def pair(self, a: Namespace, a_name: str, b: Namespace, b_name: str, mtu: int = 1500) -> None:
        """A veth pair with both ends up.

        As on a wire, nothing is left to the receiver: checksums are complete and segments no longer than the MTU,
        as a frame that XDP sends on keeps no note of what was put off. GRO lets a veth take frames from XDP; the kernel
        looks at it when the other end goes up.
        """
        a.ip("link", "add", a_name, "mtu", str(mtu), "type", "veth", "peer", b_name, "mtu", str(mtu), "netns", b.name)
        for end, name in ((a, a_name), (b, b_name)):
            end.run("ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "on")
        for end, name in ((a, a_name), (b, b_name)):
            end.ip("link", "set", name, "up")
        for end, name in ((a, a_name), (b, b_name)):
            wait_for(lambda end=end, name=name: end.link(name)["operstate"] == "UP", f"{name} to be up")

    def close(self) -> None:
        for each in self.namespaces:
            run("ip", "netns", "delete", each.name, status=None)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()
