# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.knock.rotation import SecretError, redacted, secret_key, steps, window_of
from xdpfw.knock.steps import TCP, UDP

SECRETS = st.binary(min_size=32, max_size=32)
WINDOWS = st.integers(0, (1 << 64) - 1)
PORTS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)


@given(SECRETS, WINDOWS, PORTS, st.integers(1, 16))
def test_steps_are_words_of_the_digest(secret: bytes, window: int, ports: list[int], length: int) -> None:
    low, high = ports
    digest = hashlib.blake2s(window.to_bytes(8, "big"), key=secret).digest()
    found = steps(secret, window, low, high, length)
    assert len(found) == length
    for index, step in enumerate(found):
        word = digest[2 * index] << 8 | digest[2 * index + 1]
        assert step == ((TCP, UDP)[index % 2], low + word % (high - low + 1), None)
        assert low <= step.number <= high
    assert all(one != other for one, other in pairwise(found))


@given(SECRETS, WINDOWS, PORTS, st.integers(1, 15))
def test_a_shorter_sequence_is_how_a_longer_one_begins(
    secret: bytes, window: int, ports: list[int], length: int
) -> None:
    assert steps(secret, window, *ports, 16)[:length] == steps(secret, window, *ports, length)


def test_the_window_before_the_first_wraps_as_64_bits_do() -> None:
    assert steps(bytes(32), -1, 1, 65535, 4) == steps(bytes(32), (1 << 64) - 1, 1, 65535, 4)


@pytest.mark.parametrize(("low", "high", "length"), [(0, 9, 4), (9, 8, 4), (1, 65536, 4), (1, 9, 0), (1, 9, 17)])
def test_impossible_sequences_are_refused(low: int, high: int, length: int) -> None:
    with pytest.raises(ValueError, match="where"):
        steps(bytes(32), 1, low, high, length)


def test_a_window_begins_with_its_first_ns() -> None:
    every_ns = 30_000_000_000
    assert [window_of(ns, every_ns) for ns in (0, every_ns - 1, every_ns, 2 * every_ns - 1)] == [0, 0, 1, 1]


def test_whitespace_around_a_secret_does_not_count_and_within_it_does() -> None:
    key = secret_key("correct horse battery staple")
    assert key == hashlib.blake2s(b"correct horse battery staple").digest()
    assert secret_key("\n\t correct horse battery staple\r\n") == key
    assert secret_key("correct  horse battery staple") != key
    assert secret_key("schlüssel-schlüssel") == hashlib.blake2s("schlüssel-schlüssel".encode()).digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, where a secret of 16 characters or more belongs"),
        (" \n", "is empty, where a secret of 16 characters or more belongs"),
        ("x" * 15 + "\n", "has 15 characters, where a secret of 16 characters or more belongs"),
    ],
)
def test_a_secret_that_is_short_is_refused(text: str, message: str) -> None:
    with pytest.raises(SecretError) as caught:
        secret_key(text)
    assert str(caught.value) == message


@given(st.text(min_size=16).filter(lambda text: len(text.strip()) >= 16))
def test_the_stand_in_of_a_secret_is_a_secret_that_does_not_tell_it(text: str) -> None:
    stand_in = redacted(text)
    assert secret_key(stand_in) != secret_key(text)
    assert text.strip() not in stand_in
    assert secret_key(text).hex() not in stand_in
    assert redacted(f"{text}\n") == stand_in
    assert redacted(f"{text.strip()}x") != stand_in
