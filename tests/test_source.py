# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading files and their YAML: what comes out, where it stands, and what is refused."""

from __future__ import annotations

import gc
import gzip
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from xdpfw.errors import PolicyError, Position
from xdpfw.policy import source
from xdpfw.policy.collector import collector_paused
from xdpfw.policy.source import Sources


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("22", 22),
        ("65535", 65535),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'22'", "22"),
        ('"true"', "true"),
        ("''", ""),
        ("22:22", "22:22"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("1_000", "1_000"),
        ("-1", "-1"),
        ("+1", "+1"),
        ("1.5", "1.5"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("NULL", "NULL"),
        ("2024-01-01", "2024-01-01"),
        ("11:22:33:44:55:66", "11:22:33:44:55:66"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = source.parse(f"key: {text}\n", "policy.yaml")["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_block_scalar_is_text() -> None:
    assert source.parse("key: >-\n  80\n", "policy.yaml") == {"key": "80"}


def test_positions_count_characters_from_one() -> None:
    root = source.parse('a: 1\n"é": {x: [ü, "b"], y: }\n', "f.yaml")

    def at(*path: str | int, of_key: bool = False) -> tuple[int, int]:
        found = source.position(root, "f.yaml", path, of_key=of_key)
        return found.line, found.column

    assert at() == (1, 1)
    assert at("é") == (2, 6)
    assert at("é", of_key=True) == (2, 1)
    assert at("é", "x", 0) == (2, 11)
    assert at("é", "x", 1) == (2, 14)
    assert at("é", "y", of_key=True) == (2, 20)
    assert at("é", "x", 7, "nothing") == (2, 10), "steps that do not exist are passed over"


def test_a_byte_order_mark_and_crlf_change_nothing() -> None:
    root = source.parse("\ufeffa: 1\r\nb: x\r\n", "f.yaml")
    assert root == {"a": 1, "b": "x"}
    assert source.position(root, "f.yaml", ("b",)) == Position("f.yaml", 2, 4)


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\ud800", "\ufffe"])
def test_characters_that_no_policy_has(character: str) -> None:
    with pytest.raises(PolicyError, match=r"^f.yaml:2:5: character U\+[0-9A-F]{4} is not allowed"):
        source.parse(f"a: 1\nb: x{character}\n", "f.yaml")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_depth_is_bounded_before_any_stack_is(opening: str) -> None:
    with pytest.raises(PolicyError):
        source.parse(opening * 100_000, "f.yaml")


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    with collector_paused(), collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_files_are_read_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("a: ü\r\n".encode())
    sources = Sources.from_disk()
    assert sources.read(str(path)) == "a: ü\r\n"
    path.unlink()
    assert sources.read(str(path)) == "a: ü\r\n"
    assert dict(sources.files) == {str(path): "a: ü\r\n"}


def test_a_bundle_stands_in_for_the_disk() -> None:
    named_at = Position("a.yaml", 3, 4)
    sources = Sources.from_bundle({"a.yaml": "a: 1", "b.txt": "b"})
    assert sources.read("b.txt") == "b"
    with pytest.raises(PolicyError, match=r"^a.yaml:3:4: c.txt is not among the stored files"):
        sources.read("c.txt", named_at=named_at)
    assert list(sources.files) == ["b.txt"]


def test_the_digest_is_of_the_texts_and_their_bounds() -> None:
    def digest(**files: str) -> str:
        sources = Sources.from_bundle(files)
        for path in files:
            sources.read(path)
        return sources.digest

    assert digest(a="x", b="y") == digest(c="x", d="y")
    assert len({digest(a="x", b="y"), digest(a="y", b="x"), digest(a="xy", b=""), digest(a="xy")}) == 4


def test_files_that_are_none(tmp_path: Path) -> None:
    sources = Sources.from_disk()
    for path, reason in ((tmp_path / "gone", "No such file"), (tmp_path, "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(PolicyError, match=reason):
            sources.read(str(path))
    assert not sources.files


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, (1 << 20) + 1)
    with pytest.raises(PolicyError, match="large is larger than 1 MiB"):
        Sources.from_disk().read(str(path))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, kind in ((fifo, "a FIFO"), ("/dev/zero", "a device")):
        with pytest.raises(PolicyError, match=f"cannot read '{path}': it is {kind}, and no regular file"):
            Sources.from_disk().read(str(path))
    assert Sources.from_disk().read("/dev/null") == ""


def test_a_pipe_that_the_caller_has_opened_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    try:
        with subprocess.Popen(["/bin/echo", "version: 1"], stdout=writer):
            os.close(writer)
            assert Sources.from_disk().read(f"/dev/fd/{reader}") == "version: 1\n"
    finally:
        os.close(reader)


def test_bytes_that_are_not_utf8_have_a_position(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes("a: é\nb: ".encode() + b"\xe9")
    with pytest.raises(PolicyError, match=r"latin1.yaml:2:4: byte 0xe9 is not valid UTF-8"):
        Sources.from_disk().read(str(path))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_compressed_file_is_told_to_be_one(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(compress(b"192.0.2.0/24\n"))
    with pytest.raises(PolicyError, match=r"list.txt:1:[12]: byte .* \(it is compressed: unpack it first\)"):
        Sources.from_disk().read(str(path))
