# SPDX-License-Identifier: GPL-2.0-or-later
"""Many frames, as fast as a CPU can hand them over: sendmmsg(2) on a packet socket, from arrays of numpy."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.firewall import Firewall
from tests.topology import COMMAND_LIMIT_SECONDS, POLL_SECONDS

Frames = NDArray[np.uint8]
"""One frame a row, all of the same length."""

BATCH: Final = 512
"""Messages a call. The kernel takes 1,024 (UIO_MAXIOV)."""

ATTEMPTS: Final = 20
"""A veth drops what its queue has no place for: what did not arrive is sent again, so many times."""

IPV4_SOURCE: Final = slice(26, 30)
IPV6_SOURCE_END: Final = slice(34, 38)
IPV4_PROTOCOL: Final = 23
IPV4_CHECKSUM: Final = 24
TRANSPORT: Final = 34
TCP_CHECKSUM: Final = 16
UDP_CHECKSUM: Final = 6

# struct mmsghdr of Linux on 64-bit machines: struct msghdr (socket(7)), and what was sent of it.
_MESSAGE: Final = np.dtype(
    {
        "names": ["iov", "iovlen"],
        "formats": [np.uint64, np.uint64],
        "offsets": [16, 24],
        "itemsize": 64,
    }
)
_IOVEC: Final = np.dtype([("base", np.uint64), ("length", np.uint64)])

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


_FULL: Final = {errno.ENOBUFS, errno.EAGAIN}
"""The receiver's queue is; or the sender's, whose socket does not block as it has a time limit."""


def copies(frame: bytes, count: int) -> Frames:
    return np.tile(np.frombuffer(frame, np.uint8), (count, 1))


def with_sources(frame: bytes, count: int, first: int) -> Frames:
    """Copies of an untagged IP frame, with sources that end in ``first``, ``first`` + 1 and so on (32 bits).

    Checksums stay as they are.
    """
    made = copies(frame, count)
    place = IPV6_SOURCE_END if frame[12:14] == b"\x86\xdd" else IPV4_SOURCE
    ends = np.arange(first, first + count, dtype=np.uint32).astype(">u4")
    made[:, place] = ends.view(np.uint8).reshape(count, 4)
    return made


def with_true_sources(frame: bytes, count: int, first: int) -> Frames:
    """``with_sources``, of an IPv4 frame without options that carries TCP or UDP: with right checksums, as of now."""
    made = with_sources(frame, count, first)
    place = TRANSPORT + (TCP_CHECKSUM if frame[IPV4_PROTOCOL] == socket.IPPROTO_TCP else UDP_CHECKSUM)
    for checksum in (IPV4_CHECKSUM, place):
        words = made.view(">u2")
        first_word = IPV4_SOURCE.start // 2
        before = np.frombuffer(frame, ">u2")[first_word : first_word + 2].astype(np.int64).sum()
        # RFC 1624: the complement of the sum moves by what the words do.
        total = 0xFFFF - words[:, checksum // 2].astype(np.int64) - before + 2 * 0xFFFF
        total += words[:, first_word : first_word + 2].astype(np.int64).sum(axis=1)
        for _ in range(2):
            total = (total & 0xFFFF) + (total >> 16)
        words[:, checksum // 2] = 0xFFFF - total
    return made


def send(sender: socket.socket, frames: Frames) -> None:
    """Sends all of them, in their order; one that a full queue has dropped is sent again. Raises OSError."""
    frames = np.ascontiguousarray(frames)
    vectors = np.zeros(len(frames), _IOVEC)
    vectors["base"] = frames.ctypes.data + np.arange(len(frames), dtype=np.uint64) * frames.shape[1]
    vectors["length"] = frames.shape[1]
    messages = np.zeros(len(frames), _MESSAGE)
    messages["iov"] = vectors.ctypes.data + np.arange(len(frames), dtype=np.uint64) * _IOVEC.itemsize
    messages["iovlen"] = 1
    sent, deadline = 0, time.monotonic() + COMMAND_LIMIT_SECONDS
    while sent < len(frames):
        batch = min(BATCH, len(frames) - sent)
        done = _libc.sendmmsg(sender.fileno(), messages.ctypes.data + sent * _MESSAGE.itemsize, batch, 0)
        if done >= 0:
            sent += done
        elif ctypes.get_errno() in _FULL and time.monotonic() < deadline:
            select.select([], [sender], [], POLL_SECONDS)
        else:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def flood(sender: socket.socket, firewall: Firewall, frames: Frames, reason: str) -> None:
    """Sends until as many as there are frames were decided for this reason. AssertionError where they are not."""
    goal = firewall.reason(reason) + len(frames)
    for _ in range(ATTEMPTS):
        send(sender, frames)
        if firewall.reason(reason) >= goal:
            return
    raise AssertionError(f"{firewall.reason(reason)} packets met {reason}, where {goal} should have")
