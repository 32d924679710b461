# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of an SPA message before it is believed, question by question.

Written from the format alone, and apart from what clients build their messages with.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import Packet

UDP_HEADER_BYTES: Final = 8
MESSAGE_BYTES: Final = 56
SIGNED_BYTES: Final = 40
CLOSE: Final = 1


class Message(NamedTuple):
    """``signed``: the first 40 bytes, which ``tag`` is made of. ``source``: 16 bytes."""

    closes: bool
    key_number: int
    service: int
    ttl_s: int
    time_ns: int
    source: bytes
    signed: bytes
    tag: bytes


def read(packet: Packet) -> Message | None:
    """The message in a UDP datagram; None where it is malformed."""
    payload = packet.payload
    if packet.fragment is not Fragment.NONE or payload is None or len(payload) != MESSAGE_BYTES:
        return None
    if packet.udp_length != UDP_HEADER_BYTES + MESSAGE_BYTES:
        return None
    version, flags, number, service, ttl_s, time_ns, _, source, tag = struct.unpack(">BBHHHQQ16s16s", payload)
    if version != 1 or flags not in (0, CLOSE):
        return None
    return Message(flags == CLOSE, number, service, ttl_s, time_ns, source, payload[:SIGNED_BYTES], tag)


def failure(
    message: Message, packet: Packet, key: ir.SpaKey, window_ns: int, last_wall_ns: int, wall_ns: int
) -> str | None:
    """Why a message is not believed: what comes behind ``knock.spa_`` in the reason. None: it is.

    ``last_wall_ns`` is the time of the last message of this key that was believed.
    """
    if message.time_ns <= last_wall_ns:
        return "replayed"
    if message.time_ns < wall_ns - window_ns:
        return "stale"
    if message.time_ns > wall_ns + window_ns:
        return "early"
    if not key.nat and message.source != source_of(packet):
        return "source"
    tag = hashlib.blake2s(message.signed, key=key.key, digest_size=16).digest()
    if not hmac.compare_digest(message.tag, tag):
        return "forged"
    return None


def source_of(packet: Packet) -> bytes:
    """The packet's source as messages have it: IPv4 as ::ffff:192.0.2.1 (RFC 4291, section 2.5.5.2)."""
    assert packet.src is not None
    return (packet.src | 0xFFFF << 32 if packet.family is Family.IPV4 else packet.src).to_bytes(16)
