# SPDX-License-Identifier: GPL-2.0-or-later
"""tx: a frame comes back to its sender with its MAC addresses swapped and nothing else changed.

       sender              home
    ┌───────────┐      ┌───────────┐
    │   eth0 ───┼──────┼─── fw0    │
    │   (XDP)   │      │   (XDP)   │
    └───────────┘      └───────────┘

In native mode, a veth takes what its peer reflects only while it runs an XDP program itself: one that passes all.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests import frames
from tests.firewall import Firewall, policy
from tests.topology import Namespace
from tests.wire import Wire

REFLECTED = {
    "IPv4": frames.v4_frame(frames.udp(dport=7) + b"payload", frames.UDP),
    "IPv6": frames.v6_frame(frames.udp(dport=7) + bytes(1000), frames.UDP),
    "IPv4 with options": frames.v4_frame(frames.udp(dport=7), frames.UDP, options=bytes([1] * 8)),
}


def received(sockets: socket.socket) -> bytes:
    """The next frame that came in, not one that went out."""
    while True:
        frame, (_, _, kind, *_) = sockets.recvfrom(2000)
        if kind != socket.PACKET_OUTGOING:
            return frame


@pytest.mark.parametrize("kind", REFLECTED)
def test_a_frame_comes_back(wire: Wire, make_firewall: Callable[[Namespace], Firewall], mode: str, kind: str) -> None:
    make_firewall(wire.sender).apply(policy(interfaces=("eth0",), default="pass", mode=mode))
    wire.firewall.apply(policy("{name: back, match: {proto: udp, dport: 7}, action: tx}", mode=mode))
    frame = REFLECTED[kind]
    wire.send([frame])
    assert received(wire.sockets[0]) == frame[6:12] + frame[:6] + frame[12:]
    assert wire.firewall.stats()["verdicts"]["tx"] == {"packets": 1, "bytes": len(frame)}
