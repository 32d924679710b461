# SPDX-License-Identifier: GPL-2.0-or-later
"""protect.syn on a wire: connections through cookies, beside SYNs from forged addresses.

    client                             host
┌──────────────┐        ┌───────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)             │
│ 10.0.0.2 ... │        │  10.0.0.1, 2001:db8::1    │
│ 2001:db8::2  │        │  a web server on 8080     │
└──────────────┘        └───────────────────────────┘
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from tests import frames
from tests.firewall import Firewall, policy
from tests.flood import Frames, send, with_sources
from tests.knock_host import needs
from tests.topology import Namespace, Network, wait_for

V4, V6 = "10.0.0.1", "2001:db8::1"
SOURCES = 100
PORT = 8080
SPOOFED = 0x0B000000
COUNT = 1_000_000
PIECE = 50_000
COOKIE, BAD = "protect.syn_cookie", "protect.bad_cookie"
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n"
LONG = 10_000_000
LONG_ANSWER = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * LONG
WEB = f"{{name: web, match: {{proto: tcp, dport: {PORT}}}, action: pass}}"
SYNS_ALONE = f'{{name: web, match: {{proto: tcp, dport: {PORT}, tcp_flags: "syn,!ack"}}, action: pass}}'


def source(number: int, address: str = V4) -> str:
    return f"10.0.0.{number + 2}" if address == V4 else f"2001:db8::{number + 2:x}"


@dataclass(frozen=True)
class Site:
    client: Namespace
    host: Namespace
    firewall: Firewall
    server: Server

    def protect(self, *rules: str, port: int = PORT, mode: str = "auto", default: str = "drop") -> None:
        """Puts a policy with these rules in force, and this port protected."""
        self.firewall.apply(policy(*rules, extra=f"protect: {{syn: [{port}]}}\n", mode=mode, default=default))

    def connect(self, address: str = V4, src: str | None = None) -> None:
        """A request and its answer. AssertionError where there is none in time."""
        with self.client.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as made:
            if src is not None:
                made.bind((src, 0))
            made.connect((address, PORT))
            made.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert made.recv(100) == ANSWER

    def host_counter(self, name: str) -> int:
        """One of the host's TCP stack, by nstat's name."""
        lines = self.host.run("nstat", "-asz", name).stdout.splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(name)))


class Server:
    """Answers one request a connection, one connection at a time."""

    def __init__(self, host: Namespace) -> None:
        self._host = host
        self.start()

    def start(self) -> None:
        self._listening = self._host.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("::", PORT))
        self._listening.listen(1024)
        self._listening.settimeout(None)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    request = connection.recv(1000)
                    connection.sendall(LONG_ANSWER if b"/long" in request else ANSWER)


@pytest.fixture
def site(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Iterator[Site]:
    client, host = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", host, "fw0")
    client.address("eth0", *(f"{source(number)}/24" for number in range(SOURCES)))
    client.address("eth0", *(f"{source(number, V6)}/64" for number in range(SOURCES)))
    host.address("fw0", f"{V4}/24", f"{V6}/64")
    # Forged sources are answered by way of a neighbour that is not there, whom nobody is to look for.
    host.ip("route", "add", "default", "via", "10.0.0.254")
    host.ip("neighbour", "add", "10.0.0.254", "lladdr", client.mac("eth0"), "dev", "fw0")
    server = Server(host)
    try:
        # In native mode, a veth takes what its peer reflects only while it runs an XDP program itself.
        make_firewall(client).apply(policy(interfaces=("eth0",), default="pass"))
        yield Site(client, host, make_firewall(host), server)
    finally:
        server.stop()


@pytest.mark.parametrize("address", [V4, V6])
def test_the_first_connection_of_a_hundred_sources_opens(site: Site, mode: str, address: str) -> None:
    """At once, the very first SYN being answered by XDP."""
    site.protect(WEB, mode=mode)
    for number in range(SOURCES):
        site.connect(address, source(number, address))
    assert site.firewall.reason(COOKIE) == SOURCES
    assert site.firewall.reason(BAD) == 0
    site.connect(address, source(0, address))
    assert site.firewall.reason(COOKIE) == SOURCES


def test_curl_opens_its_first_connection(site: Site, mode: str) -> None:
    site.protect(WEB, mode=mode)
    for number, url in enumerate((f"http://{V4}:{PORT}/", f"http://[{V6}]:{PORT}/")):
        found = site.client.run(needs("curl"), "--silent", "--max-time", "1", url)
        assert found.stdout == "hi\n"
        assert site.firewall.reason(COOKIE) == number + 1


def test_a_server_that_was_started_anew_is_reached(site: Site) -> None:
    """Its socket has made no cookie before: at once it is asked for one, or some tenths of a second later."""
    site.protect(WEB)
    site.connect()
    site.server.stop()
    site.server.start()
    sources = iter(range(1, SOURCES))

    def is_reached() -> bool:
        with contextlib.suppress(ConnectionError):
            site.connect(src=source(next(sources)))
            return True
        return False

    wait_for(is_reached, "the new server to answer")


def test_a_rule_for_syns_alone_is_enough(site: Site, mode: str) -> None:
    site.protect(SYNS_ALONE, mode=mode)
    for number in range(10):
        site.connect(V6, source(number, V6))
    assert site.firewall.reason(COOKIE) == 10


def test_a_port_where_nobody_listens_says_so(site: Site) -> None:
    site.protect(WEB, default="pass", port=8089)
    with site.client.socket(socket.AF_INET, socket.SOCK_STREAM) as made, pytest.raises(ConnectionRefusedError):
        made.connect((V4, 8089))
    assert site.firewall.reason(COOKIE) == 0


def test_a_transfer_of_some_length_goes_through(site: Site, mode: str) -> None:
    """Connections by a cookie have neither window scaling nor selective acknowledgements, and work."""
    site.protect(WEB, mode=mode)
    found = site.client.run(needs("curl"), "--silent", "--max-time", "20", f"http://{V4}:{PORT}/long")
    assert len(found.stdout) == LONG
    assert site.firewall.reason(COOKIE) == 1


def syns(site: Site, first: int, count: int) -> Frames:
    """From addresses of nobody, each another, with right checksums: the stack would take them for connections."""
    mac = int(site.host.mac("fw0").replace(":", ""), 16)
    syn = frames.ethernet(
        frames.IPV4, frames.ipv4(frames.tcp(dport=PORT), dst=0x0A000001), dst_mac=mac, src_mac=0x020000000099
    )
    made = with_sources(syn, count, first)
    ip, pseudo_header = made[:, 14:34], np.tile(np.frombuffer(struct.pack("!HH", frames.TCP, 20), np.uint8), (count, 1))
    made[:, 24:26] = checksums(ip)
    made[:, 50:52] = checksums(np.hstack([made[:, 26:54], pseudo_header]))
    return made


def checksums(rows: Frames) -> Frames:
    """Of each row (RFC 1071), two bytes each. Where the checksum is to stand, it has 0."""
    sums = np.ascontiguousarray(rows).view(">u2").sum(axis=1, dtype=np.uint32)
    for _ in range(2):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return (~sums).astype(">u2").view(np.uint8).reshape(len(rows), 2)


def test_connections_open_beside_a_million_forged_syns(site: Site, mode: str) -> None:
    site.protect(WEB, mode=mode)
    done = threading.Event()

    def send_all() -> None:
        with site.client.raw("eth0") as sender:
            for first in range(SPOOFED, SPOOFED + COUNT, PIECE):
                send(sender, syns(site, first, PIECE))
        done.set()

    flooding = threading.Thread(target=send_all)
    flooding.start()
    opened = 0
    while not done.is_set() or opened < 2:
        site.connect(src=source(opened % SOURCES))
        opened += 1
    flooding.join()
    assert site.firewall.reason(COOKIE) >= COUNT // 2
    assert site.host_counter("TcpExtSyncookiesFailed") == 0
    site.connect()
    print(f"{opened} connections opened meanwhile")
