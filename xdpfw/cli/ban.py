# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw ban: nothing of these sources comes in any more."""

from __future__ import annotations

import click

from xdpfw.cli import entries
from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option


@click.command(
    short_help="Ban sources.",
    epilog=examples(
        "xdpfw ban 198.51.100.7",
        "xdpfw ban 198.51.100.0/24 2001:db8::/32 --timeout 1h",
        "xdpfw ban --file addresses.txt --timeout 7d",
    ),
)
@entries.prefixes_argument
@entries.file_option
@entries.timeout_option
@entries.force_option
@instance_options
@json_option
@click.pass_obj
def command(
    app: App,
    prefixes: tuple[str, ...],
    file: str | None,
    timeout: str | None,
    force: bool,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    """Drop all that comes from PREFIX, an address or a prefix, before allowances, knocks and rules are asked.

    A ban that is there already gets the new time, be it longer or shorter. Exit status 1 if there was no room for all.

    JSON: {"set", "added", "renewed", "refused", "displaced", "without_effect"}.
    """
    timeout_ns = entries.read_timeout(timeout)
    found = entries.read_entries(prefixes, file)
    pins = app.pins(instance, netns)
    return entries.add(app, pins, entries.BANS, found, timeout_ns, as_json=as_json, force=force)
