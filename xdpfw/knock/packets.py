# SPDX-License-Identifier: GPL-2.0-or-later
"""One packet a step, without root wherever the kernel lets anybody send it."""

from __future__ import annotations

import errno
import secrets
import socket
import struct
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW, SOCK_STREAM, AddressFamily
from typing import Final

from xdpfw.errors import KernelError, UsageError
from xdpfw.knock.steps import ICMP, ICMP_TO_ICMPV6, ICMPV6, TCP, UDP, Step
from xdpfw.knock.target import Target

UDP_PAYLOAD: Final = b"\0"
"""As Debian's knock sends it. Empty datagrams are allowed, but not everything on the way passes them on."""

_ECHO_REQUESTS: Final = ((ICMP, 8), (ICMPV6, 128))
# The SYN has gone out where the answer is still to come, was yes, or was no.
_SENT: Final = (0, errno.EINPROGRESS, errno.ECONNREFUSED)
_ICMP_HINT: Final = (
    "for echo requests, sysctl net.ipv4.ping_group_range must have your group; else this needs root (CAP_NET_RAW)"
)


def required_family(step: Step) -> AddressFamily | None:
    """The family that a step can only be sent in, if there is one."""
    if step.protocol == ICMPV6:
        return AF_INET6
    return AF_INET if step.protocol == ICMP and step.number not in ICMP_TO_ICMPV6 else None


def check_sendable(target: Target, step: Step) -> None:
    """Raises UsageError where the target's family has no such packet."""
    if step.protocol in (ICMP, ICMPV6):
        _message(target, step)


def send_step(target: Target, step: Step) -> None:
    """Sends one packet and waits for no answer.

    Raises UsageError where the target's family has no such packet, KernelError where the system refuses.
    """
    if step.protocol == TCP:
        _send_syn(target, step)
    elif step.protocol == UDP:
        send_datagram(target, step.number, UDP_PAYLOAD)
    else:
        _send_icmp(target, step)


def send_datagram(target: Target, port: int, payload: bytes) -> None:
    """Raises KernelError."""
    with connected(target, port) as sender:
        send(sender, payload, f"{port}/udp to {target}")


def connected(target: Target, port: int) -> socket.socket:
    """A UDP socket whose local address is what the datagrams sent by it have. Raises KernelError."""
    sender = socket.socket(target.family, SOCK_DGRAM)
    try:
        sender.connect(target.socket_address(port))
    except OSError as error:
        sender.close()
        raise KernelError("send", f"{port}/udp to {target}", error.errno or 0) from None
    return sender


def send(sender: socket.socket, payload: bytes, what: str) -> None:
    """Raises KernelError."""
    try:
        sender.send(payload)
    except OSError as error:
        raise KernelError("send", what, error.errno or 0) from None


def _send_syn(target: Target, step: Step) -> None:
    """A bare SYN, once: a socket that is closed before the answer sends nothing more, not even a second SYN."""
    with socket.socket(target.family, SOCK_STREAM | SOCK_NONBLOCK) as sender:
        error = sender.connect_ex(target.socket_address(step.number))
    if error not in _SENT:
        raise KernelError("send", f"{step} to {target}", error)


def _send_icmp(target: Target, step: Step) -> None:
    protocol, type_ = _message(target, step)
    code = step.code or 0
    with _icmp_socket(target, step, protocol, may_be_ping=(protocol, type_) in _ECHO_REQUESTS and code == 0) as sender:
        # What the kernel fills in itself, it fills in whatever stands there: the checksum of ICMPv6, and all but type
        # and code where a ping socket sends.
        unsummed = struct.pack(">BBHHH", type_, code, 0, secrets.randbits(16), 1)
        packet = struct.pack(">BBHHH", type_, code, _checksum(unsummed), *struct.unpack(">HH", unsummed[4:]))
        try:
            sender.connect(target.socket_address(0))
        except OSError as error:
            raise KernelError("send", f"{step} to {target}", error.errno or 0) from None
        send(sender, packet, f"{step} to {target}")


def _message(target: Target, step: Step) -> tuple[int, int]:
    """Protocol and type of the message that a step is in the target's family. Raises UsageError."""
    if target.family == AF_INET:
        if step.protocol == ICMPV6:
            raise UsageError(f"{step} is a step of IPv6, and {target} is an IPv4 address")
        return ICMP, step.number
    if step.protocol == ICMPV6:
        return ICMPV6, step.number
    if step.number not in ICMP_TO_ICMPV6:
        hint = "in IPv6, only 8/icmp and 0/icmp are; others are written as TYPE/icmpv6"
        raise UsageError(f"{step} is a step of IPv4, and {target} is an IPv6 address", hint=hint)
    return ICMPV6, ICMP_TO_ICMPV6[step.number]


def _icmp_socket(target: Target, step: Step, protocol: int, *, may_be_ping: bool) -> socket.socket:
    """A ping socket where that is enough and allowed, else a raw one. Raises KernelError."""
    if may_be_ping:
        try:
            return socket.socket(target.family, SOCK_DGRAM, protocol)
        except PermissionError:
            pass
    try:
        return socket.socket(target.family, SOCK_RAW, protocol)
    except OSError as error:
        raise KernelError("send", f"{step} to {target}", error.errno or 0, hint=_ICMP_HINT) from None


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
