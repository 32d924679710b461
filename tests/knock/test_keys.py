# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.errors import PolicyError
from xdpfw.knock.keys import (
    ClientHalf,
    KeyFileError,
    ServerHalf,
    ServerKey,
    bound_key,
    fingerprint,
    parse_client_half,
    parse_server_half,
    redacted,
)

KEYS = st.binary(min_size=32, max_size=32)
SERVERS = st.binary(min_size=8, max_size=8)
NUMBERS = st.integers(1, 65535)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)


def _server_half(server: bytes, parts: list[tuple[int, str, bytes, bool]]) -> ServerHalf:
    return ServerHalf(server, tuple(ServerKey(*part) for part in parts))


SERVER_HALVES = st.builds(
    _server_half,
    SERVERS,
    st.lists(
        st.tuples(NUMBERS, NAMES, KEYS, st.booleans()),
        max_size=6,
        unique_by=(lambda part: part[0], lambda part: part[1], lambda part: part[2]),
    ),
)
CLIENT_HALVES = st.builds(ClientHalf, SERVERS, NUMBERS, NAMES, KEYS, st.none() | NUMBERS)

A, B = (base64.b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))
SERVER = f"xdpfw-spa-server 1\nserver 0011223344556677\nkey 1 laptop {A}\n"
CLIENT = f"xdpfw-spa-client 1\nserver 0011223344556677\nkey 1 laptop {A}\n"


def test_a_server_half_is_read_with_comments_in_any_order() -> None:
    head = "\n# our keys\r\n xdpfw-spa-server\t1 # the first\n"
    text = f"{head}key 7 phone {B} nat\n\nkey 1 laptop {A}# old\nserver 00112233AABBCCDD"
    half = parse_server_half(text, "admin.keys")
    assert half.server == bytes.fromhex("00112233aabbccdd")
    assert half.keys == (ServerKey(7, "phone", b"\2" * 32, True), ServerKey(1, "laptop", b"\1" * 32, False))
    assert [key.line for key in half.keys] == [4, 6]


def test_a_client_half_is_read_with_and_without_port() -> None:
    half = ClientHalf(bytes.fromhex("0011223344556677"), 1, "laptop", b"\1" * 32)
    assert parse_client_half(CLIENT, "laptop.key") == half
    assert parse_client_half(f"{CLIENT}port 62201\n", "laptop.key").port == 62201
    assert half.bound == bound_key(b"\1" * 32, half.server)


@given(SERVER_HALVES)
def test_a_server_half_is_read_as_it_is_written(half: ServerHalf) -> None:
    assert parse_server_half(str(half), "admin.keys") == half


@given(CLIENT_HALVES)
def test_a_client_half_is_read_as_it_is_written(half: ClientHalf) -> None:
    assert parse_client_half(str(half), "laptop.key") == half


@given(KEYS)
def test_the_fingerprint_is_little_endian(key: bytes) -> None:
    assert fingerprint(key).to_bytes(8, "little") == hashlib.blake2s(key).digest()[:8]


SERVER_ERRORS = {
    "": "admin.keys:1:1: the file is empty (its first line is xdpfw-spa-server 1)",
    "# nothing\n": "admin.keys:1:1: the file is empty (its first line is xdpfw-spa-server 1)",
    "\nserver 0011223344556677\n": "admin.keys:2:1: server does not begin a server half"
    " (its first line is xdpfw-spa-server 1)",
    CLIENT: "admin.keys:1:1: xdpfw-spa-client begins a client half, where a server half belongs"
    " (a client half stays with its device)",
    "xdpfw-spa-server\n": "admin.keys:1:1: xdpfw-spa-server has nothing behind it, where only version 1 is known"
    " (write xdpfw-spa-server 1)",
    "xdpfw-spa-server 2\n": "admin.keys:1:1: xdpfw-spa-server has 2 behind it, where only version 1 is known"
    " (write xdpfw-spa-server 1)",
    "xdpfw-spa-server 1\n": "admin.keys:1:1: the file has no server (add server ID, 16 hexadecimal digits)",
    f"{SERVER}server 0011223344556677\n": "admin.keys:4:1: server stands here again (a half is of one server)",
    f"{SERVER}port 62201\n": "admin.keys:4:1: port is not known here (lines begin with server and key)",
    f"{SERVER}{B}\n": "admin.keys:4:1: a word of 44 characters is not known here (lines begin with server and key)",
    f"{SERVER}\x1b[2J\n": r"admin.keys:4:1: '\x1b[2J' is not known here (lines begin with server and key)",
    f"{SERVER}key 2 phone\n": "admin.keys:4:1: key has 2 words behind it"
    " (write key NUMBER NAME BASE64, and nat behind it where any source may use the key)",
    f"{SERVER}key 2 phone {B} any\n": "admin.keys:4:58: any is not known here (behind a key stands nat or nothing)",
    f"{SERVER}key 0 phone {B}\n": "admin.keys:4:5: 0 is not the number of a key (numbers are 1 to 65535)",
    f"{SERVER}key 65536 phone {B}\n": "admin.keys:4:5: 65536 is not the number of a key (numbers are 1 to 65535)",
    f"{SERVER}key 02 phone {B}\n": "admin.keys:4:5: 02 is not the number of a key (numbers are 1 to 65535)",
    f"{SERVER}key 2 -phone {B}\n": "admin.keys:4:7: -phone is not the name of a key"
    " (a name has up to 32 letters, digits, '.', '_' and '-', and begins with a letter or digit)",
    f"{SERVER}key 2 {'x' * 33} {B}\n": "admin.keys:4:7: a word of 33 characters is not the name of a key"
    " (a name has up to 32 letters, digits, '.', '_' and '-', and begins with a letter or digit)",
    f"{SERVER}key 1 phone {B}\n": "admin.keys:4:5: 1 is the number of laptop in line 3, too",
    f"{SERVER}key 2 laptop {B}\n": "admin.keys:4:7: laptop is the name of key 1 in line 3, too",
    f"{SERVER}key 2 phone {A}\n": "admin.keys:4:7: phone has the same key as laptop in line 3"
    " (each device has one of its own: xdpfw keygen)",
}


@pytest.mark.parametrize(("text", "message"), SERVER_ERRORS.items())
def test_a_server_half_that_is_wrong_is_told_where(text: str, message: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_server_half(text, "admin.keys")
    assert str(caught.value) == message
    assert isinstance(caught.value, PolicyError)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "word",
    [
        A[:-1],
        A + "=",
        A[:-2] + "R=",  # the same bytes, written in another way
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        bytes(32).hex(),
        "x",
        "é" * 44,
    ],
)
@pytest.mark.parametrize(("half", "parse"), [(SERVER, parse_server_half), (CLIENT, parse_client_half)])
def test_a_key_that_is_not_one_is_not_repeated(half: str, parse: Callable[[str, str], object], word: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse(half.replace(A, word), "f")
    assert str(caught.value) == (
        f"f:3:14: key laptop has a word of {len(word)} characters that is not 32 bytes in base64"
        " (it has 44 characters, the last one =)"
    )


CLIENT_ERRORS = {
    SERVER: "laptop.key:1:1: xdpfw-spa-server begins a server half, where a client half belongs"
    " (xdpfw keygen NAME writes NAME.key for the client)",
    "xdpfw-spa-client 1\nserver 0011223344556677\n": "laptop.key:2:1: the file has no key (add key NUMBER NAME BASE64)",
    f"{CLIENT}key 2 phone {B}\n": "laptop.key:4:1: key is a second key (a client half has one)",
    CLIENT.replace(A, f"{A} nat"): "laptop.key:3:1: key has 4 words behind it (write key NUMBER NAME BASE64)",
    f"{CLIENT}port\n": "laptop.key:4:1: port has nothing behind it (write port NUMBER)",
    f"{CLIENT}port 0\n": "laptop.key:4:6: 0 is not a port (ports are 1 to 65535)",
    f"{CLIENT}port 65536\n": "laptop.key:4:6: 65536 is not a port (ports are 1 to 65535)",
    f"{CLIENT}port 1\nport 2\n": "laptop.key:5:1: port stands here again (a client half has one port at most)",
    f"{CLIENT}host edge\n": "laptop.key:4:1: host is not known here (lines begin with server, key and port)",
    CLIENT.replace(
        "77", "7"
    ): "laptop.key:2:8: 001122334455667 is not the id of a server (it has 16 hexadecimal digits)",
    CLIENT.replace(
        "server 0011223344556677", "server"
    ): "laptop.key:2:1: server has nothing behind it (write server ID)",
}


@pytest.mark.parametrize(("text", "message"), CLIENT_ERRORS.items())
def test_a_client_half_that_is_wrong_is_told_where(text: str, message: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_client_half(text, "laptop.key")
    assert str(caught.value) == message


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = f"xdpfw-spa-server 1\nserver x\nkey 0 a {A}\nfoo\nkey 1 b {A}\nkey 1 c {B}\n"
    with pytest.raises(KeyFileError) as caught:
        parse_server_half(text, "f")
    positions = [str(error.position) for error in (caught.value, *caught.value.others)]
    assert positions == ["f:2:8", "f:3:5", "f:4:1", "f:6:5"]


@given(st.text() | st.text().map(lambda text: f"xdpfw-spa-server 1\n{text}") | st.text().map(SERVER.__add__))
def test_any_text_is_a_half_or_told_why_not(text: str) -> None:
    for parse in (parse_server_half, parse_client_half):
        try:
            parse(text, "f")
        except KeyFileError as error:
            for each in (error, *error.others):
                assert str(each).startswith("f:")
                assert str(each).isprintable()


@given(SERVER_HALVES, SERVER_HALVES)
def test_a_redacted_half_reads_as_the_half_without_its_keys(half: ServerHalf, other: ServerHalf) -> None:
    text = redacted(str(half))
    found = parse_server_half(text, "f")
    strip = [(key.number, key.name, key.nat) for key in half.keys]
    assert [(key.number, key.name, key.nat) for key in found.keys] == strip
    assert found.server == half.server
    assert all(base64.b64encode(key.key).decode() not in text for key in half.keys)
    assert (redacted(str(other)) == text) == (other == half)


def test_keys_in_comments_and_broken_lines_are_redacted_too() -> None:
    text = redacted(f"{SERVER}# key 2 phone {B}\nkey 3 {B}\nkey{B}\n")
    assert A not in text
    assert B not in text
    assert text.startswith("xdpfw-spa-server 1\nserver 0011223344556677\nkey 1 laptop ")


def test_keys_do_not_show_in_what_python_prints() -> None:
    server, client = parse_server_half(SERVER, "f"), parse_client_half(CLIENT, "f")
    for shown in (repr(server), repr(client)):
        assert A not in shown
        assert repr(b"\1" * 32) not in shown
