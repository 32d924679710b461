# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers on loopback that a client can knock at; every call on them ends in time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.topology import LIMIT_SECONDS

LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@contextmanager
def udp(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, int]]:
    """A socket that waits for datagrams, and its port."""
    with socket.socket(family, socket.SOCK_DGRAM) as listening:
        listening.bind((LOOPBACK[family], 0))
        listening.settimeout(LIMIT_SECONDS)
        yield listening, listening.getsockname()[1]


@contextmanager
def tcp(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, int]]:
    """A socket that waits for connections, and its port."""
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((LOOPBACK[family], 0))
        listening.listen()
        listening.settimeout(LIMIT_SECONDS)
        yield listening, listening.getsockname()[1]


def closed_port() -> int:
    """A TCP port that refuses: it was free just now."""
    with tcp() as (_, port):
        return port
