# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw unban: an end to bans."""

from __future__ import annotations

import click

from xdpfw.cli import entries
from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option


@click.command(
    short_help="End bans.",
    epilog=examples("xdpfw unban 198.51.100.7", "xdpfw unban 198.51.100.0/24", "xdpfw set flush bans"),
)
@entries.prefixes_argument
@entries.file_option
@instance_options
@json_option
@click.pass_obj
def command(
    app: App, prefixes: tuple[str, ...], file: str | None, netns: str | None, instance: str | None, as_json: bool
) -> int:
    """End the ban of PREFIX, as it was given: bans of what is within it, or around it, stay.

    Exit status 1 if none of them was there.

    JSON: {"set", "deleted", "missing"}.
    """
    found = entries.read_entries(prefixes, file)
    return entries.delete(app, app.pins(instance, netns), entries.BANS, found, as_json=as_json)
