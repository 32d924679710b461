# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw grants: who may use what knocks open, and an end to it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from xdpfw.kernel.pins import Pins
    from xdpfw.kernel.state import State
    from xdpfw.observe.grants import HeldGrant
    from xdpfw.observe.metadata import Metadata


@click.group(
    invoke_without_command=True,
    short_help="Tell who holds which grant, and end grants.",
    epilog=examples(
        "xdpfw grants",
        "xdpfw grants --json",
        "xdpfw grants revoke 198.51.100.7",
        "xdpfw grants revoke --knock ssh",
    ),
)
@instance_options
@json_option
@click.pass_context
def command(context: click.Context, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Tell who holds which grant, of which knock, and until when. Exit status 1 if nothing is in force.

    JSON: {"grants": [{"source", "knock", "knock_id", "services", "until", "remaining_s", "key", "key_id"}], "capacity",
    "refused"}.
    """
    from xdpfw.cli.inforce import read_in_force, refresh_clock

    app: App = context.obj
    if context.invoked_subcommand is not None:
        context.meta[__name__] = (netns, instance, as_json)
        return
    pins = app.pins(instance, netns)
    _, meta = read_in_force(pins)
    refresh_clock(pins)
    held, facts = _read(pins, meta)
    if as_json:
        app.say_json({"grants": [grant.to_json() for grant in held], **facts})
        return
    if not held:
        app.say("nobody holds a grant")
        return
    _print(app, held)


@command.command(
    short_help="End grants.",
    epilog=examples(
        "xdpfw grants revoke 198.51.100.7",
        "xdpfw grants revoke 2001:db8::/32 --knock ssh",
        "xdpfw grants revoke --key laptop",
        "xdpfw grants revoke --all",
    ),
)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--knock", metavar="NAME", help="Of this knock.")
@click.option("--key", metavar="NAME", help="That this SPA key has earned.")
@click.option("--all", "every", is_flag=True, help="Whoever holds it.")
@instance_options
@json_option
@click.pass_context
def revoke(
    context: click.Context,
    sources: tuple[str, ...],
    knock: str | None,
    key: str | None,
    every: bool,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    """End the grants of SOURCE, an address or a prefix with all in it. With --knock and --key, those that fit all.

    Connections that are open live on where established ones are allowed, and nobody is kept from knocking again: a ban
    ends both. Exit status 1 if there is no such grant.

    JSON: {"revoked": [...]} with grants as "xdpfw grants" has them.
    """
    from xdpfw.cli.addresses import prefix_of

    app: App = context.obj
    outer_netns, outer_instance, outer_json = context.meta.get(__name__, (None, None, False))
    as_json = as_json or outer_json
    prefixes = [prefix_of(source) for source in sources]
    _check_what(prefixes, knock, key, every)
    pins = app.pins(instance or outer_instance, netns or outer_netns)
    revoked = _revoke(pins, prefixes, knock, key)
    if as_json:
        app.say_json({"revoked": [grant.to_json() for grant in revoked]})
    elif revoked:
        _print(app, revoked, title="revoked")
    else:
        app.say("there is no such grant")
    return 0 if revoked else 1


def _read(pins: Pins, meta: Metadata) -> tuple[list[HeldGrant], dict[str, int]]:
    """The live grants; the map's capacity, and how many grants it had no room for."""
    from xdpfw.cli.inforce import open_state

    with open_state(pins) as state:
        if state is None:
            return [], {"capacity": 0, "refused": 0}
        facts = {"capacity": state.grants.max_entries, "refused": state.read_shared().grants_refused}
        return _held(state, meta), facts


def _held(state: State, meta: Metadata) -> list[HeldGrant]:
    from xdpfw.kernel.state import boot_ns
    from xdpfw.observe.grants import live_grants

    entries = state.list_grants()  # which may take a while: both clocks are read behind it, at once
    now_ns = boot_ns()
    return live_grants(entries, meta, now_ns, time.time_ns() - now_ns)


def _revoke(
    pins: Pins, prefixes: list[IPv4Network | IPv6Network], knock: str | None, key: str | None
) -> list[HeldGrant]:
    from xdpfw.cli.inforce import check_in_force, open_state, read_in_force
    from xdpfw.errors import UsageError
    from xdpfw.kernel import abi
    from xdpfw.kernel.pins import SHORT_CHANGE_S

    check_in_force(pins)
    with pins.lock(SHORT_CHANGE_S):
        number, meta = read_in_force(pins)
        knocks = {each.name for each in meta.knocks}
        keys = {each.name for found in meta.knocks for each in found.keys}
        for option, name, known in (("--knock", knock, knocks), ("--key", key, keys)):
            if name is not None and name not in known:
                has = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise UsageError(f"{option} {name}: the policy in force has no such {option[2:]}", hint=has)
        with open_state(pins) as state:
            if state is None:
                return []
            fitting = [
                grant
                for grant in _held(state, meta)
                if (knock is None or grant.knock == knock)
                and (key is None or grant.key == key)
                and (not prefixes or any(_is_in(grant, prefix) for prefix in prefixes))
            ]
            entries = [entry for grant in fitting for entry in grant.entries]
            ended = set(state.end_grants(entries, abi.GrantEnd.REVOKED, number))
            return [grant for grant in fitting if ended.intersection(grant.entries)]


def _check_what(prefixes: list[Any], knock: str | None, key: str | None, every: bool) -> None:
    from xdpfw.errors import UsageError

    if every and (prefixes or knock or key):
        raise UsageError("--all and a SOURCE, --knock or --key do not go together")
    if not (every or prefixes or knock or key):
        raise UsageError("nothing says which grants", hint="a SOURCE, --knock, --key or --all does")


def _is_in(grant: HeldGrant, prefix: IPv4Network | IPv6Network) -> bool:
    """True if the grant is for someone in ``prefix``: a grant of a wider prefix is, too."""
    from ipaddress import ip_network

    held = ip_network(grant.source)
    return held.version == prefix.version and held.overlaps(prefix)


def _print(app: App, grants: Iterable[HeldGrant], *, title: str = "services") -> None:
    from xdpfw.cli.output import Column, print_table, span_text, time_text

    columns = ("source", "knock", title, "until", "remaining", "key")
    rows = [
        (
            grant.source,
            grant.knock or "(removed knock)",
            ", ".join(grant.services) or "-",
            time_text(grant.until),
            span_text(grant.remaining_ns),
            grant.key or (f"number {grant.key_id}" if grant.key_id else "-"),
        )
        for grant in grants
    ]
    print_table(app, [Column(name, is_number=name == "remaining") for name in columns], rows)
