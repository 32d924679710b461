# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/knocking.md: its test vectors are right, and the clients that it shows can knock."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.knock.listeners import LOOPBACK, tcp, udp
from xdpfw.knock import rotation, spa
from xdpfw.knock.keys import ClientHalf, ServerHalf, bound_key, fingerprint, parse_client_half, parse_server_half

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "knocking.md").read_text()

SPA_VECTOR = re.compile(
    r"key (?P<key>\d+), service (?P<service>\d+), ttl (?P<ttl>\d+)(?P<close>, close)?, time (?P<time>\d+),"
    r" nonce (?P<nonce>[0-9a-f]{16}), source (?P<source>\S+)\n(?P<message>[0-9a-f]+)\n"
)
ROTATION_VECTOR = re.compile(
    r"window (?P<window>\d+).*, ports (?P<low>\d+)-(?P<high>\d+), length (?P<length>\d+)\n(?P<steps>.*)\n"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", DOCUMENT)


SPA_BLOCK, ROTATION_BLOCK = blocks("vectors")


def values(block: str) -> dict[str, str]:
    """The lines of a name and a value, up to the first empty one."""
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in block.partition("\n\n")[0].splitlines())


def test_vectors_of_messages() -> None:
    told = values(SPA_BLOCK)
    key, server = bytes.fromhex(told["K"]), bytes.fromhex(told["server"])
    bound = bound_key(key, server)
    assert bound.hex() == told["K'"]
    assert f"{fingerprint(bound):016x}" == told["fingerprint"]
    found = list(SPA_VECTOR.finditer(SPA_BLOCK))
    assert len(found) == SPA_BLOCK.count("\n\n") == 2
    for vector in found:
        message = spa.Message(
            key_number=int(vector["key"]),
            time_ns=int(vector["time"]),
            nonce=int(vector["nonce"], 16),
            source=spa.source_bytes(vector["source"]),
            service=int(vector["service"]),
            ttl_s=int(vector["ttl"]),
            close=vector["close"] is not None,
        )
        assert message.signed(bound).hex() == vector["message"]


def test_vectors_of_rotations() -> None:
    told = values(ROTATION_BLOCK)
    secret = rotation.secret_key(told["text"])
    assert secret.hex() == told["secret"]
    found = list(ROTATION_VECTOR.finditer(ROTATION_BLOCK))
    assert len(found) == ROTATION_BLOCK.count("\n\n") == 3
    for vector in found:
        steps = rotation.steps(secret, *(int(vector[name]) for name in ("window", "low", "high", "length")))
        assert " ".join(map(str, steps)) == vector["steps"]
    assert rotation.window_of(1_700_000_000 * 10**9, 30 * 10**9) == int(found[0]["window"])


def halves() -> tuple[ServerHalf, ClientHalf]:
    (server,) = (text for text in blocks("text") if text.startswith("xdpfw-spa-server"))
    (client,) = (text for text in blocks("text") if text.startswith("xdpfw-spa-client"))
    return parse_server_half(server, "server"), parse_client_half(client, "client")


def test_the_halves_are_those_of_the_vectors() -> None:
    server, client = halves()
    told = values(SPA_BLOCK)
    assert (server.server.hex(), client.server.hex()) == (told["server"], told["server"])
    assert client.key.hex() == told["K"]
    assert server.keys[0].key.hex() == told["K'"]


@pytest.fixture(params=["laptop", "as nc would split it"])
def client_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The key of the document; and one whose messages begin with line ends, numbered 2570: 0x0a0a."""
    _, half = halves()
    if request.param != "laptop":
        half = ClientHalf(half.server, 0x0A0A, half.name, half.key)
    path = tmp_path / "laptop.key"
    path.write_text(str(half))
    return path


def accepted(payload: bytes, client_file: Path, address: str) -> bool:
    half = parse_client_half(client_file.read_text(), "f")
    message = spa.parse(payload)
    return (
        spa.is_genuine(payload, half.bound)
        and message.key_number == half.number
        and message.source == spa.source_bytes(address)
        and (message.service, message.ttl_s, message.close) == (0, 0, False)
        and message.nonce != 0
    )


@pytest.mark.parametrize("family", LOOPBACK)
def test_the_client_in_python(family: int, client_file: Path, tmp_path: Path) -> None:
    (program,) = (text for text in blocks("python") if "hashlib" in text)
    assert "xdpfw" not in program
    script = tmp_path / "spa.py"
    script.write_text(program)
    with udp(family) as (listening, port):
        subprocess.run([sys.executable, script, client_file, LOOPBACK[family], str(port)], check=True, timeout=60)
        assert accepted(listening.recv(2048), client_file, LOOPBACK[family])


def test_the_readme_has_the_same_script() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"```bash\n{blocks('bash')[0]}```\n" in readme


def test_the_client_by_openssl_and_nc(client_file: Path, tmp_path: Path) -> None:
    (program,) = blocks("bash")
    script = tmp_path / "spa.sh"
    script.write_text(program)
    with udp() as (listening, port):
        arguments = ["bash", script, client_file, "127.0.0.1", str(port), "127.0.0.1"]
        done = subprocess.run(arguments, check=True, timeout=60, capture_output=True, text=True)
        assert done.stdout + done.stderr == ""
        assert accepted(listening.recv(2048), client_file, "127.0.0.1")


def test_the_client_by_openssl_and_nc_sends_nothing_over_ipv6(client_file: Path, tmp_path: Path) -> None:
    """Of a host with both, nc would take the IPv6 address, and the message would be refused silently."""
    (program,) = blocks("bash")
    script = tmp_path / "spa.sh"
    script.write_text(program)
    with udp(socket.AF_INET6) as (listening, port):
        arguments = ["bash", script, client_file, "::1", str(port), "127.0.0.1"]
        done = subprocess.run(arguments, check=False, timeout=60, capture_output=True, text=True)
        assert done.returncode != 0
        assert done.stderr
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(2048)


def test_the_call_from_python_is_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program as it is written, but at this host, and at ports that answer."""
    (program,) = (text for text in blocks("python") if "xdpfw.knock" in text)
    _, half = halves()
    monkeypatch.chdir(tmp_path)
    with udp() as (listening, spa_port), tcp() as (_, service_port):
        Path("laptop.key").write_text(str(ClientHalf(half.server, half.number, half.name, half.key, spa_port)))
        exec(program.replace("edge.example.net", "127.0.0.1").replace(" 22,", f" {service_port},"), {})
        assert spa.is_genuine(listening.recv(2048), half.bound)


def test_base64_in_the_document_is_of_keys() -> None:
    found = re.findall(r"[A-Za-z0-9+/]{43}=", DOCUMENT)
    assert len(found) == 3
    assert all(len(base64.b64decode(text)) == 32 for text in found)
