# SPDX-License-Identifier: GPL-2.0-or-later
"""Constants in the program's instructions: each mark gets the value of its member, and nothing else changes."""

from __future__ import annotations

import struct

import pytest

from xdpfw.kernel import abi
from xdpfw.kernel.abi import Mark
from xdpfw.kernel.constants import with_constants
from xdpfw.kernel.loader import OBJECT

CONFIG = abi.pack("config", {"table_bytes": 0x11223344, "hash_secret": [5, 0xFEDCBA9876543210], "rule_count": 7})


def load_immediate(register: int, low: int, high: int) -> bytes:
    """BPF_LD | BPF_IMM | BPF_DW, as linux/bpf.h and uapi/linux/bpf_common.h have it."""
    return struct.pack("<BBHIIHHI", 0x18, register, 0, low, 0, 0, 0, high)[:8] + struct.pack("<II", 0, high)


def marked(register: int, member: str, mark: Mark = Mark.WORD, index: int = 0) -> bytes:
    return load_immediate(register, abi.offset_of("config", member) + index, mark)


def test_members_of_both_sizes() -> None:
    code = bytes(8) + marked(1, "table_bytes") + marked(9, "hash_secret", Mark.DOUBLE, 8) + bytes(8)
    wanted = load_immediate(1, 0x11223344, 0) + load_immediate(9, 0x76543210, 0xFEDCBA98)
    assert with_constants(code, CONFIG) == bytes(8) + wanted + bytes(8)


@pytest.mark.parametrize(
    "code",
    [
        load_immediate(1, 0, 0x12345678),  # another number
        b"\x00" + marked(1, "rule_count") + bytes(7),  # not where an instruction begins
        b"\x19" + marked(1, "rule_count")[1:],  # another instruction
        marked(1, "rule_count")[:3] + b"\x01" + marked(1, "rule_count")[4:],
        bytes(16),
    ],
)
def test_all_else_stays(code: bytes) -> None:
    assert with_constants(code, CONFIG) == code


def test_no_mark_is_left_in_the_program() -> None:
    code = OBJECT.read_bytes()
    assert len(with_constants(code, CONFIG)) == len(code)
    assert code != with_constants(code, CONFIG)
    for mark in Mark:
        assert struct.pack("<II", 0, mark) not in with_constants(code, bytes(len(CONFIG)))
