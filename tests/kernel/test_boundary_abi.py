# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout that Python uses is the one that the compiler of the data plane used."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from xdpfw.kernel import abi

HEADERS = sorted((Path(__file__).parents[2] / "bpf").glob("abi*.h"))
INCLUDES = [option for header in HEADERS for option in ("-include", str(header))]
MULTIARCH_INCLUDES = [f"-idirafter{path}" for path in Path("/usr/include").glob("*-linux-gnu")]


def assertions() -> Iterator[str]:
    """What Python believes of each struct, member and constant, for the C compiler to judge."""
    _, structs, _ = abi.ffi.list_types()
    for tag in (tag for tag in structs if tag.startswith("xdpfw_")):
        name = tag.removeprefix("xdpfw_")
        yield f"sizeof(struct {tag}) == {abi.size_of(name)}"
        for member, _ in abi.ffi.typeof(f"struct {tag}").fields:
            yield f"offsetof(struct {tag}, {member}) == {abi.offset_of(name, member)}"
    text = "".join(header.read_text() for header in HEADERS)
    for tag in re.findall(r"^enum (xdpfw_\w+)", text, re.MULTILINE):
        for constant, value in abi.ffi.typeof(f"enum {tag}").relements.items():
            yield f"{constant} == {value}"


@pytest.mark.skipif(not shutil.which("clang-16"), reason="needs clang-16: make setup installs it")
def test_the_compiler_lays_everything_out_alike() -> None:
    believed = list(assertions())
    assert len(believed) > 150
    checks = "\n".join(f'_Static_assert({assertion}, "");' for assertion in believed)
    subprocess.run(
        ["clang-16", "-target", "bpf", "-fsyntax-only", *MULTIARCH_INCLUDES, *INCLUDES, "-xc", "-"],
        input=f"#include <stddef.h>\n{checks}\n",
        text=True,
        check=True,
        timeout=60,
    )


def test_enums_are_the_headers() -> None:
    assert abi.Reason.INVALID_TCP_OFFSET + 1 == abi.Reason.COUNT
    assert (abi.Absent.NO_PORT, abi.Layout.BLOCK_BYTES, abi.Kind.FRAGMENT_SHIFT) == (65536, 64, 2)


def test_every_reason_has_a_name_that_users_can_read() -> None:
    names = [abi.reason_name(reason) for reason in abi.Reason]
    assert len(set(names)) == len(names) == abi.Reason.COUNT
    assert {"rule", "default", "allow.arp", "allow.icmp_errors", "invalid.ipv4_ihl", "invalid.l4_header"} <= set(names)
    assert all(re.fullmatch(r"rule|default|ban|(allow|invalid|knock|protect)\.[a-z0-9_]+", name) for name in names)


def test_counts_are_not_members() -> None:
    assert len(abi.Field) == abi.Field.COUNT == 18
    assert [verdict.name for verdict in abi.Verdict] == ["DROP", "PASS", "TX", "REDIRECT"]


def test_pack_takes_names_and_order() -> None:
    by_name = abi.pack("pair", {"src_class": 1, "dst_class": 2, "row": {"condition": 4}})
    assert by_name == abi.pack("pair", [1, 2, [0, 4]])
    assert abi.pack_array("pair", [[1, 2, [0, 4]]] * 2) == by_name * 2
    assert abi.pack_array("row", []) == b""


def test_unpack_gives_a_copy_that_can_be_changed() -> None:
    data = abi.pack("config", {"trace": 1, "allow": {"arp": 1}})
    config = abi.unpack("config", data)
    config.interface_factor = 7
    assert config.allow.arp == 1
    assert abi.to_bytes(config) == abi.pack("config", {"trace": 1, "allow": {"arp": 1}, "interface_factor": 7})
    assert abi.unpack("config", data).interface_factor == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        abi.pack("row", {"key": 1 << 32})
    with pytest.raises(KeyError):
        abi.pack("row", {"no_such_member": 1})
    with pytest.raises(ValueError, match="length"):
        abi.unpack("row", b"short")
