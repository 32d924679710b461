# SPDX-License-Identifier: GPL-2.0-or-later
"""Rotating sequences: the steps of a window of time, derived from a secret that both sides have.

Window ``w`` is the time since 1970 divided by the length of a window. Its steps are words of 16 bits, big-endian, of
BLAKE2s-256 (RFC 7693) with the secret as key over ``w`` in 8 bytes, big-endian: step ``i`` goes to port ``low + word[i]
% (high - low + 1)``, of TCP where ``i`` is even and of UDP where it is odd. So no two neighbours are alike.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from xdpfw.knock.steps import MAX_STEPS, TCP, UDP, Step

MIN_SECRET_CHARACTERS: Final = 16

_WINDOW_MASK: Final = (1 << 64) - 1


class SecretError(ValueError):
    """A secret that is none. The message goes on from the name of its file."""


def secret_key(text: str) -> bytes:
    """The key, 32 bytes, of a secret: BLAKE2s-256 of the text in UTF-8 without whitespace at either end.

    Raises SecretError where it is shorter than MIN_SECRET_CHARACTERS.
    """
    secret = text.strip()
    if len(secret) < MIN_SECRET_CHARACTERS:
        found = f"has {len(secret)} characters" if secret else "is empty"
        raise SecretError(f"{found}, where a secret of {MIN_SECRET_CHARACTERS} characters or more belongs")
    return hashlib.blake2s(secret.encode()).digest()


def redacted(text: str) -> str:
    """A stand-in for the text of a secret: a secret itself, another for another one, which does not tell it."""
    return hashlib.blake2s(text.strip().encode(), person=b"xdpfw-st").hexdigest() + "\n"


def window_of(wall_ns: int, every_ns: int) -> int:
    """The number of the window that a time in ns since 1970 is in."""
    return wall_ns // every_ns


def steps(secret: bytes, window: int, low: int, high: int, length: int) -> tuple[Step, ...]:
    """The steps of a window. ``secret``: 32 bytes, of secret_key(). Ports are ``low``..``high``, both included."""
    if not 1 <= length <= MAX_STEPS:
        raise ValueError(f"{length} steps, where 1 to {MAX_STEPS} belong")
    if not 1 <= low <= high <= 65535:
        raise ValueError(f"ports {low}-{high}, where a range within 1-65535 belongs")
    digest = hashlib.blake2s(struct.pack(">Q", window & _WINDOW_MASK), key=secret).digest()
    words = struct.unpack(">16H", digest)[:length]
    span = high - low + 1
    return tuple(Step(UDP if index % 2 else TCP, low + word % span) for index, word in enumerate(words))
