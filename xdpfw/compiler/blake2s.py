# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of keyed BLAKE2s behind the block of its key, which leaves the data plane one compression a message.

RFC 7693. hashlib has BLAKE2s, too, but does not tell the state in between.
"""

from __future__ import annotations

import struct
from typing import Final

STATE_WORDS: Final = 8
BLOCK_BYTES: Final = 64
MAX_KEY_BYTES: Final = 32

_IV: Final = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_SIGMA: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_LANES: Final = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
_MASK: Final = 0xFFFFFFFF


def key_state(key: bytes, digest_bytes: int) -> tuple[int, ...]:
    """Eight words: the chaining value once a key of 1 to 32 bytes, padded to a block, has been compressed.

    More of the message has to follow. ``digest_bytes``: 1 to 32.
    """
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes, where 1 to {MAX_KEY_BYTES} belong")
    state = list(_IV)
    state[0] ^= 0x01010000 ^ len(key) << 8 ^ digest_bytes
    message = struct.unpack("<16I", key.ljust(BLOCK_BYTES, b"\0"))
    work = [*state, *_IV]
    work[12] ^= BLOCK_BYTES
    for order in _SIGMA:
        for lane, (a, b, c, d) in enumerate(_LANES):
            _mix(work, a, b, c, d, message[order[2 * lane]], message[order[2 * lane + 1]])
    return tuple(word ^ work[i] ^ work[i + STATE_WORDS] for i, word in enumerate(state))


def _mix(v: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    """The function G (section 3.1)."""
    v[a] = v[a] + v[b] + x & _MASK
    v[d] = _rotated(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d] & _MASK
    v[b] = _rotated(v[b] ^ v[c], 12)
    v[a] = v[a] + v[b] + y & _MASK
    v[d] = _rotated(v[d] ^ v[a], 8)
    v[c] = v[c] + v[d] & _MASK
    v[b] = _rotated(v[b] ^ v[c], 7)


def _rotated(word: int, bits: int) -> int:
    return (word >> bits | word << 32 - bits) & _MASK
