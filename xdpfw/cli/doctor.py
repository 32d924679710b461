# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw doctor: what this kernel, driver and system can do."""

from __future__ import annotations

import dataclasses
import socket
from typing import TYPE_CHECKING

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option, netns_option

if TYPE_CHECKING:
    from xdpfw.kernel.features import Check


@click.command(
    short_help="Tell what this system can do.", epilog=examples("xdpfw doctor", "xdpfw doctor eth0 --netns blue --json")
)
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@netns_option
@json_option
@click.pass_obj
def command(app: App, interfaces: tuple[str, ...], netns: str | None, as_json: bool) -> int:
    """Tell what this kernel, this system and its interfaces (all but lo, or those named) can do, and what is missing.

    Exit status 1 if the firewall cannot run: on this system, or on an interface that was named.

    JSON: {"ok", "checks": [{"name", "ok", "required", "detail", "fix"}]}.
    """
    from xdpfw.kernel import features
    from xdpfw.kernel.interface import namespace

    checks = features.system(app.bpffs)
    with namespace(netns):
        for name in interfaces:
            checks += features.interface(name, app.bpffs)
        if not interfaces:
            for name in _interfaces():
                checks += [dataclasses.replace(check, required=False) for check in features.interface(name, app.bpffs)]
    can_run = all(check.ok for check in checks if check.required)
    if as_json:
        app.say_json({"ok": can_run, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        _print(app, checks)
        app.say("the firewall can run here" if can_run else "the firewall cannot run here")
    return 0 if can_run else 1


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex() if name != "lo"]


def _print(app: App, checks: list[Check]) -> None:
    from xdpfw.cli.output import Column, print_table

    rows = [(_state(check), check.name, check.detail) for check in checks]
    print_table(app, [Column(""), Column("check"), Column("found")], rows)
    fixes: dict[str, list[str]] = {}
    for check in checks:
        if not check.ok and check.fix:
            fixes.setdefault(check.fix, []).append(check.name)
    if fixes:
        app.say()
    for fix, names in fixes.items():
        app.say(f"to mend {', '.join(names)}: {fix}")


def _state(check: Check) -> str:
    if check.ok:
        return "ok"
    return "missing" if check.required else "degraded"
