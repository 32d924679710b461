# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw plan: what apply would change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option, rules_argument
from xdpfw.policy.collector import collector_paused

if TYPE_CHECKING:
    from xdpfw.kernel.pins import Pins
    from xdpfw.plan import Plan, Snapshot


@click.command(
    short_help="Tell what apply would change.", epilog=examples("xdpfw plan edge.yaml", "xdpfw plan edge.yaml --json")
)
@rules_argument
@instance_options
@json_option
@click.pass_obj
@collector_paused()
def command(app: App, rules: str, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Tell what "xdpfw apply RULES" would change against the policy in force. Nothing is changed.

    What apply would refuse is told, too: an interface that does not exist or that another program holds, a change of
    mode. A rule is known by its name; "moved" is one that is as it was but has another place among those that stay.

    JSON: {"changes", "first", "interfaces", "settings", "knocks", "rules", "sets", "notes"}; a change is {"kind",
    "name", "before", "after"}, of a set {"kind", "name", "added", "removed"}; kinds are added, removed, changed and
    moved.
    """
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.lower import not_in_force
    from xdpfw.controller import Controller
    from xdpfw.plan import compare
    from xdpfw.policy.knocks import secret_notes
    from xdpfw.policy.sets import set_notes

    file = PolicyFile.read(rules)
    image = compile_policy(file.policy)
    pins = app.pins(instance, netns)
    foreseen = Controller(pins, netns).foresee(file.policy, image)
    plan = compare(_in_force(pins), _snapshot(file.sources.files))
    notes = [
        *foreseen,
        *not_in_force(file.policy),
        *set_notes(file.loaded.sets.values()),
        *secret_notes(file.loaded.knocks.values(), file.sources),
    ]
    if as_json:
        app.say_json({**plan.to_json(), "notes": notes})
        return
    if foreseen and not plan.changes:
        app.say("the policy would not change")
    else:
        _print(app, plan)
    for note in notes:
        app.say(note)


def _in_force(pins: Pins) -> Snapshot | None:
    """The policy in force, from the text that is pinned with it."""
    from xdpfw.observe import metadata
    from xdpfw.observe.inforce import in_force

    number = in_force(pins)
    if number is None:
        return None
    return _snapshot(metadata.read_source(pins.generation(number)))


def _snapshot(files: Mapping[str, str]) -> Snapshot:
    """The policy of these texts, its own file first: path to text, stand-ins in the place of secrets."""
    from xdpfw.compiler.lower import lower
    from xdpfw.plan import Snapshot
    from xdpfw.policy.load import load
    from xdpfw.policy.source import Sources

    loaded = load(next(iter(files)), Sources.from_bundle(files))
    return Snapshot(lower(loaded), loaded.sets)


def _print(app: App, plan: Plan) -> None:
    from xdpfw.cli.output import Column, print_table

    if not plan.changes:
        app.say("nothing would change")
        return
    if plan.first:
        app.say("nothing is in force yet: everything is added")
    rows = []
    for what, changes in (
        ("interface", plan.interfaces),
        ("setting", plan.settings),
        ("knock", plan.knocks),
        ("rule", plan.rules),
    ):
        for change in changes:
            before, after = change.before or "", change.after or ""
            both = f"{before}  =>  {after}" if before != after and before and after else after or before
            rows.append((what, change.kind.value, change.name, both))
    rows += [("set", each.kind.value, each.name, f"+{each.added} -{each.removed} entries") for each in plan.sets]
    print_table(app, [Column("what"), Column("change"), Column("name"), Column("")], rows)
