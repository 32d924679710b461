# SPDX-License-Identifier: GPL-2.0-or-later
"""The state behind the block of a key: gone on with, it gives the digest that hashlib gives."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler.blake2s import _IV, _LANES, _SIGMA, BLOCK_BYTES, _mix, key_state


def finished(state: tuple[int, ...], message: bytes) -> bytes:
    """The digest of a message of up to one block, as RFC 7693 section 3.2 has the last one."""
    words = struct.unpack("<16I", message.ljust(BLOCK_BYTES, b"\0"))
    work = [*state, *_IV]
    work[12] ^= BLOCK_BYTES + len(message)
    work[14] ^= 0xFFFFFFFF
    for order in _SIGMA:
        for lane, (a, b, c, d) in enumerate(_LANES):
            _mix(work, a, b, c, d, words[order[2 * lane]], words[order[2 * lane + 1]])
    return struct.pack("<8I", *(word ^ work[i] ^ work[i + 8] for i, word in enumerate(state)))


@given(st.binary(min_size=1, max_size=32), st.binary(min_size=1, max_size=64), st.integers(1, 32))
def test_it_goes_on_as_hashlib_does(key: bytes, message: bytes, digest_bytes: int) -> None:
    wanted = hashlib.blake2s(message, key=key, digest_size=digest_bytes).digest()
    assert finished(key_state(key, digest_bytes), message)[:digest_bytes] == wanted


def test_a_key_and_the_digest_s_length_are_part_of_it() -> None:
    states = {key_state(key, length) for key in (b"\0", b"\0\0", bytes(32)) for length in (16, 32)}
    assert len(states) == 6


@pytest.mark.parametrize("length", [0, 33, 64])
def test_keys_that_are_none(length: int) -> None:
    with pytest.raises(ValueError, match=f"a key of {length} bytes"):
        key_state(bytes(length), 32)
