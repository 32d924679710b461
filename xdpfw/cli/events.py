# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw events: what happened, one line each."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option
from xdpfw.cli.output import count_text, time_text

if TYPE_CHECKING:
    from xdpfw.kernel.pins import Pins
    from xdpfw.observe.events import Event, EventStream

POLL_S: Final = 0.2
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000


@click.command(
    short_help="Tell what happened: knocks, grants, bans, rules that log.",
    epilog=examples(
        "xdpfw events --since 10m", "xdpfw events --follow", "xdpfw events --follow --json | jq -c 'select(.knock)'"
    ),
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C or the firewall is detached.")
@click.option("--since", metavar="DUR", help="Leave out what is older than this, as 10m.")
@instance_options
@json_option
@click.pass_obj
def command(app: App, follow: bool, since: str | None, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Tell what happened, the oldest that is still known first: steps of knocks and their resets, grants and their
    ends, failures of single packets, bans and their like in other dynamic sets, and packets of rules that log.

    Each kind has a limit a second; what is above it is only counted. Exit status 1 if nothing is in force.

    JSON: one object a line, {"time", "event", ...} with the members that its kind has. Kinds are knock-step,
    knock-reset, grant, grant-end, grant-refused, spa-failure, rule, ban, unban, set-add, set-delete and lost.
    """
    from xdpfw.cli.inforce import check_in_force, refresh_clock

    pins = app.pins(instance, netns)
    since_ns = _since_ns(since)
    check_in_force(pins)
    refresh_clock(pins)
    if follow:
        _follow(app, pins, since_ns, as_json)
        return
    stream = _open(pins, since_ns)
    if stream is None:
        app.complain("no events: a policy is just being put in force")
        return
    with stream:
        _tell(app, stream.take(), as_json)
        _complain(app, stream, since_ns)


def _since_ns(since: str | None) -> int:
    """On the clock that events go by."""
    from xdpfw.errors import UsageError
    from xdpfw.kernel.state import boot_ns
    from xdpfw.policy.values import NotationError, duration_ns

    if since is None:
        return 0
    try:
        return max(boot_ns() - duration_ns(since), 0)
    except NotationError as error:
        raise UsageError(f"--since {error.message}", hint=error.hint) from None


def _open(pins: Pins, since_ns: int) -> EventStream | None:
    """None while a policy is being put in force."""
    from xdpfw.errors import KernelError
    from xdpfw.observe.events import EventStream

    try:
        return EventStream(pins, since_ns=since_ns)
    except FileNotFoundError:
        return None
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return None


def _follow(app: App, pins: Pins, since_ns: int, as_json: bool) -> None:
    """Until Ctrl-C, or the firewall is detached. Whatever policy comes into force, it goes on."""
    try:
        while pins.generations():
            stream = _open(pins, since_ns)
            if stream is None:
                app.sleep(POLL_S)
                continue
            with stream:
                _follow_stream(app, stream, since_ns, as_json)
        app.complain("the firewall was detached")
    except KeyboardInterrupt:
        return  # that is how one stops


def _follow_stream(app: App, stream: EventStream, since_ns: int, as_json: bool) -> None:
    """Until its maps are no more the instance's."""
    try:
        while not stream.is_gone:
            _tell(app, stream.take(settled=True), as_json)
            app.sleep(POLL_S)
    finally:
        _tell(app, stream.take(), as_json)
        _complain(app, stream, since_ns)


def _tell(app: App, events: list[Event], as_json: bool) -> None:
    for event in events:
        if as_json:
            app.say_json(event.to_json(), one_line=True)
        else:
            app.say(event_line(event), colour=_COLOURS.get(event.event))
    app.stdout.flush()


_COLOURS: Final = {
    "grant": "green",
    "grant-end": "yellow",
    "grant-refused": "red",
    "spa-failure": "red",
    "ban": "red",
    "unban": "green",
    "lost": "red",
}


def _complain(app: App, stream: EventStream, since_ns: int) -> None:
    """How many events nobody was told of. Those that were only counted have no time, and so are not of a --since."""
    suppressed = {} if since_ns else dict(stream.suppressed)
    for kind, count in () if since_ns else stream.not_told().items():
        suppressed[kind] = suppressed.get(kind, 0) + count
    for kind, count in suppressed.items():
        what = f"{count_text(count, 'event')} above the limit a second {_were(count)} only counted"
        app.complain(f"{kind}: {what}, over all the time that is known")
    if stream.lost:
        app.complain(f"{count_text(stream.lost, 'event')} {_were(stream.lost)} overwritten before they were read")


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def event_line(event: Event) -> str:
    """``2026-11-21 15:26:26.123  grant  198.51.100.7  ssh: 22/tcp until 15:26:56``."""
    words = [_date(event.time), f"{event.event:<13}", event.source or "-"]
    what = _what(event)
    if event.suppressed:
        what += f" ({event.suppressed} more before were only counted)"
    return "  ".join(word for word in (*words, what) if word)


def _what(event: Event) -> str:
    knock = event.knock or "(removed knock)"
    services = ", ".join(event.services or ()) or "all that it opens"
    key = f", key {event.key or event.key_id}" if event.key_id else ""
    way = "close, " if event.closes else ""
    match event.event.value:
        case "knock-step":
            return f"{knock}: {way}step {event.step} of {event.steps}, {_packet(event)}"
        case "knock-reset":
            return f"{knock}: {way}given up behind step {event.step} of {event.steps}, {_packet(event)}"
        case "grant":
            assert event.until is not None
            return f"{knock}: {services} until {time_text(event.until)}{key}"
        case "grant-end":
            return f"{knock}: {services} {event.cause}{key}"
        case "grant-refused":
            return f"{knock}: no room for {services}{key}"
        case "spa-failure":
            about = f"{event.knock}: " if event.knock else ""
            return f"{about}{str(event.failure).replace('_', ' ')}{key}, {_packet(event)}"
        case "rule":
            return f"{event.rule or '(removed rule)'}: {event.verdict}, {_packet(event)}"
        case "ban" | "unban" | "set-add" | "set-delete":
            by = f", by {event.rule}, {_packet(event)}" if event.rule else ""
            until = f" until {time_text(event.until)}" if event.until is not None else ""
            return f"{event.set or '(removed set)'}{until}{by}"
        case _:
            return f"{event.lost} events were overwritten before they were read"


def _packet(event: Event) -> str:
    """``tcp 40000 > 203.0.113.1:22 on eth0, 74 bytes``."""
    words: list[str] = []
    if event.destination is not None:
        address = (
            f"[{event.destination}]" if event.dport is not None and ":" in event.destination else event.destination
        )
        ports = ("", "") if event.dport is None else (f"{event.sport} > ", f":{event.dport}")
        to = "" if event.dport is not None else "to "
        words.append(f"{event.proto} {to}{ports[0]}{address}{ports[1]}")
    if event.interface is not None:
        words.append(f"on {event.interface}")
    return f"{' '.join(words)}, {event.bytes} bytes" if words else f"{event.bytes} bytes"


def _date(wall_ns: int) -> str:
    return f"{time_text(wall_ns)}.{wall_ns % NS_PER_S // NS_PER_MS:03}"
