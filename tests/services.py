# SPDX-License-Identifier: GPL-2.0-or-later
"""Real servers and clients, in namespaces of a test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Final

import pytest

from tests.topology import COMMAND_LIMIT_SECONDS, LIMIT_SECONDS, Namespace, run, wait_for

SSH_PORT: Final = 22
CHUNK_BYTES: Final = 1 << 20

_WEB_SERVER: Final = """
import functools, http.server, socket, ssl, sys
directory, certificate, key = sys.argv[1:]
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
plain, secure = Server(("::", 80), handler), Server(("::", 443), handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
secure.socket = context.wrap_socket(secure.socket, server_side=True)
import threading
threading.Thread(target=plain.serve_forever, daemon=True).start()
secure.serve_forever()
"""


def needs(program: str) -> str:
    """The path of a program; skips the test, and says why, where it is not installed."""
    found = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        reason = f"{program} is not installed; make test-packages installs it on Debian"
        print(f"skipped: {reason}")
        pytest.skip(reason)
    return found


def listens(home: Namespace, port: int, kind: str = "t") -> bool:
    """``kind``: ``t`` of TCP, ``u`` of UDP."""
    return f":{port} " in home.run("ss", f"-l{kind}nH").stdout


@contextlib.contextmanager
def web_server(home: Namespace, directory: Path, size_bytes: int) -> Iterator[str]:
    """Serves one file by HTTP and HTTPS; yields the SHA-256 of its content."""
    served = directory / f"served-{home.name}"
    served.mkdir()
    digest = hashlib.sha256()
    with (served / "file").open("wb") as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            chunk = os.urandom(CHUNK_BYTES)
            digest.update(chunk)
            file.write(chunk)
    certificate, key = directory / f"{home.name}.crt", directory / f"{home.name}.key"
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run(needs("openssl"), *request, "-subj", "/CN=test", "-keyout", key, "-out", certificate)
    arguments = (sys.executable, "-c", _WEB_SERVER, served, certificate, key)
    with home.process(*arguments, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: listens(home, 80) and listens(home, 443), "the web server")
        yield digest.hexdigest()


def fetch(client: Namespace, url: str, output: Path) -> str:
    """The SHA-256 of what curl gets."""
    limit = str(int(COMMAND_LIMIT_SECONDS))
    client.run(needs("curl"), "-sSgk", "--max-time", limit, "-o", output, url)
    with output.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def name_server(home: Namespace, name: str, address: str, *, upstream: str | None = None) -> Iterator[None]:
    """dnsmasq, which knows one name and asks ``upstream`` for all others."""
    options = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
    ]
    options += [f"--address=/{name}/{address}"] if upstream is None else [f"--server={upstream}", "--cache-size=0"]
    with home.process(needs("dnsmasq"), *options, stdout=DEVNULL, stderr=PIPE):
        wait_for(lambda: listens(home, 53, "u") and listens(home, 53), "the name server")
        yield


def look_up(client: Namespace, name: str, server: str, *options: str) -> str:
    """What dig gets, which asks once."""
    limits = ("+tries=1", "+time=10", "+short")
    return client.run(needs("dig"), *limits, *options, f"@{server}", name).stdout.strip()


@dataclass(frozen=True)
class SecureShell:
    """A server, and the key that it lets in."""

    key: Path
    log: Path

    def login(self, address: str, *command: str) -> tuple[str | Path, ...]:
        """The arguments of a client."""
        wanted = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": os.devnull,
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
        }
        options = [f"-o{name}={value}" for name, value in wanted.items()]
        return (needs("ssh"), "-F", "none", "-i", self.key, *options, f"root@{address}", *command)

    def check_answers(self, client: Namespace, address: str) -> None:
        answer = client.run(*self.login(address, "echo it is me"), status=None)
        # Some virtual machines lock root out. That is for sshd to say, which has been reached then.
        assert answer.stdout == "it is me\n" or self.locks_root, answer.stderr

    @property
    def locks_root(self) -> bool:
        return "account is locked" in self.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def ssh_server(home: Namespace, directory: Path) -> Iterator[SecureShell]:
    sshd, keygen = needs("sshd"), needs("ssh-keygen")
    needs("unshare")
    server = SecureShell(directory / f"user-{home.name}", directory / f"sshd-{home.name}.log")
    for path in (server.key, directory / f"host-{home.name}"):
        run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", path)
    configuration = directory / f"sshd-{home.name}.conf"
    configuration.write_text(
        f"Port {SSH_PORT}\nHostKey {directory / f'host-{home.name}'}\nPidFile none\n"
        f"AuthorizedKeysFile {server.key}.pub\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n",
        encoding="utf-8",
    )
    # sshd wants a directory in /run, which a machine that does not run it lacks: it gets a /run of its own.
    start = f"mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec {sshd} -D -e -f {configuration}"
    with (
        server.log.open("w", encoding="utf-8") as log,
        home.process("unshare", "--mount", "sh", "-c", start, stderr=log, stdout=log),
    ):
        wait_for(lambda: listens(home, SSH_PORT), "sshd to listen")
        yield server


@contextlib.contextmanager
def session(client: Namespace, server: SecureShell, address: str) -> Iterator[Callable[[str], None]]:
    """A login that goes on. What is yielded says a line and takes its echo."""
    with client.process(*server.login(address, "cat"), stdin=PIPE, stdout=PIPE) as process:

        def say(line: str) -> None:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], LIMIT_SECONDS)[0], "the session does not answer"
            assert process.stdout.readline() == f"{line}\n"

        yield say


@contextlib.contextmanager
def measuring_server(home: Namespace) -> Iterator[None]:
    """iperf3, for one measurement: it is a while not ready for the next one."""
    with home.process(needs("iperf3"), "-s", "-1", stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: listens(home, 5201), "iperf3")
        yield


@contextlib.contextmanager
def echo_datagrams(home: Namespace, port: int) -> Iterator[None]:
    """Sends every datagram back."""
    program = (
        f"import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', {port}))\n"
        "while True: s.sendto(*s.recvfrom(9000))"
    )
    with home.process(sys.executable, "-c", program):
        wait_for(lambda: listens(home, port, "u"), "the echo")
        yield


def is_protocol_there(protocol: int) -> bool:
    """Whether this kernel has sockets of a transport protocol."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).close()
    except OSError:
        return False
    return True
