# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw flows: which connections are known, and an end to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option

if TYPE_CHECKING:
    from xdpfw.kernel.flows import Flow
    from xdpfw.kernel.pins import Pins
    from xdpfw.observe.flows import Choice

F = TypeVar("F", bound=Callable[..., Any])

PROTOCOLS: Final = ("tcp", "udp", "sctp", "icmp", "icmpv6")
STATES: Final = (
    "syn-sent",
    "answered",
    "half-open",
    "established",
    "closing",
    "closed",
    "unreplied",
    "replied",
)


def _choosing(command: F) -> F:
    """What says which flows are meant; they reach the command as ``choosing``."""
    for option in (
        click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="In this state."),
        click.option(
            "--port", "ports", multiple=True, type=click.IntRange(0, 65535), help="With this port, at either end."
        ),
        click.option("--dst", multiple=True, metavar="PREFIX", help="Whose packets that come in go there."),
        click.option("--src", multiple=True, metavar="PREFIX", help="Whose packets that come in are from there."),
        click.option("--proto", "protocols", multiple=True, type=click.Choice(PROTOCOLS), help="Of this protocol."),
        click.argument("addresses", metavar="[ADDRESS]...", nargs=-1),
    ):
        command = option(command)
    return command


@click.group(
    invoke_without_command=True,
    short_help="List, count and end flows.",
    epilog=examples(
        "xdpfw flows", "xdpfw flows list --proto udp --json", "xdpfw flows count", "xdpfw flows del 192.0.2.7"
    ),
)
@instance_options
@json_option
@click.pass_context
def command(context: click.Context, netns: str | None, instance: str | None, as_json: bool) -> None:
    """List, count and end flows: connections, and what is like them, that packets which come in may belong to.

    Without LIST, COUNT or DEL, lists all of them. Exit status 1 if nothing is in force.

    JSON: as "xdpfw flows list".
    """
    app: App = context.obj
    if context.invoked_subcommand is not None:
        context.meta[__name__] = (netns, instance, as_json)
        return
    _list(app, app.pins(instance, netns), _choice({}), as_json)


@command.command(
    "list",
    short_help="List flows.",
    epilog=examples(
        "xdpfw flows list",
        "xdpfw flows list 192.0.2.0/24 --proto tcp --state established",
        "xdpfw flows list --src 2001:db8::/32 --port 53 --json",
    ),
)
@_choosing
@instance_options
@json_option
@click.pass_context
def list_(context: click.Context, /, netns: str | None, instance: str | None, as_json: bool, **choosing: Any) -> None:
    """List the flows that have ADDRESS, or one in this prefix, at either end; without one, all.

    Options that are given several times are alternatives; a flow has to fit each option that is given.

    JSON: {"flows": [{"protocol", "remote", "remote_port", "local", "local_port", "echo_id", "state", "may_give_way",
    "age_s", "remaining_s"}], "capacity"}.
    """
    app, pins, as_json = _of_group(context, netns, instance, as_json)
    _list(app, pins, _choice(choosing), as_json)


@command.command(
    short_help="Count flows.",
    epilog=examples("xdpfw flows count", "xdpfw flows count --port 443", "xdpfw flows count --json"),
)
@_choosing
@instance_options
@json_option
@click.pass_context
def count(context: click.Context, /, netns: str | None, instance: str | None, as_json: bool, **choosing: Any) -> None:
    """Count flows by protocol and state, and tell what became of others since the policy was applied.

    JSON: {"flows": [{"protocol", "state", "flows"}], "used", "capacity", "counters": {"created", "evicted", "refused",
    "related", "sockets", "fragments_followed", "fragments_unknown"}}.
    """
    app, pins, as_json = _of_group(context, netns, instance, as_json)
    _count(app, pins, _choice(choosing), as_json)


@command.command(
    "del",
    short_help="End flows.",
    epilog=examples(
        "xdpfw flows del 198.51.100.7",
        "xdpfw flows del --proto udp --port 53",
        "xdpfw flows del --all",
    ),
)
@_choosing
@click.option("--all", "every", is_flag=True, help="All there are.")
@instance_options
@json_option
@click.pass_context
def delete(
    context: click.Context, /, netns: str | None, instance: str | None, as_json: bool, every: bool, **choosing: Any
) -> int:
    """End the flows that fit, as "xdpfw flows list" lists them.

    What comes in is no part of them any more. But the next packet that is sent begins the flow anew, and a TCP
    connection of this host's own sockets goes on. Exit status 1 if there is no such flow.

    JSON: {"deleted": [...]} with flows as "xdpfw flows list" has them.
    """
    from xdpfw.errors import UsageError

    app, pins, as_json = _of_group(context, netns, instance, as_json)
    choice = _choice(choosing)
    if every and not choice.is_empty:
        raise UsageError("--all and what says which flows do not go together")
    if not every and choice.is_empty:
        raise UsageError(
            "nothing says which flows", hint="an ADDRESS, --src, --dst, --proto, --port, --state or --all does"
        )
    return _delete(app, pins, choice, as_json)


def _of_group(context: click.Context, netns: str | None, instance: str | None, as_json: bool) -> tuple[App, Pins, bool]:
    """Options may stand before the subcommand, too."""
    app: App = context.obj
    outer_netns, outer_instance, outer_json = context.meta.get(__name__, (None, None, False))
    return app, app.pins(instance or outer_instance, netns or outer_netns), as_json or outer_json


def _choice(choosing: dict[str, Any]) -> Choice:
    """Raises UsageError."""
    from xdpfw.cli.addresses import prefix_of
    from xdpfw.observe.flows import PROTOCOLS, STATES, Choice

    return Choice(
        protocols=frozenset(PROTOCOLS[name] for name in choosing.get("protocols", ())),
        states=frozenset(STATES[name] for name in choosing.get("states", ())),
        addresses=tuple(map(prefix_of, choosing.get("addresses", ()))),
        src=tuple(map(prefix_of, choosing.get("src", ()))),
        dst=tuple(map(prefix_of, choosing.get("dst", ()))),
        ports=frozenset(choosing.get("ports", ())),
    )


def _live(pins: Pins, choice: Choice) -> tuple[list[Flow], int, int]:
    """Flows that fit, in order; what time it is for them; how many the table has room for."""
    from xdpfw.cli.inforce import check_in_force, open_state
    from xdpfw.kernel.flows import FlowTable
    from xdpfw.kernel.state import boot_ns
    from xdpfw.observe.flows import order

    check_in_force(pins)
    with open_state(pins) as state:
        if state is None:
            return [], 0, 0
        table, now_ns = FlowTable(state), boot_ns()
        return sorted(filter(choice.fits, table.live(now_ns)), key=order), now_ns, table.capacity


def _list(app: App, pins: Pins, choice: Choice, as_json: bool) -> None:
    from xdpfw.observe.flows import to_json

    flows, now_ns, capacity = _live(pins, choice)
    if as_json:
        app.say_json({"flows": [to_json(flow, now_ns) for flow in flows], "capacity": capacity})
    elif flows:
        _print(app, flows, now_ns)
    else:
        app.say("there are no such flows")


def _count(app: App, pins: Pins, choice: Choice, as_json: bool) -> None:
    from collections import Counter

    from xdpfw.cli.inforce import check_in_force
    from xdpfw.cli.output import Column, print_table
    from xdpfw.kernel.program import Generation
    from xdpfw.observe.flows import protocol_name, state_name

    flows, _, capacity = _live(pins, choice)
    found = sorted(Counter((protocol_name(flow.protocol), state_name(flow.state)) for flow in flows).items())
    with Generation.open(pins.generation(check_in_force(pins))) as generation:
        counters = generation.flow_counter()._asdict()
    if as_json:
        kinds = [{"protocol": protocol, "state": state, "flows": number} for (protocol, state), number in found]
        app.say_json({"flows": kinds, "used": len(flows), "capacity": capacity, "counters": counters})
        return
    kind_columns = (Column("protocol"), Column("state"), Column("flows", is_number=True))
    print_table(app, kind_columns, [(protocol, state, str(number)) for (protocol, state), number in found])
    app.say(f"{len(flows)} flows; there is room for {capacity}")
    app.say()
    print_table(
        app,
        (Column("since apply"), Column("", is_number=True)),
        [(_COUNTERS[name], str(number)) for name, number in counters.items()],
    )


_COUNTERS: Final = {
    "created": "flows that began",
    "evicted": "flows that gave way to others",
    "refused": "flows for which there was no room",
    "related": "ICMP errors about a flow",
    "sockets": "packets of no flow, but of a local socket",
    "fragments_followed": "later fragments that followed their first one",
    "fragments_unknown": "later fragments whose first one is not known",
}


def _delete(app: App, pins: Pins, choice: Choice, as_json: bool) -> int:
    from xdpfw.cli.inforce import check_in_force, open_state
    from xdpfw.kernel.flows import FlowTable
    from xdpfw.kernel.pins import SHORT_CHANGE_S
    from xdpfw.kernel.state import boot_ns
    from xdpfw.observe.flows import order, to_json

    check_in_force(pins)
    now_ns = boot_ns()
    with pins.lock(SHORT_CHANGE_S), open_state(pins) as state:
        deleted = [] if state is None else sorted(FlowTable(state).delete(choice.fits, now_ns), key=order)
    if as_json:
        app.say_json({"deleted": [to_json(flow, now_ns) for flow in deleted]})
    elif deleted:
        _print(app, deleted, now_ns)
    else:
        app.say("there are no such flows")
    return 0 if deleted else 1


def _print(app: App, flows: Sequence[Flow], now_ns: int) -> None:
    from xdpfw.cli.output import Column, print_table, span_text
    from xdpfw.observe.flows import local_text, protocol_name, remote_text, state_name

    rows = [
        (
            protocol_name(flow.protocol),
            remote_text(flow),
            local_text(flow),
            state_name(flow.state),
            span_text(max(now_ns - flow.created_ns, 0)),
            span_text(max(flow.until_ns - now_ns, 0)),
        )
        for flow in flows
    ]
    columns = ("protocol", "remote", "local", "state", "age", "remaining")
    print_table(app, [Column(name, is_number=name in ("age", "remaining")) for name in columns], rows)
