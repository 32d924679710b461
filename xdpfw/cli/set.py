# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw set: the entries of dynamic sets."""

from __future__ import annotations

import click

from xdpfw.cli import entries
from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option

name_argument = click.argument("name", metavar="NAME")


@click.group(
    short_help="Change and list dynamic sets.",
    epilog=examples(
        "xdpfw set add guests 198.51.100.7 --timeout 8h",
        "xdpfw set list guests --json",
        "xdpfw set flush guests",
    ),
)
def command() -> None:
    """Change and list the entries of a dynamic set, which the policy declares and rules name.

    Entries are an instance's, and stay when another policy with the set is applied. The set "bans" is always there.
    Every subcommand has --json, of a shape that stays.
    """


@command.command(
    "add",
    short_help="Put entries in.",
    epilog=examples(
        "xdpfw set add guests 198.51.100.7 2001:db8::/32",
        "xdpfw set add guests 198.51.100.7 --timeout 8h",
        "xdpfw set add blocked --file addresses.txt",
    ),
)
@name_argument
@entries.prefixes_argument
@entries.file_option
@entries.timeout_option
@entries.force_option
@instance_options
@json_option
@click.pass_obj
def add(
    app: App,
    name: str,
    prefixes: tuple[str, ...],
    file: str | None,
    timeout: str | None,
    force: bool,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    """Put PREFIX, an address or a prefix, into the dynamic set NAME.

    An entry that is there already gets the new time, be it longer or shorter. Exit status 1 if there was no room for
    all.

    JSON: {"set", "added", "renewed", "refused", "displaced", "without_effect"}.
    """
    timeout_ns = entries.read_timeout(timeout)
    found = entries.read_entries(prefixes, file)
    return entries.add(app, app.pins(instance, netns), name, found, timeout_ns, as_json=as_json, force=force)


@command.command("del", short_help="Take entries out.", epilog=examples("xdpfw set del guests 198.51.100.7"))
@name_argument
@entries.prefixes_argument
@entries.file_option
@instance_options
@json_option
@click.pass_obj
def delete(
    app: App,
    name: str,
    prefixes: tuple[str, ...],
    file: str | None,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    """Take PREFIX out of the dynamic set NAME, as it was put in: entries within it, or around it, stay.

    Exit status 1 if none of them was there.

    JSON: {"set", "deleted", "missing"}.
    """
    found = entries.read_entries(prefixes, file)
    return entries.delete(app, app.pins(instance, netns), name, found, as_json=as_json)


@command.command(
    "list", short_help="List entries.", epilog=examples("xdpfw set list guests", "xdpfw set list guests --json")
)
@name_argument
@instance_options
@json_option
@click.pass_obj
def show(app: App, name: str, netns: str | None, instance: str | None, as_json: bool) -> None:
    """List the entries of the dynamic set NAME, IPv4 first, in order of their addresses.

    JSON: {"set", "size", "timeout_s", "refused", "entries": [{"prefix", "since", "until", "remaining_s", "permanent",
    "by"}]}.
    """
    entries.show(app, app.pins(instance, netns), name, as_json=as_json)


@command.command("flush", short_help="Take all entries out.", epilog=examples("xdpfw set flush guests"))
@name_argument
@instance_options
@json_option
@click.pass_obj
def flush(app: App, name: str, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Take all entries out of the dynamic set NAME.

    JSON: {"set", "deleted"}.
    """
    with entries.changing(app.pins(instance, netns), name) as (_, found):
        deleted = found.flush()
    if as_json:
        app.say_json({"set": name, "deleted": deleted})
    else:
        app.say(f"{name}: {entries.counted(deleted)} deleted")
