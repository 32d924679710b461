# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw detach: take the firewall off, and leave nothing behind."""

from __future__ import annotations

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option


@click.command(
    short_help="Take the firewall off.",
    epilog=examples("xdpfw detach", "xdpfw detach --netns blue", "xdpfw detach --all"),
)
@click.option("--all", "every", is_flag=True, help="Every instance, in whatever namespace.")
@instance_options
@json_option
@click.pass_obj
def command(app: App, every: bool, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Take the firewall off its interfaces and remove its program, maps and pins. Nothing is left behind.

    JSON: {"detached": {INSTANCE: [INTERFACE, ...]}}.
    """
    from xdpfw.controller import Controller
    from xdpfw.errors import UsageError
    from xdpfw.kernel.pins import Pins, instances

    if every and (netns or instance):
        raise UsageError("--all and --netns or --instance do not go together")
    wanted = [Pins(name, app.bpffs) for name in instances(app.bpffs)] if every else [app.pins(instance, netns)]
    detached = {pins.instance: Controller(pins, netns, app.clock).detach() for pins in wanted}
    if as_json:
        app.say_json({"detached": detached})
        return
    for name, interfaces in detached.items():
        app.say(f"instance {name} is gone from {', '.join(interfaces) or 'no interface'}")
    if not detached:
        app.say("nothing is in force")
