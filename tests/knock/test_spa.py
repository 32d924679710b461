# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages, and that what they are signed by is the BLAKE2s of RFC 7693."""

from __future__ import annotations

import hashlib
import ipaddress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.knock import spa
from xdpfw.knock.keys import bound_key
from xdpfw.knock.spa import Message, MessageError

KEYS = st.binary(min_size=32, max_size=32)
SOURCES = st.ip_addresses().map(str)
U16 = st.integers(0, 0xFFFF)
U64 = st.integers(0, (1 << 64) - 1)
MESSAGES = st.builds(
    Message,
    key_number=U16,
    time_ns=U64,
    nonce=U64,
    source=SOURCES.map(spa.source_bytes),
    service=U16,
    ttl_s=U16,
    close=st.booleans(),
)


def test_known_answer_without_key() -> None:
    """RFC 7693 appendix B."""
    expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    assert hashlib.blake2s(b"abc").hexdigest() == expected


def test_known_answers_with_keys_and_of_all_sizes() -> None:
    """RFC 7693 appendix E: a hash over the hashes, keyed and not, of 16 to 32 bytes."""

    def selftest_seq(length: int, seed: int) -> bytes:
        a, b, out = 0xDEAD4BAD * seed & 0xFFFFFFFF, 1, bytearray()
        for _ in range(length):
            a, b = b, (a + b) & 0xFFFFFFFF
            out.append(b >> 24)
        return bytes(out)

    grand = hashlib.blake2s()
    for size in (16, 20, 28, 32):
        for length in (0, 3, 64, 65, 255, 1024):
            data = selftest_seq(length, length)
            grand.update(hashlib.blake2s(data, digest_size=size).digest())
            grand.update(hashlib.blake2s(data, digest_size=size, key=selftest_seq(size, size)).digest())
    assert grand.hexdigest() == "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe"


def test_the_tag_is_keyed_blake2s_of_16_bytes() -> None:
    """Another output length is another function: not the longer digest cut short."""
    body, key = bytes(40), bytes(32)
    assert spa.tag(body, key) == hashlib.blake2s(body, key=key, digest_size=16).digest()
    assert spa.tag(body, key) != hashlib.blake2s(body, key=key).digest()[:16]


def test_a_key_is_bound_to_a_server() -> None:
    key = bytes(range(32))
    assert bound_key(key, b"server-1") == hashlib.blake2s(b"server-1", key=key).digest()
    assert bound_key(key, b"server-1") != bound_key(key, b"server-2")


@given(MESSAGES, KEYS)
def test_a_message_is_read_as_it_was_written(message: Message, key: bytes) -> None:
    payload = message.signed(key)
    assert len(payload) == spa.MESSAGE_BYTES
    assert spa.parse(payload) == message
    assert spa.is_genuine(payload, key)


@given(MESSAGES, KEYS)
def test_fields_lie_where_the_table_says(message: Message, key: bytes) -> None:
    payload = message.signed(key)
    assert payload[0] == 1
    assert payload[1] == message.close
    fields = [message.key_number, message.service, message.ttl_s, message.time_ns, message.nonce]
    ends = [2, 4, 6, 8, 16, 24]
    assert [int.from_bytes(payload[a:b], "big") for a, b in pairwise(ends)] == fields
    assert payload[24:40] == message.source
    assert payload[40:] == hashlib.blake2s(payload[:40], key=key, digest_size=16).digest()


@given(MESSAGES, KEYS, st.integers(0, 55), st.integers(1, 255))
def test_a_message_with_another_byte_is_not_genuine(message: Message, key: bytes, index: int, flip: int) -> None:
    payload = bytearray(message.signed(key))
    payload[index] ^= flip
    assert not spa.is_genuine(bytes(payload), key)


@given(MESSAGES, KEYS, KEYS)
def test_another_key_does_not_verify(message: Message, key: bytes, other: bytes) -> None:
    assert spa.is_genuine(message.signed(key), other) == (key == other)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "0 bytes"),
        (bytes([1, *[0] * 54]), "55 bytes"),
        (bytes([1, *[0] * 56]), "57 bytes"),
        (bytes(56), "version 0"),
        (bytes([2, *[0] * 55]), "version 2"),
        (bytes([1, 2, *[0] * 54]), "flags 0x02"),
        (bytes([1, 0x81, *[0] * 54]), "flags 0x81"),
    ],
)
def test_what_is_no_message_is_told_apart(payload: bytes, problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        spa.parse(payload)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_none(payload: bytes) -> None:
    try:
        message = spa.parse(payload)
    except MessageError:
        return
    assert message.signed(bytes(32))[:40] == payload[:40]


@given(SOURCES)
def test_sources_are_16_bytes(address: str) -> None:
    source = spa.source_bytes(address)
    assert len(source) == 16
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    assert spa.source_text(source) == str(mapped or parsed)


def test_ipv4_is_mapped_and_a_zone_is_left_out() -> None:
    assert spa.source_bytes("198.51.100.7").hex() == "00000000000000000000ffffc6336407"
    assert spa.source_bytes("::ffff:198.51.100.7") == spa.source_bytes("198.51.100.7")
    assert spa.source_bytes("fe80::1%eth0") == spa.source_bytes("fe80::1")


@pytest.mark.parametrize("text", ["", "edge", "198.51.100", "198.51.100.7/32", "1.2.3.4.5", "::1::"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        spa.source_bytes(text)
