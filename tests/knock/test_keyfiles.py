# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xdpfw.errors import KernelError
from xdpfw.knock import keyfiles
from xdpfw.knock.keyfiles import add_key
from xdpfw.knock.keys import ClientHalf, KeyFileError, parse_client_half, parse_server_half
from xdpfw.knock.rotation import secret_key


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return tmp_path / "admin.keys"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def client_half(path: Path) -> ClientHalf:
    return parse_client_half(path.read_text(), str(path))


def test_a_first_key_makes_both_halves(server: Path, tmp_path: Path) -> None:
    client = tmp_path / "laptop.key"
    made = add_key(server, client, "laptop", port=62201)
    assert client_half(client) == made
    half = parse_server_half(server.read_text(), "f")
    (key,) = half.keys
    assert (half.server, key.number, key.name, key.nat) == (made.server, 1, "laptop", False)
    assert key.key == made.bound != made.key
    assert (mode(server), mode(client)) == (0o600, 0o600)
    assert sorted(os.listdir(tmp_path)) == ["admin.keys", "laptop.key"]


def test_the_mode_does_not_depend_on_the_umask(server: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        add_key(server, tmp_path / "a.key", "a")
        add_key(server, tmp_path / "b.key", "b")
    finally:
        os.umask(before)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_further_key_keeps_all_that_is_there(server: Path, tmp_path: Path, end: str) -> None:
    add_key(server, tmp_path / "a.key", "a")
    text = f"# ours\n{server.read_text()}  # the end, without a key{end}"
    server.write_text(text)
    server.chmod(0o640)
    made = add_key(server, tmp_path / "b.key", "b", nat=True)
    assert server.read_text().startswith(text)
    assert server.read_text().removeprefix(text).strip() == str(parse_server_half(server.read_text(), "f").keys[1])
    assert made.number == 2
    assert parse_server_half(server.read_text(), "f").keys[1].nat
    assert mode(server) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a.key", "admin.keys", "b.key"]


def test_numbers_rise_so_that_those_of_removed_keys_stay_theirs(server: Path, tmp_path: Path) -> None:
    for name in "abc":
        add_key(server, tmp_path / f"{name}.key", name)
    server.write_text("".join(line for line in server.read_text().splitlines(True) if " b " not in line))
    assert add_key(server, tmp_path / "d.key", "d").number == 4
    server.write_text(server.read_text().replace("key 4 d", "# key 4 d"))
    assert add_key(server, tmp_path / "e.key", "e").number == 5


@pytest.mark.parametrize("comment", ["", "# "])
def test_above_the_last_number_the_smallest_free_one_is_taken(server: Path, tmp_path: Path, comment: str) -> None:
    for name in "abc":
        add_key(server, tmp_path / f"{name}.key", name)
    server.write_text(server.read_text().replace("key 2 b", f"{comment}key 65535 b"))
    assert add_key(server, tmp_path / "d.key", "d").number == 2
    assert add_key(server, tmp_path / "e.key", "e").number == 4


def test_the_halves_are_two_files(server: Path, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(tmp_path)
    for client in (server, tmp_path / "there" / server.name):
        with pytest.raises(KeyFileError, match="would be both halves, of the server and of the client"):
            add_key(server, client, "a")
    assert not server.exists()


def test_a_link_leads_to_the_file_that_is_changed(server: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    add_key(tmp_path / "elsewhere" / "real.keys", tmp_path / "a.key", "a")
    server.symlink_to(tmp_path / "elsewhere" / "real.keys")
    add_key(server, tmp_path / "b.key", "b")
    assert server.is_symlink()
    assert [key.name for key in parse_server_half(server.read_text(), "f").keys] == ["a", "b"]


def test_nothing_is_overwritten_and_nothing_half_done(server: Path, tmp_path: Path) -> None:
    add_key(server, tmp_path / "a.key", "a")
    before = server.read_text()
    (tmp_path / "b.key").write_text("mine\n")
    with pytest.raises(KeyFileError, match=r"b\.key exists already"):
        add_key(server, tmp_path / "b.key", "b")
    with pytest.raises(KeyFileError, match=r"admin\.keys:3:1: there is a key a already"):
        add_key(server, tmp_path / "c.key", "a")
    server.write_text("foo\n")
    with pytest.raises(KeyFileError, match=r"admin\.keys:1:1: foo does not begin a server half"):
        add_key(server, tmp_path / "c.key", "c")
    server.write_text(before)
    with pytest.raises(KeyFileError, match="'c d' is not the name of a key"):
        add_key(server, tmp_path / "c.key", "c d")
    assert (tmp_path / "b.key").read_text() == "mine\n"
    assert server.read_text() == before
    assert sorted(os.listdir(tmp_path)) == ["a.key", "admin.keys", "b.key"]


def test_a_link_that_leads_nowhere_is_not_followed(server: Path, tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "victim")
    with pytest.raises(KeyFileError, match="exists already"):
        add_key(server, tmp_path / "a.key", "a")
    assert not (tmp_path / "victim").exists()
    assert not server.exists()


def test_a_client_half_does_not_stay_where_the_server_half_cannot_be_written(server: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    add_key(server, tmp_path / "there" / "a.key", "a")
    before = server.read_text()
    with pytest.raises(KernelError, match=r"create .*: No such file or directory"):
        add_key(server, tmp_path / "nowhere" / "b.key", "b")
    with pytest.raises(KernelError, match=r"open .*nowhere: No such file or directory"):
        add_key(tmp_path / "nowhere" / "admin.keys", tmp_path / "b.key", "b")
    with pytest.raises(KeyFileError, match=r"same\.keys would be both halves"):
        add_key(tmp_path / "same.keys", tmp_path / "same.keys", "b")
    assert server.read_text() == before
    assert sorted(os.listdir(tmp_path)) == ["admin.keys", "there"]


def test_two_at_once_both_have_their_key(server: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from xdpfw.knock.keyfiles import add_key\n"
        "for index in range(20): add_key(Path(sys.argv[1]), Path(f'{sys.argv[2]}{index}.key'), f'{sys.argv[3]}{index}')"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(server), str(tmp_path / name), name]) for name in ("a", "b")
    ]
    assert [process.wait(60) for process in started] == [0, 0]
    half = parse_server_half(server.read_text(), "f")
    assert sorted(key.number for key in half.keys) == list(range(1, 41))
    for key in half.keys:
        assert client_half(tmp_path / f"{key.name}.key").bound == key.key


def test_reading_tells_why_not(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot read '.*': Is a directory"):
        keyfiles.read(tmp_path)
    with pytest.raises(KeyFileError, match=r"cannot read '/nowhere': No such file or directory"):
        keyfiles.read(Path("/nowhere"))
    with pytest.raises(KeyFileError, match=r"cannot read .*null byte"):
        keyfiles.read(Path("a\0b"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(KeyFileError, match=r"cannot read '.*/fifo': it is a FIFO, and no regular file"):
        keyfiles.read(tmp_path / "fifo")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", keyfiles.MAX_FILE_BYTES + 1)
    with pytest.raises(KeyFileError, match="large is larger than 1 MiB"):
        keyfiles.read(tmp_path / "large")
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match="is not text in UTF-8"):
        keyfiles.read(tmp_path / "f")


def test_secrets_are_long_and_new_each_time() -> None:
    one, other = keyfiles.new_secret(), keyfiles.new_secret()
    assert one != other
    assert secret_key(one) != secret_key(other)
    assert len(one.strip()) == 64
