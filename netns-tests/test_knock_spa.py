# SPDX-License-Identifier: GPL-2.0-or-later
"""Single packets that prove who sent them, by real clients, caught on the wire and sent again.

See tests/knock_host.py for who is where.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import frames
from tests.firewall import policy
from tests.knock_host import (
    ADMIN,
    BY_KNOCKS,
    CLIENT_V4,
    CLIENT_V6,
    SECOND_V4,
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
from tests.topology import TIME_SCALE, Network, wait_for
from tests.wire import Wire
from xdpfw.knock.keys import ClientHalf, parse_client_half
from xdpfw.knock.spa import MESSAGE_BYTES, Message, source_bytes

HOUR_NS = 3600 * 10**9
DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "knocking.md").read_text(encoding="utf-8")
FAMILIES = {"v4": (V4, CLIENT_V4), "v6": (V6, CLIENT_V6)}


def half_of(path: Path) -> ClientHalf:
    return parse_client_half(path.read_text(encoding="utf-8"), str(path))


@pytest.fixture
def laptop(knock_host: KnockHost) -> Path:
    """A key of a policy that is in force."""
    client_file = make_key(knock_host.firewall, "laptop")
    knock_host.firewall.apply(ADMIN)
    return client_file


@contextlib.contextmanager
def captured(knock_host: KnockHost, interface: str = "eth0") -> Iterator[list[bytes]]:
    """The messages that the client sends in this context, as whole frames."""
    found: list[bytes] = []
    with knock_host.client.raw(interface) as tap:
        yield found
        tap.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = tap.recv(2048)
                if len(frame) > MESSAGE_BYTES and frame[-MESSAGE_BYTES - 6 :][:2] == SPA_PORT.to_bytes(2, "big"):
                    found.append(frame)


def send(knock_host: KnockHost, frame: bytes) -> str:
    """Sends a frame from the client; tells the reason that it was dropped for."""
    firewall = knock_host.firewall
    before = firewall.reasons()
    with knock_host.client.raw("eth0") as sender:
        sender.send(frame)

    def reason() -> str | None:
        after = firewall.reasons()
        found = [name for name in after if name.startswith("knock.spa") and after[name] > before[name]]
        return found[0] if found else None

    return str(wait_for(reason, "the message to be decided on"))


@pytest.mark.parametrize("family", FAMILIES)
def test_xdpfw_knock_opens_and_closes(knock_host: KnockHost, laptop: Path, family: str) -> None:
    address, source = FAMILIES[family]
    assert not knock_host.opened(address)
    knock_host.xdpfw_knock(address, "--spa", laptop, "--verify", "22")
    assert knock_host.opened(address)
    (grant,) = knock_host.grants()
    assert (grant["source"], grant["services"], grant["key"]) == (source, ["22/tcp", "443/tcp"], "laptop")
    knock_host.xdpfw_knock(address, "--spa", laptop, "--close")
    wait_for(lambda: not knock_host.grants(), "the grant to be closed")
    assert not knock_host.opened(address)


def test_one_service_for_a_shorter_time(knock_host: KnockHost, laptop: Path) -> None:
    knock_host.xdpfw_knock(V4, "--spa", laptop, "--service", "1", "--ttl", "60s")
    (grant,) = wait_for(knock_host.grants, "the grant")
    assert grant["services"] == ["22/tcp"]
    assert 0 < grant["remaining_s"] <= 60
    assert knock_host.opened()
    assert not knock_host.opened(port=443)
    knock_host.xdpfw_knock(V4, "--spa", laptop, "--service", "3")
    wait_for(lambda: knock_host.firewall.reason("knock.spa_service") == 1, "a service that there is not to be refused")


def test_a_short_grant_ends(knock_host: KnockHost, laptop: Path) -> None:
    knock_host.xdpfw_knock(V4, "--spa", laptop, "--ttl", f"{2 * TIME_SCALE:.0f}s")
    wait_for(knock_host.grants, "the grant")
    wait_for(lambda: not knock_host.grants(), "the grant to end")
    assert not knock_host.opened()


def test_the_recipe_with_openssl_and_nc(knock_host: KnockHost, laptop: Path, tmp_path: Path) -> None:
    for program in ("openssl", "nc"):
        needs(program)
    (recipe,) = re.findall(r"(?ms)^```bash\n(.*?)^```$", DOCUMENT)
    script = tmp_path / "spa.sh"
    script.write_text(recipe, encoding="utf-8")
    knock_host.client.run("bash", script, laptop, V4, str(SPA_PORT), CLIENT_V4)
    assert knock_host.opened()
    assert knock_host.firewall.reason("knock.spa_accepted") == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_the_client_in_python(knock_host: KnockHost, laptop: Path, tmp_path: Path, address: str) -> None:
    (program,) = (text for text in re.findall(r"(?ms)^```python\n(.*?)^```$", DOCUMENT) if "hashlib" in text)
    script = tmp_path / "spa.py"
    script.write_text(program, encoding="utf-8")
    knock_host.client.run(sys.executable, script, laptop, address, str(SPA_PORT))
    assert knock_host.opened(address)


def moved(frame: bytes, source: str) -> bytes:
    """An IPv4 frame from another address. Its checksum is wrong, which nothing on the way looks at."""
    return frame[:26] + socket.inet_aton(source) + frame[30:]


def test_what_is_caught_on_the_wire_and_sent_again(knock_host: KnockHost, laptop: Path) -> None:
    """From the same source and another one: it opens nothing, extends nothing, and re-opens nothing."""
    with captured(knock_host) as caught:
        knock_host.xdpfw_knock(V4, "--spa", laptop)
        wait_for(knock_host.grants, "the grant")
    (frame,) = caught
    before = knock_host.ends_of_grants()
    assert len(before) == 1
    assert send(knock_host, frame) == "knock.spa_replayed"
    assert send(knock_host, moved(frame, SECOND_V4)) == "knock.spa_replayed"
    assert knock_host.ends_of_grants() == before
    knock_host.firewall.command("grants", "revoke", "--all")
    for text in (policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}", extra=SPA_KNOCK), ADMIN):
        assert send(knock_host, frame) == "knock.spa_replayed"
        command = knock_host.firewall.start_apply(text)
        command.wait(0.1)
        command.kill()
        assert send(knock_host, frame) == "knock.spa_replayed"
        knock_host.firewall.apply(text)
    knock_host.firewall.detach()
    knock_host.firewall.apply(ADMIN)
    assert send(knock_host, frame) == "knock.spa_replayed"
    assert knock_host.grants() == []
    assert not knock_host.opened()


def test_what_is_caught_and_never_arrived(knock_host: KnockHost, laptop: Path, net: Network) -> None:
    """Whoever keeps a message from arriving cannot use it from another address, and its sender loses nothing."""
    net.pair(knock_host.client, "away", net.namespace("thief", ipv6=False), "trap")
    knock_host.client.ip("neighbour", "replace", V4, "lladdr", "02:00:00:00:00:01", "dev", "away")
    knock_host.client.ip("route", "add", f"{V4}/32", "dev", "away", "src", CLIENT_V4)
    with captured(knock_host, "away") as caught:
        knock_host.xdpfw_knock(V4, "--spa", laptop)
    knock_host.client.ip("route", "delete", f"{V4}/32")
    (frame,) = caught
    assert send(knock_host, moved(frame, SECOND_V4)) == "knock.spa_source"
    assert send(knock_host, frame) == "knock.spa_accepted"
    assert knock_host.opened()
    assert not knock_host.opened(source=SECOND_V4)


def test_a_device_behind_nat(knock_host: KnockHost) -> None:
    """It does not know its address: a key with nat opens for wherever the message came from, once."""
    phone, laptop = make_key(knock_host.firewall, "phone", "--nat"), make_key(knock_host.firewall, "laptop")
    knock_host.firewall.apply(ADMIN)
    knock_host.xdpfw_knock(V4, "--spa", laptop, "--source", "10.0.0.7")
    wait_for(lambda: knock_host.firewall.reason("knock.spa_source") == 1, "a wrong source to be refused")
    with captured(knock_host) as caught:
        knock_host.xdpfw_knock(V4, "--spa", phone, "--source", "10.0.0.7")
        wait_for(knock_host.grants, "the grant")
    (grant,) = knock_host.grants()
    assert (grant["source"], grant["key"]) == (CLIENT_V4, "phone")
    assert send(knock_host, moved(caught[0], SECOND_V4)) == "knock.spa_replayed"


def test_a_key_that_is_revoked(knock_host: KnockHost) -> None:
    """Its grants end with the apply, and its messages are of no key; those of another key go on."""
    laptop, phone = (make_key(knock_host.firewall, name) for name in ("laptop", "phone"))
    knock_host.firewall.apply(ADMIN)
    knock_host.xdpfw_knock(V4, "--spa", laptop)
    knock_host.xdpfw_knock(V6, "--spa", phone)
    wait_for(lambda: len(knock_host.grants()) == 2, "both grants")
    with knock_host.client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.connect((V4, 22))
        keys = knock_host.firewall.directory / "admin.keys"
        lines = keys.read_text(encoding="utf-8").splitlines(keepends=True)
        keys.write_text("".join(line for line in lines if " laptop " not in line), encoding="utf-8")
        knock_host.firewall.apply(ADMIN)
        closed = knock_host.firewall.reason("knock.closed")
        connection.send(b"still here?")
        wait_for(lambda: knock_host.firewall.reason("knock.closed") > closed, "the connection to be cut off")
    assert [grant["key"] for grant in knock_host.grants()] == ["phone"]
    assert not knock_host.opened()
    assert knock_host.opened(V6)
    unknown = knock_host.firewall.reason("knock.spa_unknown_key")
    knock_host.xdpfw_knock(V4, "--spa", laptop)
    wait_for(lambda: knock_host.firewall.reason("knock.spa_unknown_key") > unknown, "the key to be unknown")
    assert not knock_host.opened()
    ended = [event for event in knock_host.events() if event["event"] == "grant-end"]
    assert [(event["cause"], event["source"], event["key_id"]) for event in ended] == [("key-removed", CLIENT_V4, 1)]


def test_the_key_of_another_server(knock_host: KnockHost, laptop: Path) -> None:
    """The same key and number, but another server's id: as if somebody had copied the line from there."""
    text = laptop.read_text(encoding="utf-8")
    laptop.write_text(re.sub(r"(?m)^server .*$", "server 0123456789abcdef", text), encoding="utf-8")
    knock_host.xdpfw_knock(V4, "--spa", laptop)
    wait_for(lambda: knock_host.firewall.reason("knock.spa_forged") == 1, "the message to be forged")
    assert knock_host.grants() == []


@dataclass(frozen=True)
class Sender:
    """Messages by hand, to a firewall on a wire."""

    wire: Wire
    half: ClientHalf

    def message(self, later_ns: int = 0, **more: int) -> bytes:
        source = source_bytes("198.51.100.7")
        return Message(self.half.number, time.time_ns() + later_ns, 1, source, **more).signed(self.half.bound)

    def decide(self, payload: bytes, *, behind: bytes = b"", length: int | None = None, **header: int | bytes) -> str:
        length = 8 + len(payload) if length is None else length
        segment = frames.udp(dport=SPA_PORT, length=length) + payload + behind
        return self.wire.decide(frames.v4_frame(segment, frames.UDP, **header))


@pytest.fixture
def sender(wire: Wire) -> Sender:
    client_file = make_key(wire.firewall, "laptop")
    sequence = ssh_knock(opens="[80/tcp]").removeprefix("knocks:\n")
    wire.firewall.apply(policy(allow=BY_KNOCKS, extra=SPA_KNOCK + sequence))
    return Sender(wire, half_of(client_file))


def closed(sender: Sender) -> bool:
    reason = sender.wire.decide(frames.v4_frame(frames.tcp()))
    assert reason in ("knock.closed", "knock.granted")
    return reason == "knock.closed"


REFUSED = {
    f"knock.spa_{name}" for name in ("malformed", "unknown_key", "replayed", "stale", "early", "source", "forged")
}


def test_each_byte_flipped(sender: Sender) -> None:
    payload = sender.message()
    for position in range(MESSAGE_BYTES):
        for bit in (0x01, 0x80):
            changed = bytearray(payload)
            changed[position] ^= bit
            assert sender.decide(bytes(changed)) in REFUSED, (position, bit)
    assert closed(sender)
    assert sender.decide(payload) == "knock.spa_accepted"
    assert not closed(sender)


def test_other_lengths(sender: Sender) -> None:
    """Of the payload, of UDP's own and of IP's; and fragments. What was refused was not used up."""
    payload = sender.message()
    malformed = "knock.spa_malformed"
    for other in (payload[:-1], payload + b"\0", payload + payload, payload[:40], b""):
        assert sender.decide(other) == malformed, len(other)
    for length in (0, 8, 63, 65, 0xFFFF):
        assert sender.decide(payload, length=length) == malformed
    assert sender.decide(payload, behind=b"\0", length=64) == malformed
    assert sender.decide(payload[:-1], length=64) == malformed
    assert sender.decide(payload, fragment=frames.MORE_FRAGMENTS) == malformed
    assert sender.decide(payload, fragment=8) == "default"
    assert closed(sender)
    assert sender.decide(payload, options=bytes((1,) * 8)) == "knock.spa_accepted"


def test_clocks_that_are_wrong(sender: Sender) -> None:
    """By an hour, either way. One that was ahead, within the window, must not be put back behind its last message."""
    assert sender.decide(sender.message(HOUR_NS)) == "knock.spa_early"
    assert sender.decide(sender.message(-HOUR_NS)) in ("knock.spa_replayed", "knock.spa_stale")
    assert sender.decide(sender.message(30 * 10**9)) == "knock.spa_accepted"
    assert sender.decide(sender.message()) == "knock.spa_replayed"
    assert sender.decide(sender.message(31 * 10**9)) == "knock.spa_accepted"


def test_messages_of_before_the_policy(wire: Wire) -> None:
    """As after a reboot: nobody knows which of them were accepted, so none is."""
    half = half_of(make_key(wire.firewall, "laptop"))
    before = Sender(wire, half).message()
    wire.firewall.apply(policy(extra=SPA_KNOCK))
    assert Sender(wire, half).decide(before) == "knock.spa_replayed"
    assert Sender(wire, half).decide(Sender(wire, half).message()) == "knock.spa_accepted"


def test_a_message_between_the_steps_of_a_sequence(sender: Sender) -> None:
    """An accepted one does no harm; a refused one is a dropped packet like any other, and sets them back."""

    def step(text: str) -> None:
        number, _, protocol = text.partition("/")
        is_tcp = protocol == "tcp"
        segment = frames.tcp(dport=int(number)) if is_tcp else frames.udp(dport=int(number))
        assert sender.wire.decide(frames.v4_frame(segment, frames.TCP if is_tcp else frames.UDP)) == "knock.step"

    web = frames.v4_frame(frames.tcp(dport=80))
    payload = sender.message()
    for text in STEPS:
        step(text)
        assert sender.decide(sender.message()) == "knock.spa_accepted"
    assert sender.wire.decide(web) == "knock.granted"
    for text in ("9001/udp", "7001/tcp", *STEPS[:2]):
        step(text)
    assert sender.decide(payload) == "knock.spa_replayed"
    step(STEPS[2])
    assert sender.wire.decide(web) == "knock.closed"
