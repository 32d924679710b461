# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocking, for programs: what ``xdpfw knock`` does.

    from xdpfw.knock.client import knock, verify

    target = knock("edge.example.net", ["7000/tcp", "9000/udp", "8000/tcp"])
    verify(target, 22, again=lambda: knock(target, ["7000/tcp", "9000/udp", "8000/tcp"]))

All of it blocks until the last packet has been handed to the kernel, and none of it waits for an answer but verify().
Each function raises UsageError or StepError where what it is asked for makes no sense, and KernelError where the system
refuses to send.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from socket import AddressFamily
from typing import Final

from xdpfw.errors import UsageError
from xdpfw.knock import rotation, spa
from xdpfw.knock.keys import ClientHalf
from xdpfw.knock.packets import check_sendable, connected, required_family, send, send_step
from xdpfw.knock.steps import Step, parse_step
from xdpfw.knock.target import Target, resolve

DELAY_S: Final = 0.1
"""Packets of different protocols and ports may take different ways, and must arrive in order."""

TRIES: Final = 3
ANSWER_S: Final = 2.5
"""How long an answer is waited for: the kernel sends its SYN again after 1 s, so that one may be lost."""

NO_ANSWER: Final = "no answer"
"""The problem of a port that is silent, as one is that the knock did not open."""

_REFUSED_PAUSE_S: Final = 0.25
_NAT64: Final = ip_network("64:ff9b::/96")
"""RFC 6052: behind it are hosts of IPv4, which see an IPv4 address as the source."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether the port answered, after how many tries; ``problem``: what the last one met, where it did not."""

    answers: bool
    tries: int
    problem: str | None = None


def knock(
    host: str | Target,
    steps: Iterable[Step | str],
    *,
    family: AddressFamily | None = None,
    delay_s: float = DELAY_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Target:
    """Sends a packet for each step, ``delay_s`` apart. Returns the address that they went to."""
    parsed = tuple(step if isinstance(step, Step) else parse_step(step) for step in steps)
    if not parsed:
        raise UsageError("a knock has one step or more, and this has none")
    target = host if isinstance(host, Target) else _resolve_for(parsed, host, family)
    for step in parsed:
        check_sendable(target, step)
    for index, step in enumerate(parsed):
        if index:
            sleep(delay_s)
        send_step(target, step)
    return target


def knock_rotating(
    host: str | Target,
    secret: bytes,
    *,
    every_ns: int,
    low: int,
    high: int,
    length: int,
    family: AddressFamily | None = None,
    delay_s: float = DELAY_S,
    sleep: Callable[[float], None] = time.sleep,
    wall_ns: Callable[[], int] = time.time_ns,
) -> tuple[Target, tuple[Step, ...]]:
    """Knocks by the steps of the present window. ``secret``: 32 bytes, of rotation.secret_key()."""
    steps = rotation.steps(secret, rotation.window_of(wall_ns(), every_ns), low, high, length)
    return knock(host, steps, family=family, delay_s=delay_s, sleep=sleep), steps


def send_spa(
    host: str | Target,
    half: ClientHalf,
    *,
    port: int | None = None,
    service: int = 0,
    ttl_s: int = 0,
    close: bool = False,
    source: str | None = None,
    family: AddressFamily | None = None,
) -> tuple[Target, spa.Message]:
    """Sends one message, to ``port`` or the one that the client half names.

    ``source``: the address that the server sees, where it is not that of this host; without, the one that the datagram
    leaves with. It is of the target's family, unless that is reached by NAT64. See spa.Message for the others.
    """
    port = half.port if port is None else port
    if port is None:
        raise UsageError(f"the key {half.name} does not say the server's port", hint="name it, or add it to the file")
    target = host if isinstance(host, Target) else resolve(host, family)
    if source is not None:
        _check_source(source, target)
    with connected(target, port) as sender:
        message = spa.Message(
            key_number=half.number,
            time_ns=_next_time_ns(),
            nonce=secrets.randbits(64),
            source=spa.source_bytes(source or str(sender.getsockname()[0])),
            service=service,
            ttl_s=ttl_s,
            close=close,
        )
        send(sender, message.signed(half.bound), f"a message to {target} port {port}")
    return target, message


def verify(
    host: str | Target,
    port: int,
    *,
    again: Callable[[], object] | None = None,
    tries: int = TRIES,
    answer_s: float = ANSWER_S,
    delay_s: float = DELAY_S,
    family: AddressFamily | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Verified:
    """Whether a TCP port answers. Where it does not within ``answer_s``, ``again`` knocks again, ``tries`` in all.

    Waits ``delay_s`` before each try: a SYN that overtook the last step would reset the sequence.
    """
    target = host if isinstance(host, Target) else resolve(host, family)
    problem = NO_ANSWER
    for number in range(1, tries + 1):
        if number > 1 and again is not None:
            again()
        sleep(delay_s)
        found = _problem_of(target, port, answer_s, sleep, problem)
        if found is None:
            return Verified(True, number)
        problem = found
    return Verified(False, tries, problem)


def _problem_of(target: Target, port: int, answer_s: float, sleep: Callable[[float], None], problem: str) -> str | None:
    """None where the port takes a connection. One that refuses is asked again: its service may just be starting.

    Silence says less than the ``problem`` that was found before: a host that is not there is told after 3 s, and then
    not each time.
    """
    deadline = time.monotonic() + answer_s
    while True:
        # Closed before the next knock: the kernel would send its SYN again, and that would reset the sequence.
        with socket.socket(target.family, socket.SOCK_STREAM) as asking:
            asking.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                asking.connect(target.socket_address(port))
                return None
            except TimeoutError:
                return problem
            except ConnectionRefusedError:
                problem = "the connection was refused: nothing listens there, or something else rejects it"
            except OSError as error:
                problem = error.strerror or str(error)
        if time.monotonic() + _REFUSED_PAUSE_S >= deadline:
            return problem
        sleep(_REFUSED_PAUSE_S)


def _check_source(source: str, target: Target) -> None:
    """Raises UsageError where the source is of another family than the packets: no message would ever be right."""
    seen, address = ip_address(source.partition("%")[0]), ip_address(target.address)
    if seen.version != address.version and not (seen.version == 4 and address in _NAT64):
        hint = f"-{seen.version} knocks over IPv{seen.version}, where the host has such an address"
        message = f"the source {source} is an IPv{seen.version} address, and {target} is knocked at over"
        raise UsageError(f"{message} IPv{address.version}", hint=hint)


def _resolve_for(steps: tuple[Step, ...], host: str, family: AddressFamily | None) -> Target:
    """An address of ``host`` that the steps can be sent to, where it has one and ``family`` leaves the choice."""
    needed = next((found for step in steps if (found := required_family(step)) is not None), None)
    if family is None and needed is not None:
        with suppress(UsageError):
            return resolve(host, needed)
    return resolve(host, family)


_time_lock = threading.Lock()
_last_time_ns = 0


def _next_time_ns() -> int:
    """The time, in ns since 1970; later than it was the last time, as a message must be than the one before."""
    global _last_time_ns
    with _time_lock:
        _last_time_ns = max(time.time_ns(), _last_time_ns + 1)
        return _last_time_ns
