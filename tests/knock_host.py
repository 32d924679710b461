# SPDX-License-Identifier: GPL-2.0-or-later
"""A host behind a firewall with knocks, and one who knocks, both with all that a kernel does by itself.

    client                            host
┌──────────────┐        ┌──────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)            │
│  192.0.2.2   │        │  192.0.2.1               │
│  192.0.2.3   │        │  2001:db8::1             │
│  2001:db8::2 │        │  takes connections on 22 │
└──────────────┘        └──────────────────────────┘
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.firewall import Firewall, policy
from tests.topology import Namespace, Network, run, wait_for
from xdpfw.kernel.state import State

V4, V6 = "192.0.2.1", "2001:db8::1"
CLIENT_V4, SECOND_V4, CLIENT_V6 = "192.0.2.2", "192.0.2.3", "2001:db8::2"

STEPS: Final = ("7000/tcp", "9000/udp", "8000/tcp")
CLOSE: Final = ("9001/udp", "7001/tcp")

XDPFW: Final = (sys.executable, "-c", "from xdpfw.cli import main; main()")
"""A client is another host: it has its own process, and not the one that was forked for the firewall's commands."""


def ssh_knock(**members: str) -> str:
    """The section of a policy with one knock, which opens port 22 by STEPS. ``members`` are added, or replaced."""
    all_members = {
        "sequence": f"[{', '.join(STEPS)}]",
        "within": "30s",
        "opens": "[22/tcp]",
        "for": "5m",
        "close": f"[{', '.join(CLOSE)}]",
        **members,
    }
    return f"knocks:\n  ssh: {{{', '.join(f'{name}: {value}' for name, value in all_members.items())}}}\n"


BY_KNOCKS: Final = "{established: false, fragments: false}"
"""Of ``allow``: every packet meets the knocks, also those of connections that are open."""

SSH: Final = policy(allow=BY_KNOCKS, extra=ssh_knock())

SPA_PORT: Final = 62201
SPA_KNOCK: Final = (
    "knocks:\n"
    f"  admin: {{spa: {{port: {SPA_PORT}, keys: admin.keys, window: 60s}}, opens: [22/tcp, 443/tcp], for: 5m}}\n"
)
ADMIN: Final = policy(allow=BY_KNOCKS, extra=SPA_KNOCK)


def needs(program: str) -> str:
    """The path of a program; skips the test, and says why, where it is not installed."""
    found = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        reason = f"{program} is not installed; make test-packages installs it on Debian"
        print(f"skipped: {reason}")
        pytest.skip(reason)
    return found


def make_key(firewall: Firewall, name: str, *options: str) -> Path:
    """A key of this name; the client half's path. The server half is where ADMIN looks for it."""
    client_file = firewall.directory / f"{name}.key"
    halves = ("--server-file", firewall.directory / "admin.keys", "--client-file", client_file)
    run(*XDPFW, "keygen", name, *halves, "--port", str(SPA_PORT), *options)
    return client_file


@dataclass(frozen=True)
class KnockHost:
    client: Namespace
    host: Namespace
    firewall: Firewall

    def xdpfw_knock(self, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """``xdpfw knock``, as the client calls it."""
        return self.client.run(*XDPFW, "knock", *arguments, status=status)

    def step(self, step: str, address: str = V4, source: str | None = None) -> None:
        """One packet, ``7000/tcp`` or ``9000/udp``; returns when the firewall has dropped it as a step."""
        number, _, protocol = step.partition("/")
        before = self.firewall.reason("knock.step")
        with self.socket(address, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM, source) as made:
            made.connect_ex((address, int(number)))
            if protocol == "udp":
                made.send(b"")
            wait_for(lambda: self.firewall.reason("knock.step") > before, f"{step} to be a step")

    def steps(self, *steps: str, address: str = V4, source: str | None = None) -> None:
        for step in steps:
            self.step(step, address, source)

    def opened(self, address: str = V4, port: int = 22, source: str | None = None) -> bool:
        """Whether the client gets a connection. Where the port is closed to it, its sequences are set back by that."""
        closed = self.firewall.reason("knock.closed")
        with self.socket(address, socket.SOCK_STREAM, source) as asking:
            asking.connect_ex((address, port))

            def answer() -> str | None:
                if select.select([], [asking], [], 0)[1]:
                    assert asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                    return "opened"
                return "closed" if self.firewall.reason("knock.closed") > closed else None

            return wait_for(answer, f"port {port} to answer or to be closed") == "opened"

    @contextlib.contextmanager
    def socket(self, address: str, kind: int, source: str | None = None) -> Iterator[socket.socket]:
        """One that never blocks, and that goes without a word: what it would send might meet a closed port."""
        with self.client.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as made:
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if source is not None:
                made.bind((source, 0))
            yield made

    def grants(self) -> list[dict[str, Any]]:
        """As a script gets them."""
        found: list[dict[str, Any]] = json.loads(self.firewall.command("grants", "--json").stdout)["grants"]
        return found

    def ends_of_grants(self) -> set[tuple[int, int]]:
        """Source and end (ns of CLOCK_BOOTTIME) of all grants. ``grants`` tells them by the wall clock."""
        with State.open(self.firewall.pins.state) as state:
            return {(grant.source, grant.until_ns) for grant in state.list_grants()}

    def events(self) -> list[dict[str, Any]]:
        """All that are known."""
        return [json.loads(line) for line in self.firewall.command("events", "--json").stdout.splitlines()]


@contextlib.contextmanager
def open_knock_host(net: Network, firewall: Firewall, client: Namespace) -> Iterator[KnockHost]:
    """Connections are taken by the host's kernel; nobody accepts them."""
    net.pair(client, "eth0", firewall.home, "fw0")
    client.address("eth0", f"{CLIENT_V4}/24", f"{SECOND_V4}/24", f"{CLIENT_V6}/64")
    firewall.home.address("fw0", f"{V4}/24", f"{V6}/64")
    with firewall.home.socket(socket.AF_INET6, socket.SOCK_STREAM) as listening:
        listening.bind(("::", 22))
        listening.listen(1024)
        yield KnockHost(client, firewall.home, firewall)
