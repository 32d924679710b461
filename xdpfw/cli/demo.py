# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw demo: a firewall at work, between two network namespaces that exist for this alone.

client namespace                    host namespace
┌──────────────────────┐            ┌────────────────────┐
│ 192.0.2.2            │            │ 192.0.2.1          │
│ 192.0.2.66 (blocked) ├ client0 ── host0 ◄─ firewall    │
│ 2001:db8::2          │            │ 2001:db8::1        │
└──────────────────────┘            └────────────────────┘
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option

if TYPE_CHECKING:
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.controller import Applied
    from xdpfw.kernel.pins import Pins

POLICY_NAME: Final = "demo.yaml"
POLICY: Final = """\
version: 1
interfaces:
  host0: {}
default: drop
sets:
  blocked: {type: prefix, elements: [192.0.2.66, 198.51.100.0/24]}
knocks:
  ssh: {sequence: [7000/tcp, 9000/udp, 8000/tcp], opens: [22/tcp], for: 30s}
rules:
  - {name: blocklist, match: {src: "@blocked"}, action: drop}
  - {name: web, match: {proto: tcp, dport: 80}, action: pass}
  - {name: ping, match: {proto: icmp, icmp_type: echo-request}, action: pass}
tests:
  - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:80 S", expect: pass, rule: web}
  - {packet: "tcp 192.0.2.66:40000 > 192.0.2.1:80 S", expect: drop, rule: blocklist}
  - name: the knock opens SSH
    steps:
      - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:22 S", expect: drop}
      - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:7000 S", expect: drop}
      - {packet: "udp 192.0.2.2:40000 > 192.0.2.1:9000", expect: drop}
      - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:8000 S", expect: drop}
      - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:22 S", expect: pass}
      - {wait: 31s}
      - {packet: "tcp 192.0.2.2:40000 > 192.0.2.1:22 S", expect: drop}
"""

HOST: Final = ("192.0.2.1", "2001:db8::1")
CLIENT: Final = ("192.0.2.2", "2001:db8::2")
BLOCKED: Final = "192.0.2.66"
WEB: Final = 80
SSH: Final = 22
DNS: Final = 53
KNOCK: Final = ("7000/tcp", "9000/udp", "8000/tcp")
KNOCK_DELAY_S: Final = 0.02
TIMEOUT_S: Final = 0.5
IFA_F_NODAD: Final = 0x02
"""IPv6 addresses work at once, without duplicate address detection (linux/if_addr.h)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that the client tries, and whether the policy lets it through."""

    what: str
    allowed: bool
    answered: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Network:
    """Names of the two namespaces; the interfaces in them are ``host0`` and ``client0``."""

    host: str
    client: str


@click.command(short_help="Show a firewall at work.", epilog=examples("xdpfw demo"))
@json_option
@click.pass_obj
def command(app: App, as_json: bool) -> int:
    """Build two network namespaces, put a policy in force between them, send traffic and knocks, show the statistics.

    Takes root and some seconds; nothing of it is left behind. Exit status 1 if traffic met something else than the
    policy says.

    JSON: {"ok", "traffic": [{"what", "expected", "found"}], "statistics": as of "xdpfw stats"}.
    """
    from xdpfw.kernel.pins import Pins
    from xdpfw.observe.stats import Statistics

    _need_root()
    tell = _Teller(app, quiet=as_json)
    pins = Pins(f"demo-{os.getpid()}", app.bpffs)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(tell.step, "Clean up: firewall, interfaces and namespaces are gone.")
        network = cleanup.enter_context(_network())
        tell.step(f"Two network namespaces, {network.host} and {network.client}, joined by a veth pair.")
        file = _read_policy()
        tell.step("A policy for the host's end of the pair:", POLICY)
        count = _run_tests(file)
        tell.step(f"Its {count} tests pass, decided by the firewall's program in the kernel.")
        applied = cleanup.enter_context(_in_force(app, pins, network, file))
        tell.step(f"xdpfw apply: the policy is in force on host0, in {applied.modes['host0']} mode.")
        tell.step("The client talks to the host, which listens on all of these ports:")
        results = [(attempt, attempt.answered()) for attempt in cleanup.enter_context(_attempts(network))]
        tell.results(results)
        statistics = Statistics.read(pins)
        assert statistics is not None
        tell.step("xdpfw stats: each packet that came in is in exactly one row.")
        if not as_json:
            from xdpfw.cli.stats import Sample, print_view

            print_view(app, "rule", Sample(app.clock(), statistics))
        tell.step("xdpfw events: what the knocks did.")
        tell.events(pins)
    ok = all(answered == attempt.allowed for attempt, answered in results)
    if as_json:
        traffic = [
            {"what": attempt.what, "expected": _word(attempt.allowed), "found": _word(answered)}
            for attempt, answered in results
        ]
        app.say_json({"ok": ok, "traffic": traffic, "statistics": statistics.to_json()})
    return 0 if ok else 1


@dataclass(slots=True)
class _Teller:
    """One line for each step, as it happens."""

    app: App
    quiet: bool
    number: int = 0

    def step(self, text: str, details: str = "") -> None:
        if self.quiet:
            return
        self.number += 1
        self.app.say(f"{self.number}. {text}")
        for line in details.splitlines():
            self.app.say(f"     {line}")
        self.app.stdout.flush()

    def events(self, pins: Pins) -> None:
        from xdpfw.cli.events import event_line
        from xdpfw.observe.events import EventStream

        if self.quiet:
            return
        with EventStream(pins) as stream:
            for event in stream.take():
                self.app.say(f"     {event_line(event)}")

    def results(self, results: list[tuple[Attempt, bool]]) -> None:
        from xdpfw.cli.output import Column, print_table

        if self.quiet:
            return
        rows = [
            (attempt.what, "pass" if attempt.allowed else "drop", _word(answered), _judgement(attempt, answered))
            for attempt, answered in results
        ]
        print_table(self.app, [Column("client"), Column("policy"), Column("found"), Column("")], rows)


def _word(answered: bool) -> str:
    return "answered" if answered else "no answer"


def _judgement(attempt: Attempt, answered: bool) -> str:
    return "ok" if answered == attempt.allowed else "FAILED"


def _need_root() -> None:
    from xdpfw.errors import KernelError
    from xdpfw.kernel.features import privileges

    check = privileges()
    if not check.ok:
        raise KernelError("make", "network namespaces", errno.EPERM, hint=f"{check.detail}; {check.fix}")


def _read_policy() -> PolicyFile:
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.policy.source import Sources

    return PolicyFile.from_sources(POLICY_NAME, Sources.from_bundle({POLICY_NAME: POLICY}))


def _run_tests(file: PolicyFile) -> int:
    from xdpfw.simulate import policytest
    from xdpfw.simulate.decider import in_kernel

    with in_kernel(file.policy) as decider:
        results = list(policytest.run(policytest.prepare(file.policy, file.sources.files), decider))
    assert all(result.ok for result in results)
    return len(results)


@contextlib.contextmanager
def _in_force(app: App, pins: Pins, network: Network, file: PolicyFile) -> Iterator[Applied]:
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.lower import rules_digest
    from xdpfw.controller import Controller, Source

    controller = Controller(pins, network.host, app.clock)
    source = Source(file.path, dict(file.sources.files), file.sources.digest, rules_digest(file.loaded))
    try:
        yield controller.apply(file.policy, compile_policy(file.policy), source)
    finally:
        if pins.root.exists():
            controller.detach()


@contextlib.contextmanager
def _network() -> Iterator[Network]:
    """The two namespaces, both interfaces up and with their addresses."""
    from pyroute2 import IPRoute, netns
    from pyroute2.netlink.exceptions import NetlinkError

    from xdpfw.errors import KernelError
    from xdpfw.kernel.interface import namespace

    network = Network(*(f"xdpfw-demo-{os.getpid()}-{end}" for end in ("host", "client")))
    with contextlib.ExitStack() as cleanup:
        try:
            for name in (network.host, network.client):
                netns.create(name)
                cleanup.callback(netns.remove, name)
            with namespace(network.host), IPRoute() as route:
                peer = {"ifname": "client0", "net_ns_fd": network.client}
                route.link("add", ifname="host0", kind="veth", peer=peer)
                _set_up(route, "host0", HOST)
            with namespace(network.client), IPRoute() as route:
                _set_up(route, "client0", (*CLIENT, BLOCKED))
        except (OSError, NetlinkError) as error:
            number = error.code if isinstance(error, NetlinkError) else error.errno or 0
            raise KernelError("build", "the demo's network", number) from error
        yield network


def _set_up(route: Any, name: str, addresses: tuple[str, ...]) -> None:
    """``route``: an IPRoute of the interface's namespace."""
    index = route.link_lookup(ifname=name)[0]
    for address in addresses:
        is_v6 = ":" in address
        flags = {"flags": IFA_F_NODAD} if is_v6 else {}
        route.addr("add", index=index, address=address, prefixlen=64 if is_v6 else 24, **flags)
    route.link("set", index=index, state="up")


@contextlib.contextmanager
def _attempts(network: Network) -> Iterator[list[Attempt]]:
    """What the client tries, while servers listen on the host."""
    from xdpfw.kernel.interface import namespace

    with contextlib.ExitStack() as opened:
        with namespace(network.host):
            web4, web6, ssh = (
                opened.enter_context(_listen(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port))
                for host, port in ((HOST[0], WEB), (HOST[1], WEB), (HOST[0], SSH))
            )
            dns = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            dns.bind((HOST[0], DNS))

        def from_client(try_out: Callable[..., bool], *arguments: object) -> Callable[[], bool]:
            def answered() -> bool:
                with namespace(network.client):
                    return try_out(*arguments)

            return answered

        yield [
            Attempt("TCP to port 80, the web", True, from_client(_greeted, web4, HOST[0], WEB, CLIENT[0])),
            Attempt("TCP to port 80, over IPv6", True, from_client(_greeted, web6, HOST[1], WEB, CLIENT[1])),
            Attempt("TCP to port 80, by a blocked address", False, from_client(_greeted, web4, HOST[0], WEB, BLOCKED)),
            Attempt("ping", True, from_client(_pinged, HOST[0])),
            Attempt("UDP to port 53, DNS", False, from_client(_reached, dns, HOST[0], DNS)),
            Attempt("TCP to port 22, SSH", False, from_client(_greeted, ssh, HOST[0], SSH, CLIENT[0])),
            Attempt("the same after a wrong knock", False, from_client(_let_in, KNOCK[::-1], ssh)),
            Attempt("the same after the right knock", True, from_client(_let_in, KNOCK, ssh)),
        ]


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    server = socket.create_server((host, port), family=family)
    server.settimeout(TIMEOUT_S)
    return server


def _greeted(server: socket.socket, host: str, port: int, source: str) -> bool:
    """Whether a greeting of the server arrives through a new connection."""
    try:
        with socket.create_connection((host, port), TIMEOUT_S, (source, 0)) as client, server.accept()[0] as accepted:
            accepted.sendall(b"welcome")
            return client.recv(16) == b"welcome"
    except TimeoutError:
        return False


def _let_in(steps: Sequence[str], server: socket.socket) -> bool:
    """Whether SSH answers whoever has knocked so."""
    from xdpfw.knock.client import knock

    knock(HOST[0], steps, delay_s=KNOCK_DELAY_S)
    return _greeted(server, HOST[0], SSH, CLIENT[0])


def _reached(server: socket.socket, host: str, port: int) -> bool:
    """Whether a datagram arrives at the server."""
    server.settimeout(TIMEOUT_S)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"anybody there?", (host, port))
    try:
        return bool(server.recv(16))
    except TimeoutError:
        return False


def _pinged(host: str) -> bool:
    """Whether an ICMP echo request is answered (RFC 792)."""
    echo_request, echo_reply, identifier = 8, 0, os.getpid() & 0xFFFF
    # The one's complement sum of type, identifier and sequence number 1; the code and the rest are 0.
    total = (echo_request << 8) + identifier + 1
    checksum = ~(total + (total >> 16)) & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(TIMEOUT_S)
        raw.sendto(struct.pack("!BBHHH", echo_request, 0, checksum, identifier, 1), (host, 0))
        try:
            packet = raw.recv(256)
        except TimeoutError:
            return False
    return packet[(packet[0] & 0x0F) * 4] == echo_reply
