# SPDX-License-Identifier: GPL-2.0-or-later
"""No packet ever leaves in answer to a knock, and nobody can tell a port that could be opened from one that cannot.

What comes back is looked at on the client's side of the wire. See tests/knock_host.py for who is where.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.firewall import policy
from tests.frames import ICMPV6, IPV4, IPV6
from tests.knock_host import (
    CLIENT_V4,
    CLIENT_V6,
    CLOSE,
    SPA_KNOCK,
    SPA_PORT,
    STEPS,
    V4,
    V6,
    KnockHost,
    make_key,
    needs,
    ssh_knock,
)
from tests.topology import wait_for
from xdpfw.knock.keys import parse_client_half
from xdpfw.knock.spa import Message, source_bytes

FAMILIES = {V4: CLIENT_V4, V6: CLIENT_V6}
NEIGHBOUR_DISCOVERY = range(133, 138)
LAST = b"the last one"
SSH_AND_ADMIN = policy(
    "{name: echo, match: {proto: udp, dport: 7}, action: pass}",
    extra=SPA_KNOCK.replace("[22/tcp, 443/tcp]", "[443/tcp]") + ssh_knock().removeprefix("knocks:\n"),
)


def is_answer(frame: bytes) -> bool:
    """Whether it is from the host to the client, and not about where they are on the wire."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == IPV4:
        return frame[26:34] == ip_address(V4).packed + ip_address(CLIENT_V4).packed
    if ethertype == IPV6 and frame[22:54] == ip_address(V6).packed + ip_address(CLIENT_V6).packed:
        return frame[20] != ICMPV6 or frame[54] not in NEIGHBOUR_DISCOVERY
    return False


@contextlib.contextmanager
def answers(knock_host: KnockHost, address: str) -> Iterator[list[bytes]]:
    """What comes back in the context. At its end the host sends something itself: all before that has come, too."""
    found: list[bytes] = []
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        knock_host.client.raw("eth0") as tap,
        knock_host.client.socket(family, socket.SOCK_DGRAM) as receiver,
        knock_host.host.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((FAMILIES[address], 0))
        sender.bind((address, 0))
        yield found
        sender.sendto(LAST, (FAMILIES[address], receiver.getsockname()[1]))
        while True:
            frame, origin = tap.recvfrom(2048)
            if origin[2] == socket.PACKET_OUTGOING or not is_answer(frame):
                continue
            if frame.endswith(LAST):
                break
            found.append(frame)


@pytest.fixture
def laptop(knock_host: KnockHost) -> Path:
    client_file = make_key(knock_host.firewall, "laptop")
    knock_host.firewall.apply(SSH_AND_ADMIN)
    return client_file


@pytest.mark.parametrize("address", [V4, V6])
def test_nothing_comes_back(knock_host: KnockHost, laptop: Path, address: str) -> None:
    """For what is right, wrong, late, forged, malformed or refused, to steps, closed ports and ports of messages."""
    firewall = knock_host.firewall
    half = parse_client_half(laptop.read_text(encoding="utf-8"), "laptop")
    message = Message(half.number, time.time_ns(), 1, source_bytes(FAMILIES[address]))
    genuine = message.signed(half.bound)
    payloads = (message.signed(bytes(32)), genuine[:-1], genuine, genuine, b"", bytes(1400))
    with answers(knock_host, address) as found:
        assert not knock_host.opened(address)
        knock_host.steps(*reversed(STEPS), *STEPS, *STEPS[:2], *CLOSE, address=address)
        assert not knock_host.opened(address)
        with knock_host.socket(address, socket.SOCK_DGRAM) as made:
            for payload in payloads:
                made.sendto(payload, (address, SPA_PORT))
        wait_for(lambda: firewall.reason("knock.spa_accepted") == 1, "the genuine one to be accepted")
        wait_for(lambda: firewall.reason("knock.spa_malformed") == 3, "the last ones to be refused")
        knock_host.xdpfw_knock(address, "24/tcp", "24/udp", "8/icmp", "--delay", "5ms")
        wait_for(lambda: firewall.reason("default") >= 3, "packets to be dropped by default")
    assert found == []
    # What was looked at would have shown an answer: what was opened gives one, and so does a host without a firewall.
    with answers(knock_host, address) as found:
        knock_host.steps(*STEPS, address=address)
        assert knock_host.opened(address)
    assert found != []
    firewall.detach()
    with answers(knock_host, address) as found:
        knock_host.client.run("nc", "-z", address, "24", status=1)
    assert found != []


@pytest.mark.parametrize("address", [V4, V6])
def test_ports_look_all_the_same(knock_host: KnockHost, laptop: Path, address: str) -> None:
    """To nmap: a port with a service behind a knock, ports of steps and messages, and ports that nobody has named."""
    assert laptop.exists()
    family = ("-6",) if ":" in address else ()
    for option, protocol, ports in (
        ("-sS", "tcp", "22,443,7000,8000,7001,24,81"),
        ("-sU", "udp", f"9000,9001,{SPA_PORT},24,22"),
        ("-sA", "tcp", "22,443,7000,8000,24"),
        ("-sX", "tcp", "22,443,7000,8000,24"),
        ("-sN", "tcp", "22,443,7000,8000,24"),
        ("-sM", "tcp", "22,443,7000,8000,24"),
    ):
        pace = ("-T5", "--max-retries", "0", "--reason", "-v", "-d")
        done = knock_host.client.run(needs("nmap"), "-n", "-Pn", *family, *pace, option, "-p", ports, address)
        rows = [line.split(maxsplit=1) for line in done.stdout.splitlines() if f"/{protocol} " in line[:12]]
        told = {tuple(word for word in what.split() if word in STATES) for port, what in rows}
        assert len(rows) == ports.count(",") + 1, done.stdout
        assert told in ({("filtered", "no-response")}, {("open|filtered", "no-response")}), (option, rows)


STATES = {
    "open",
    "closed",
    "filtered",
    "unfiltered",
    "open|filtered",
    "no-response",
    "reset",
    "syn-ack",
    "port-unreach",
}


def test_a_grant_shows_nothing_to_others(knock_host: KnockHost, laptop: Path) -> None:
    """Nor to its holder at any other port."""
    assert laptop.exists()
    knock_host.steps(*STEPS)
    with answers(knock_host, V6) as found:
        assert not knock_host.opened(V6)
    assert found == []
    with answers(knock_host, V4) as found:
        knock_host.xdpfw_knock(V4, "24/tcp", "22/udp", "443/tcp", "--delay", "5ms")
        knock_host.steps(*STEPS)
    assert found == []
