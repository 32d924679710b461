# SPDX-License-Identifier: GPL-2.0-or-later
"""``xdpfw knock`` and ``xdpfw keygen``: what they answer, and how they refuse."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.imports import SLOW_IMPORTS, imported
from tests.knock.listeners import closed_port, tcp, udp
from xdpfw.knock import rotation, spa
from xdpfw.knock.keys import fingerprint, parse_client_half, parse_server_half

SECRET = "correct horse battery staple\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("home.secret", SECRET), ("short.secret", "x\n"), ("broken.key", "xdpfw-spa-client 1\nfoo\n")):
        Path(name).write_text(text)
        Path(name).chmod(0o600)


def test_a_sequence_is_sent_and_told(run: Run) -> None:
    with udp() as (listening, port):
        ran = run("knock", "127.0.0.1", f"{port}/udp", f"{closed_port()}/tcp", "--delay", "1ms")
        assert listening.recv(9) == b"\0"
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"knocked at 127.0.0.1: {port}/udp ")


def test_json_of_a_sequence(run: Run) -> None:
    ran = run("knock", "localhost", "-4", "1/udp", "2/tcp", "--delay", "0", "--json")
    assert ran.json == {
        "host": "localhost",
        "address": "127.0.0.1",
        "way": "sequence",
        "steps": ["1/udp", "2/tcp"],
        "tries": 1,
        "verified": None,
        "problem": None,
    }


def test_json_of_a_rotation(run: Run) -> None:
    options = ("--rotate", "home.secret", "--every", "1h", "--ports", "20000-20010", "--length", "6", "--delay", "0")
    ran = run("knock", "127.0.0.1", *options, "--json")
    assert ran.json["way"] == "rotation"
    ports = [int(step.partition("/")[0]) for step in ran.json["steps"]]
    assert len(ports) == 6
    assert set(ports) <= set(range(20000, 20011))


def test_a_rotation_is_by_default_as_the_documents_have_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "window_of", lambda _, every_ns: 56666666 if every_ns == 30_000_000_000 else 0)
    ran = run("knock", "127.0.0.1", "--rotate", "home.secret", "--delay", "1ms")
    assert ran.out == "knocked at 127.0.0.1: 31402/tcp 49310/udp 11481/tcp 11092/udp\n"


def test_verify_says_whether_the_port_answers(run: Run) -> None:
    with tcp() as (_, port):
        ran = run("knock", "127.0.0.1", "1/udp", "--verify", port)
        assert (ran.status, ran.lines[1]) == (0, f"port {port} answers after 1 knock")
        ran = run("knock", "127.0.0.1", "1/udp", "--verify", port, "--json")
        assert (ran.status, ran.json["verified"], ran.json["tries"]) == (0, True, 1)


def test_an_address_may_stand_in_brackets(run: Run) -> None:
    ran = run("knock", "[::1]", "1/udp")
    assert (ran.status, ran.out) == (0, "knocked at ::1: 1/udp\n")


@pytest.mark.needs("privileges")
def test_a_file_that_may_not_be_read_is_told_like_any_other(run: Run, unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of pytest is root's alone
        file = Path(directory) / "a.key"
        file.touch(0)
        message = f"xdpfw: cannot read '{file}': Permission denied\n"
        for arguments in (
            ("knock", "127.0.0.1", "--spa", file),
            ("knock", "127.0.0.1", "--rotate", file),
            ("keygen", "laptop", "--server-file", file, "--client-file", Path(directory) / "b.key"),
        ):
            ran = run(*arguments)
            assert (ran.status, ran.out, ran.err) == (2, "", message)


def test_verify_says_no_with_status_1(run: Run) -> None:
    port = closed_port()
    ran = run("knock", "127.0.0.1", "1/udp", "--verify", port, "--tries", "1")
    assert (ran.status, ran.err) == (1, "")
    assert ran.lines[1].startswith(f"port {port} does not answer after 1 knock: the connection was refused")


def test_a_new_key_can_be_knocked_with(run: Run) -> None:
    with udp() as (listening, port):
        ran = run("keygen", "laptop", "--port", port)
        assert ran.status == 0
        assert ran.lines == [
            "key 1, laptop: spa.keys for the server, laptop.key for the device",
            f"server: name the file in a knock, spa: {{port: {port}, keys: spa.keys}}, and apply",
            "device: move laptop.key there, keep no copy, and knock: xdpfw knock HOST --spa laptop.key",
        ]
        ran = run("knock", "127.0.0.1", "--spa", "laptop.key")
        assert (ran.status, ran.err) == (0, "")
        assert ran.out == f"key laptop asks for a grant for 127.0.0.1: sent to 127.0.0.1 port {port}\n"
        payload = listening.recv(100)
    (key,) = parse_server_half(Path("spa.keys").read_text(), "f").keys
    assert spa.is_genuine(payload, key.key)
    assert spa.parse(payload).key_number == key.number


def test_options_of_spa_are_in_the_message_and_in_json(run: Run) -> None:
    run("keygen", "laptop")
    with udp() as (listening, port):
        options = ("--service", "2", "--ttl", "5m", "--close", "--source", "198.51.100.7", "--port", port)
        ran = run("knock", "127.0.0.1", "--spa", "laptop.key", *options, "--json")
        message = spa.parse(listening.recv(100))
    assert (message.service, message.ttl_s, message.close) == (2, 300, True)
    assert message.source == spa.source_bytes("198.51.100.7")
    assert ran.json == {
        "host": "127.0.0.1",
        "address": "127.0.0.1",
        "way": "spa",
        "port": port,
        "key": {"number": 1, "name": "laptop"},
        "source": "198.51.100.7",
        "service": 2,
        "ttl_s": 300,
        "close": True,
        "time_ns": message.time_ns,
        "tries": 1,
        "verified": None,
        "problem": None,
    }


def test_json_of_keygen(run: Run) -> None:
    run("keygen", "laptop")
    ran = run("keygen", "phone", "--nat", "--port", "62201", "--client-file", "p.key", "--json")
    half = parse_client_half(Path("p.key").read_text(), "f")
    assert ran.json == {
        "server_file": "spa.keys",
        "client_file": "p.key",
        "server": half.server.hex(),
        "key": {"number": 2, "name": "phone", "nat": True, "fingerprint": f"{fingerprint(half.bound):016x}"},
        "port": 62201,
    }


def test_a_secret_is_made_and_not_overwritten(run: Run) -> None:
    ran = run("keygen", "--rotate", "new.secret")
    assert (ran.status, ran.lines[0]) == (0, "new.secret has a new secret")
    assert Path("new.secret").stat().st_mode & 0o777 == 0o600
    text = Path("new.secret").read_text()
    ran = run("keygen", "--rotate", "new.secret", "--json")
    assert (ran.status, ran.out, Path("new.secret").read_text()) == (2, "", text)
    assert run("keygen", "--rotate", "other.secret", "--json").json == {"secret_file": "other.secret"}
    assert run("knock", "127.0.0.1", "--rotate", "new.secret", "--delay", "0").status == 0


def test_no_command_prints_a_key(run: Run) -> None:
    ran = run("keygen", "laptop", "--json")
    told = run("knock", "127.0.0.1", "--spa", "laptop.key", "--port", "9", "--json")
    for path in ("spa.keys", "laptop.key"):
        key = Path(path).read_text().split()[7]
        assert len(key) == 44
        assert all(key not in text for text in (ran.out, ran.err, told.out, told.err))


def test_a_file_that_others_can_read_is_told(run: Run) -> None:
    run("keygen", "laptop", "--port", "9")
    for path in ("laptop.key", "home.secret", "spa.keys"):
        Path(path).chmod(0o644)
    for option, path in (("--spa", "laptop.key"), ("--rotate", "home.secret")):
        ran = run("knock", "127.0.0.1", option, path)
        assert ran.status == 0
        assert ran.err == f"xdpfw: others than its owner may read or write {path} (chmod 600 {path})\n"
    assert "may read or write spa.keys" in run("keygen", "phone").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["127.0.0.1"], "a knock is by steps, by --spa or by --rotate (give exactly one of them)"),
        (["::1", "1/tcp", "--spa", "x"], "a knock is by steps, by --spa or by --rotate (give exactly one of them)"),
        (["127.0.0.1", "7000"], "7000 has no protocol (write 7000/tcp or 7000/udp)"),
        (["127.0.0.1", "1/tcp", "70000/tcp"], "70000/tcp has port 70000, which is above 65535"),
        (["127.0.0.1", *["1/tcp", "2/tcp"] * 9], "18 steps, and a sequence has 16 at most"),
        (["", "1/tcp"], "a host is expected, and this is empty (perhaps a shell variable is not set)"),
        (["::1", "3/icmp"], "3/icmp is a step of IPv4, and ::1 is an IPv6 address (in IPv6, only 8/icmp and 0/icmp are;"
         " others are written as TYPE/icmpv6)"),
        (["127.0.0.1", "1/tcp", "-4", "-6"], "-4 and -6 exclude each other"),
        (["127.0.0.1", "1/tcp", "--delay", "100"], "--delay 100 has no unit (write 100ms for milliseconds)"),
        (["127.0.0.1", "1/tcp", "--delay", "5h30"],
         "--delay 5h30 is not a duration such as 500ms, 30s, 10m, 2h or 7d"),
        (["127.0.0.1", "--spa", "x", "--delay", "1s"],
         "--delay is between the packets of a sequence, and --spa sends one"),
        (["192.0.2.1:22", "1/tcp"], "192.0.2.1:22 has a port, and a host to knock at has none"
         " (write 192.0.2.1; the port that is to open goes behind --verify)"),
        (["[2001:db8::1]:22", "1/tcp"], "[2001:db8::1]:22 has a port, and a host to knock at has none"
         " (write 2001:db8::1; the port that is to open goes behind --verify)"),
        (["fe80::1", "1/tcp"], "fe80::1 is a link-local address, and does not say on which interface"
         " (write fe80::1%eth0, with the interface that it is on)"),
        (["127.0.0.1", "1/tcp", "--tries", "2"], "--tries is for --verify"),
        (["127.0.0.1", "1/tcp", "--port", "2"], "--port is for --spa"),
        (["127.0.0.1", "1/tcp", "--close"], "--close is for --spa"),
        (["127.0.0.1", "1/tcp", "--service", "0"], "--service is for --spa"),
        (["127.0.0.1", "1/tcp", "--every", "30s"], "--every is for --rotate"),
        (["127.0.0.1", "--spa", "x", "--close", "--verify", "22"],
         "--close ends a grant, and then --verify waits for nothing"),
        (["127.0.0.1", "--spa", "none.key"], "cannot read 'none.key': No such file or directory"),
        (["127.0.0.1", "--rotate", "none.secret"], "cannot read 'none.secret': No such file or directory"),
        (["127.0.0.1", "--rotate", "home.secret", "--ports", "9-8"], "--ports 9-8 is reversed (write 8-9)"),
        (["127.0.0.1", "--rotate", "home.secret", "--ports", "0-8"], "--ports 0 is below 1"),
        (["127.0.0.1", "--rotate", "home.secret", "--every", "x"],
         "--every x is not a duration such as 500ms, 30s, 10m, 2h or 7d"),
    ],
)  # fmt: skip
def test_a_wrong_knock_is_told(run: Run, arguments: list[str], message: str) -> None:
    ran = run("knock", *arguments)
    assert (ran.status, ran.out, ran.err) == (2, "", f"xdpfw: {message}\n")


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        ("short.secret", "--rotate", "short.secret:1:1: the secret has 1 characters, where a secret of 16"),
        ("broken.key", "--spa", "broken.key:2:1: foo is not known here (lines begin with server, key and port)"),
        ("spa.keys", "--spa", "spa.keys:1:1: xdpfw-spa-server begins a server half, where a client half belongs"),
    ],
)
def test_a_wrong_file_is_told_with_the_place(run: Run, path: str, option: str, message: str) -> None:
    run("keygen", "laptop")
    ran = run("knock", "127.0.0.1", option, path)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "laptop.key does not say the server's port (name it with --port, or add a line: port 62201)"),
        (["--port", "9", "--source", "edge"], "--source 'edge' is not an address"),
        (["--port", "9", "--source", "2001:db8::7"],
         "the source 2001:db8::7 is an IPv6 address, and 127.0.0.1 is knocked at over IPv4 "
         "(-6 knocks over IPv6, where the host has such an address)"),
        (["--port", "9", "--ttl", "500ms"], "--ttl 500ms is not 1 to 65535 whole seconds"),
        (["--port", "9", "--ttl", "1d"], "--ttl 1d is not 1 to 65535 whole seconds"),
    ],
)  # fmt: skip
def test_a_wrong_message_is_told(run: Run, options: list[str], message: str) -> None:
    run("keygen", "laptop")
    ran = run("knock", "127.0.0.1", "--spa", "laptop.key", *options)
    assert (ran.status, ran.out, ran.err) == (2, "", f"xdpfw: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a key needs a NAME, that of its device (xdpfw keygen laptop)"),
        (["a b"], "'a b' is not the name of a key (a name has up to 32 letters"),
        (["../a"], "'../a' is not the name of a key (a name has up to 32 letters"),
        (["a", "--rotate", "f"], "--rotate makes a secret, which has no name, halves, port or nat"),
        (["a", "--server-file", "broken.key"], "broken.key:1:1: xdpfw-spa-client begins a client half"),
    ],
)
def test_a_wrong_key_is_told_and_nothing_written(run: Run, arguments: list[str], message: str) -> None:
    before = sorted(Path().iterdir())
    ran = run("keygen", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.removeprefix("xdpfw: ").startswith(message)
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("knock", "127.0.0.1", "9/udp", "9/tcp"),
        ("knock", "127.0.0.1", "--rotate", "home.secret", "--delay", "1ms"),
        ("keygen", "laptop"),
    ],
)
def test_who_knocks_needs_nothing_of_the_firewall(arguments: tuple[str, ...]) -> None:
    modules = imported(*arguments)
    assert not modules & (SLOW_IMPORTS | {"cffi"})
    parts = {".".join(name.split(".")[:2]) for name in modules if name.startswith("xdpfw.")}
    assert parts <= {"xdpfw.cli", "xdpfw.errors", "xdpfw.knock", "xdpfw.policy", "xdpfw.regularfile"}
