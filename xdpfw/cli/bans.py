# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw bans: who is banned."""

from __future__ import annotations

import click

from xdpfw.cli import entries
from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option


@click.command(short_help="Tell who is banned.", epilog=examples("xdpfw bans", "xdpfw bans --json"))
@instance_options
@json_option
@click.pass_obj
def command(app: App, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Tell who is banned, since when, until when, and whether by a command or a rule. Exit status 1 if nothing is in
    force.

    JSON: {"set", "size", "timeout_s", "refused", "entries": [{"prefix", "since", "until", "remaining_s", "permanent",
    "by"}]}.
    """
    entries.show(app, app.pins(instance, netns), entries.BANS, as_json=as_json)
