# SPDX-License-Identifier: GPL-2.0-or-later
"""A CrowdSec local API is asked over HTTP, and what its answers, or none, are taken for."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.fakeapi import KEY, FakeApi, decision, fake_api, stream
from xdpfw.errors import UsageError
from xdpfw.integrations import crowdsec
from xdpfw.integrations.crowdsec import ApiRefusedError, ApiUnreachableError, LocalApi, parse_network


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as made:
        yield made


def test_the_key_and_what_is_asked(api: FakeApi) -> None:
    api.answer = 200, stream(decision("198.51.100.7"))
    local = LocalApi(api.url, KEY)
    assert local.decisions(startup=True).new.keys() == {parse_network("198.51.100.7")}
    local.decisions(startup=False)
    assert [target for target, _ in api.asked] == [
        "/v1/decisions/stream?startup=true",
        "/v1/decisions/stream?startup=false",
    ]
    assert api.asked[0][1]["X-Api-Key"] == KEY
    assert api.asked[0][1]["User-Agent"].startswith("xdpfw/")


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/crowdsec/"])
def test_paths_of_urls(api: FakeApi, path: str) -> None:
    LocalApi(api.url + path, KEY).decisions(startup=True)
    before = "/crowdsec" if "crowdsec" in path else ""
    assert api.asked[0][0] == f"{before}/v1/decisions/stream?startup=true"


def test_a_wrong_key_is_refused(api: FakeApi) -> None:
    with pytest.raises(ApiRefusedError, match="key") as caught:
        LocalApi(api.url, "another").decisions(startup=True)
    assert caught.value.exit_status == 3
    assert "cscli bouncers add" in str(caught.value)
    assert "another" not in str(caught.value)


@pytest.mark.parametrize("status", [404, 301, 400])
def test_another_server_is_refused(api: FakeApi, status: int) -> None:
    api.answer = status, b"{}"
    with pytest.raises(ApiRefusedError, match=str(status)):
        LocalApi(api.url, KEY).decisions(startup=True)


def test_redirects_and_proxies_do_not_get_the_key(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_api() as other:
        monkeypatch.setenv("http_proxy", other.url)
        monkeypatch.setenv("HTTP_PROXY", other.url)
        api.answer, api.headers["Location"] = (302, b""), f"{other.url}/v1/decisions/stream"
        with pytest.raises(ApiRefusedError):
            LocalApi(api.url, KEY).decisions(startup=True)
        assert (len(api.asked), len(other.asked)) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [(500, b""), (502, b"bad gateway"), (429, b""), (200, b"<html>"), (200, b"{}"), (200, b"\xff"), (200, b"")],
)
def test_what_may_be_better_later(api: FakeApi, answer: tuple[int, bytes]) -> None:
    api.answer = answer
    with pytest.raises(ApiUnreachableError):
        LocalApi(api.url, KEY).decisions(startup=True)


def test_an_answer_that_breaks_off(api: FakeApi) -> None:
    """Half of a list is no list: its entries would be taken out as if they were no more decided."""
    body = stream(decision("198.51.100.7"), decision("198.51.100.8"))
    api.answer, api.headers["Content-Length"] = (200, body[: len(body) // 2]), str(len(body))
    with pytest.raises(ApiUnreachableError):
        LocalApi(api.url, KEY).decisions(startup=True)


def test_an_answer_without_end_is_cut_off(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowdsec, "MAX_ANSWER_BYTES", 1 << 20)
    api.answer = 200, b" " * (1 << 21)
    with pytest.raises(ApiUnreachableError, match="1 MiB"):
        LocalApi(api.url, KEY).decisions(startup=True)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowdsec, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ApiUnreachableError, match="timed out"):
        LocalApi(f"http://127.0.0.1:{silent.getsockname()[1]}", KEY).decisions(startup=True)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ApiUnreachableError, match="refused"):
        LocalApi(f"http://127.0.0.1:{port}", KEY).decisions(startup=True)


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://[::1", "http://a:99999", "http://u:p@a", "http://a/?b=c",
     "http://a/b c\r\nX: y", "http://a/\u00e9"],
)  # fmt: skip
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(UsageError, match="url"):
        LocalApi(url, KEY)


@pytest.mark.parametrize("key", ["", "two words", "two\nlines", "k\u00e9y"])
def test_keys_that_cannot_be_right(key: str) -> None:
    with pytest.raises(UsageError, match="cscli bouncers add") as caught:
        LocalApi("http://127.0.0.1:8080", key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_clear"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
        ("http://[::1]:8080", False),
        ("http://192.0.2.1:8080", True),
        ("https://192.0.2.1:8080", False),
    ],
)
def test_a_key_in_the_clear_is_known(url: str, is_clear: bool) -> None:
    assert LocalApi(url, KEY).sends_key_in_the_clear is is_clear


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """Of 127.0.0.1, signed by itself."""
    pem, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    subject = ("-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject)
    subprocess.run([*command, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return pem, context


def test_https_trusts_whom_it_is_told_to(certificate: tuple[Path, ssl.SSLContext]) -> None:
    pem, context = certificate
    with fake_api(context) as api:
        assert LocalApi(api.url, KEY, ca_file=str(pem)).decisions(startup=True).new == {}
        with pytest.raises(ApiRefusedError, match=r"certificate.*--ca-file"):
            LocalApi(api.url, KEY).decisions(startup=True)
        assert len(api.asked) == 1


def test_what_is_no_file_of_certificates(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    for path, url in [(tmp_path / "none", "https://a"), (empty, "https://a"), (empty, "http://a")]:
        with pytest.raises(UsageError, match="--ca-file"):
            LocalApi(url, KEY, ca_file=str(path))
