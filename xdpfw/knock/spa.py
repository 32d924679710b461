# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of single packet authorization: the payload of a UDP datagram, 56 bytes, all in network byte order.

======  =====  ==========================================================================================
offset  bytes
======  =====  ==========================================================================================
0       1      version, 1
1       1      flags; bit 0: close, ends the grant
2       2      number of the key
4       2      service: 0 for all that the knock opens, n for the n-th of them
6       2      ttl, in s; 0: as long as the knock grants
8       8      time, in ns since 1970
16      8      nonce, random
24      16     source address of the packet; IPv4 as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2)
40      16     tag: keyed BLAKE2s-128 (RFC 7693) over the 40 bytes before
======  =====  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
FLAG_CLOSE: Final = 1
MESSAGE_BYTES: Final = 56
SIGNED_BYTES: Final = 40
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

_SIGNED: Final = struct.Struct(">BBHHHQQ16s")
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


class MessageError(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a message says. ``source``: 16 bytes, see source_bytes(). ``time_ns``: since 1970."""

    key_number: int
    time_ns: int
    nonce: int
    source: bytes
    service: int = 0
    ttl_s: int = 0
    close: bool = False

    def signed(self, key: bytes) -> bytes:
        """The whole message, MESSAGE_BYTES. ``key``: 32 bytes, bound to the server: keys.bound_key()."""
        flags = FLAG_CLOSE if self.close else 0
        fields = (VERSION, flags, self.key_number, self.service, self.ttl_s, self.time_ns, self.nonce, self.source)
        body = _SIGNED.pack(*fields)
        return body + tag(body, key)


def tag(body: bytes, key: bytes) -> bytes:
    """The tag, TAG_BYTES, of the first SIGNED_BYTES of a message."""
    return hashlib.blake2s(body, digest_size=TAG_BYTES, key=key).digest()


def is_genuine(payload: bytes, key: bytes) -> bool:
    """Whether the tag of a message, of MESSAGE_BYTES, was made with this key. Takes the same time either way."""
    return hmac.compare_digest(tag(payload[:SIGNED_BYTES], key), payload[SIGNED_BYTES:])


def parse(payload: bytes) -> Message:
    """What a payload says; whether it is genuine is another question. Raises MessageError."""
    if len(payload) != MESSAGE_BYTES:
        raise MessageError(f"{len(payload)} bytes, where a message has {MESSAGE_BYTES}")
    version, flags, number, service, ttl_s, time_ns, nonce, source = _SIGNED.unpack_from(payload)
    if version != VERSION:
        raise MessageError(f"version {version}, where only {VERSION} is known")
    if flags & ~FLAG_CLOSE:
        raise MessageError(f"flags {flags:#04x}, where only {FLAG_CLOSE:#04x} is known")
    return Message(number, time_ns, nonce, source, service, ttl_s, close=bool(flags & FLAG_CLOSE))


def source_bytes(address: str) -> bytes:
    """An address as messages have it. Raises ValueError where it is none."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return _MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


def source_text(source: bytes) -> str:
    """An address of a message as people read it."""
    if source.startswith(_MAPPED):
        return str(ipaddress.IPv4Address(source[len(_MAPPED) :]))
    return str(ipaddress.IPv6Address(source))
