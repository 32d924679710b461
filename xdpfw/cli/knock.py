# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw knock: asks a firewall to open what a knock opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option
from xdpfw.errors import UsageError

if TYPE_CHECKING:
    from socket import AddressFamily

    from xdpfw.knock.client import Verified
    from xdpfw.knock.keys import ClientHalf
    from xdpfw.knock.spa import Message
    from xdpfw.knock.steps import Step
    from xdpfw.knock.target import Target

T = TypeVar("T")

DEFAULT_DELAY = "100ms"
DEFAULT_EVERY = "30s"
DEFAULT_PORTS = "10000-60000"
DEFAULT_LENGTH = 4
DEFAULT_TRIES = 3

_FILE = click.Path(readable=False)  # what is wrong with it is told when it is read
_PORT = click.IntRange(1, 65535)
_OF_SPA = ("port", "service", "ttl", "close", "source")
_OF_ROTATE = ("every", "ports", "length")


class Way(Protocol):
    """How to knock. ``told`` is about what was sent last."""

    def send(self, target: str | Target) -> Target: ...

    def told(self) -> dict[str, Any]:
        """For JSON."""

    def text(self, target: Target) -> str: ...


@click.command(
    short_help="Knock at a host, so that it opens a port.",
    epilog=examples(
        "xdpfw knock edge.example.net 7000/tcp 9000/udp 8000/tcp",
        "xdpfw knock edge.example.net 7000/tcp 9000/udp 8000/tcp --verify 22 && ssh edge.example.net",
        "xdpfw knock edge.example.net --spa laptop.key --port 62201 --verify 22",
        "xdpfw knock edge.example.net --rotate home.secret --every 30s --ports 10000-32767 --length 4",
    ),
)
@click.argument("host")
@click.argument("steps", metavar="[STEP]...", nargs=-1)
@click.option("--delay", metavar="DUR", help=f"Between two packets: by default {DEFAULT_DELAY}.")
@click.option("--verify", metavar="PORT", type=_PORT, help="Wait until this TCP port answers, else knock again.")
@click.option("--tries", metavar="N", type=click.IntRange(1, 100), help=f"With --verify: by default {DEFAULT_TRIES}.")
@click.option("--spa", metavar="KEYFILE", type=_FILE, help="Send one message, signed by this client half.")
@click.option("--port", metavar="N", type=_PORT, help="With --spa: the server's; by default what KEYFILE says.")
@click.option("--service", metavar="N", type=click.IntRange(0, 65535), help="Open only the N-th of the knock's ports.")
@click.option("--ttl", metavar="DUR", help="Open for so long, if that is shorter than what the knock grants.")
@click.option("--close", is_flag=True, help="End the grant.")
@click.option("--source", metavar="ADDR", help="The address that the server sees; by default this host's own.")
@click.option("--rotate", metavar="SECRETFILE", type=_FILE, help="Knock by the sequence of the moment.")
@click.option("--every", metavar="DUR", help=f"With --rotate, as the policy has it: by default {DEFAULT_EVERY}.")
@click.option("--ports", metavar="LOW-HIGH", help=f"Likewise: by default {DEFAULT_PORTS}.")
@click.option("--length", metavar="N", type=click.IntRange(1, 16), help=f"Likewise: by default {DEFAULT_LENGTH}.")
@click.option("-4", "ipv4", is_flag=True, help="IPv4 only.")
@click.option("-6", "ipv6", is_flag=True, help="IPv6 only.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    host: str,
    steps: tuple[str, ...],
    delay: str | None,
    verify: int | None,
    tries: int | None,
    spa: str | None,
    rotate: str | None,
    ipv4: bool,
    ipv6: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Knock at HOST: by one packet for each STEP, by one signed message (--spa), or by the sequence that a shared
    secret gives for this moment (--rotate).

    A STEP is PORT/tcp, PORT/udp, TYPE/icmp or TYPE/icmpv6, the last two also with a code, as 3.1/icmp. Root is needed
    for ICMP messages only, and not for echo requests (8/icmp) where net.ipv4.ping_group_range allows them.

    Without --verify the exit status is 0 when everything was sent: a knock is never answered. With it, 1 if the port
    does not answer.

    JSON: {"host", "address", "way", "tries", "verified": true | false | null, "problem"}; "way" is "sequence",
    "rotation" or "spa". The first two have "steps", the last time's; "spa" has "port", "key": {"number", "name"},
    "source", "service", "ttl_s", "close" and "time_ns".
    """
    from socket import AF_INET, AF_INET6

    if sum((bool(steps), spa is not None, rotate is not None)) != 1:
        raise UsageError("a knock is by steps, by --spa or by --rotate", hint="give exactly one of them")
    if ipv4 and ipv6:
        raise UsageError("-4 and -6 exclude each other")
    if tries is not None and verify is None:
        raise UsageError("--tries is for --verify")
    _check_belongs(given, _OF_SPA, "--spa", spa)
    _check_belongs(given, _OF_ROTATE, "--rotate", rotate)
    if delay is not None and spa is not None:
        raise UsageError("--delay is between the packets of a sequence, and --spa sends one")
    if given["close"] and verify is not None:
        raise UsageError("--close ends a grant, and then --verify waits for nothing")
    family = AF_INET if ipv4 else AF_INET6 if ipv6 else None
    delay_s = _delay_s(delay or DEFAULT_DELAY)
    if spa is not None:
        way: Way = _Spa.read(app, spa, family, given)
    elif rotate is not None:
        way = _Rotation.read(app, rotate, family, delay_s, given)
    else:
        way = _Sequence(_steps(steps), family, delay_s, app.sleep)
    return _knock(app, way, host, verify, tries or DEFAULT_TRIES, delay_s, as_json=as_json)


def _knock(app: App, way: Way, host: str, port: int | None, tries: int, delay_s: float, *, as_json: bool) -> int:
    from xdpfw.cli.output import count_text, working
    from xdpfw.knock.client import NO_ANSWER, verify

    target = way.send(host)
    if not as_json:
        app.say(way.text(target))
    verified: Verified | None = None
    if port is not None:
        with working(app, f"waiting for port {port} of {target}"):
            verified = verify(
                target, port, again=partial(way.send, target), tries=tries, delay_s=delay_s, sleep=app.sleep
            )
    if as_json:
        app.say_json(
            {
                "host": host,
                "address": target.address,
                **way.told(),
                "tries": verified.tries if verified else 1,
                "verified": verified.answers if verified else None,
                "problem": verified.problem if verified else None,
            }
        )
    elif verified is not None:
        after = count_text(verified.tries, "knock")
        if verified.answers:
            app.say(f"port {port} answers after {after}", colour="green")
        else:
            why = "" if verified.problem == NO_ANSWER else f": {verified.problem}"
            app.say(f"port {port} does not answer after {after}{why}", colour="red")
    return 1 if verified and not verified.answers else 0


@dataclass(slots=True)
class _Sequence:
    steps: tuple[Step, ...]
    family: AddressFamily | None
    delay_s: float
    sleep: Callable[[float], None]

    def send(self, target: str | Target) -> Target:
        from xdpfw.knock.client import knock

        return knock(target, self.steps, family=self.family, delay_s=self.delay_s, sleep=self.sleep)

    def told(self) -> dict[str, Any]:
        return {"way": "sequence", "steps": [str(step) for step in self.steps]}

    def text(self, target: Target) -> str:
        return f"knocked at {target}: {' '.join(map(str, self.steps))}"


@dataclass(slots=True)
class _Rotation:
    secret: bytes
    every_ns: int
    low: int
    high: int
    length: int
    family: AddressFamily | None
    delay_s: float
    sleep: Callable[[float], None]
    steps: tuple[Step, ...] = ()

    @classmethod
    def read(
        cls, app: App, path: str, family: AddressFamily | None, delay_s: float, given: dict[str, Any]
    ) -> _Rotation:
        from xdpfw.errors import Position
        from xdpfw.knock import rotation
        from xdpfw.knock.keys import KeyFileError
        from xdpfw.policy.values import span

        try:
            secret = rotation.secret_key(_read(app, path))
        except rotation.SecretError as error:
            raise KeyFileError(f"the secret {error}", Position(path, 1, 1)) from None
        ports = _notation("--ports", lambda text: span(text, 1, 65535), given["ports"] or DEFAULT_PORTS)
        every_ns = _duration("--every", given["every"] or DEFAULT_EVERY)
        length = given["length"] or DEFAULT_LENGTH
        return cls(secret, every_ns, ports.low, ports.high, length, family, delay_s, app.sleep)

    def send(self, target: str | Target) -> Target:
        from xdpfw.knock.client import knock_rotating

        found, self.steps = knock_rotating(
            target,
            self.secret,
            every_ns=self.every_ns,
            low=self.low,
            high=self.high,
            length=self.length,
            family=self.family,
            delay_s=self.delay_s,
            sleep=self.sleep,
        )
        return found

    def told(self) -> dict[str, Any]:
        return {"way": "rotation", "steps": [str(step) for step in self.steps]}

    def text(self, target: Target) -> str:
        return f"knocked at {target}: {' '.join(map(str, self.steps))}"


@dataclass(slots=True)
class _Spa:
    half: ClientHalf
    port: int
    service: int
    ttl_s: int
    close: bool
    source: str | None
    family: AddressFamily | None
    message: Message | None = None

    @classmethod
    def read(cls, app: App, path: str, family: AddressFamily | None, given: dict[str, Any]) -> _Spa:
        from xdpfw.knock.keys import parse_client_half
        from xdpfw.knock.spa import source_bytes

        half = parse_client_half(_read(app, path), path)
        port = given["port"] or half.port
        if port is None:
            raise UsageError(
                f"{path} does not say the server's port", hint="name it with --port, or add a line: port 62201"
            )
        source = given["source"]
        if source is not None:
            try:
                source_bytes(source)
            except ValueError:
                raise UsageError(f"--source {source!r} is not an address") from None
        ttl_s = 0 if given["ttl"] is None else _seconds("--ttl", given["ttl"])
        return cls(half, port, given["service"] or 0, ttl_s, given["close"], source, family)

    def send(self, target: str | Target) -> Target:
        from xdpfw.knock.client import send_spa

        found, self.message = send_spa(
            target,
            self.half,
            port=self.port,
            service=self.service,
            ttl_s=self.ttl_s,
            close=self.close,
            source=self.source,
            family=self.family,
        )
        return found

    def told(self) -> dict[str, Any]:
        from xdpfw.knock.spa import source_text

        assert self.message is not None
        return {
            "way": "spa",
            "port": self.port,
            "key": {"number": self.half.number, "name": self.half.name},
            "source": source_text(self.message.source),
            "service": self.service,
            "ttl_s": self.ttl_s,
            "close": self.close,
            "time_ns": self.message.time_ns,
        }

    def text(self, target: Target) -> str:
        from xdpfw.knock.spa import source_text

        assert self.message is not None
        asks = "ends the grant" if self.close else "asks for a grant"
        source = source_text(self.message.source)
        return f"key {self.half.name} {asks} for {source}: sent to {target} port {self.port}"


def _steps(texts: tuple[str, ...]) -> tuple[Step, ...]:
    from xdpfw.knock.steps import MAX_STEPS, StepError, parse_step

    if len(texts) > MAX_STEPS:
        raise UsageError(f"{len(texts)} steps, and a sequence has {MAX_STEPS} at most")
    try:
        return tuple(map(parse_step, texts))
    except StepError as error:
        raise UsageError(error.message, hint=error.hint) from None


def _read(app: App, path: str) -> str:
    """The text of a key or secret, with a warning where others can read it, too."""
    from xdpfw.knock import keyfiles

    text = keyfiles.read(Path(path))
    if keyfiles.is_open_to_others(Path(path)):
        app.complain(f"xdpfw: others than its owner may read or write {path} (chmod 600 {path})")
    return text


def _check_belongs(given: dict[str, Any], names: tuple[str, ...], owner: str, path: str | None) -> None:
    for name in names:
        if path is None and given[name] is not None and given[name] is not False:
            raise UsageError(f"--{name} is for {owner}")


def _notation(option: str, read: Callable[[str], T], text: str) -> T:
    from xdpfw.policy.values import NotationError

    try:
        return read(text)
    except NotationError as error:
        raise UsageError(f"{option} {error.message}", hint=error.hint) from None


def _delay_s(text: str) -> float:
    if text.isdecimal() and int(text):
        raise UsageError(f"--delay {text} has no unit", hint=f"write {text}ms for milliseconds")
    return 0.0 if text == "0" else _duration("--delay", text) / 1e9


def _duration(option: str, text: str) -> int:
    from xdpfw.policy.values import duration_ns

    return _notation(option, duration_ns, text)


def _seconds(option: str, text: str) -> int:
    """Whole seconds that fit in the 16 bits of a message."""
    seconds, rest = divmod(_duration(option, text), 1_000_000_000)
    if rest or not 1 <= seconds <= 0xFFFF:
        raise UsageError(f"{option} {text} is not 1 to {0xFFFF} whole seconds")
    return seconds
