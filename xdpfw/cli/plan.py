# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw plan: what apply would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option, rules_argument
from xdpfw.policy.collector import collector_paused

if TYPE_CHECKING:
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.compiler.progress import Progress
    from xdpfw.kernel.pins import Pins
    from xdpfw.plan import Plan, Snapshot
    from xdpfw.policy.sets import LoadedSet
    from xdpfw.policy.source import Sources


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
    from xdpfw.cli.progressbar import progress_bar
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.lower import rules_digest
    from xdpfw.controller import Controller
    from xdpfw.plan import compare
    from xdpfw.policy.knocks import secret_notes
    from xdpfw.policy.sets import set_notes

    with progress_bar(app, as_json=as_json) as progress:
        file = PolicyFile.read(rules, progress)
        pins = app.pins(instance, netns)
        controller = Controller(pins, netns)
        digest = rules_digest(file.loaded)
        earlier = controller.earlier_rules(file.policy, digest)
        # Compiled even where nobody is interested in the image: what does not fit, apply would refuse.
        foreseen = controller.foresee(file.policy, compile_policy(file.policy, earlier, progress))
        notes = [
            *foreseen,
            *set_notes(file.loaded.sets.values()),
            *secret_notes(file.loaded.knocks.values(), file.sources),
        ]
        after, sources = _as_stored(file), file.sources
        del file  # what is parsed takes more memory than all else: it should not be there twice
        plan = compare(_in_force(pins, after, sources, digest, progress), after)
    if as_json:
        app.say_json({**plan.to_json(), "notes": notes})
        return
    if foreseen and not plan.changes:
        app.say("the policy would not change")
    else:
        _print(app, plan)
    for note in notes:
        app.say(note)


def _in_force(pins: Pins, after: Snapshot, sources: Sources, rules_digest: str, progress: Progress) -> Snapshot | None:
    """The policy in force, from the text that is pinned with it; ``after`` itself where that has the same text.

    ``sources`` and ``rules_digest`` are those of ``after``. Where only files of sets differ, these alone are read.
    """
    from xdpfw.compiler.lower import lower
    from xdpfw.observe import metadata
    from xdpfw.observe.inforce import in_force
    from xdpfw.plan import Snapshot
    from xdpfw.policy.load import load
    from xdpfw.policy.source import Sources

    number = in_force(pins)
    if number is None:
        return None
    directory = pins.generation(number)
    meta = metadata.read(directory)
    if meta.source_digest == sources.digest:
        return after
    files = metadata.read_source(directory)
    if meta.rules_digest == rules_digest and list(files) == list(sources.files):
        return Snapshot(after.policy, dict(_sets_of(files, after.sets, sources)))

    def told(phase: str, done: int, total: int) -> None:
        progress(f"in force: {phase}", done, total)

    loaded = load(next(iter(files)), Sources.from_bundle(files), told)
    return Snapshot(lower(loaded), loaded.sets)


def _sets_of(
    files: Mapping[str, str], sets: Mapping[str, LoadedSet], sources: Sources
) -> Iterator[tuple[str, LoadedSet]]:
    """``sets`` with what ``files``, which are stored ones of the same paths, hold in the place of ``sources``."""
    from xdpfw.policy.entries import Entries

    for name, each in sets.items():
        if each.file is not None and files[each.file] != sources.files[each.file]:
            yield name, replace(each, prefixes=Entries.unpacked(files[each.file]))
        else:
            yield name, each


def _as_stored(file: PolicyFile) -> Snapshot:
    """The policy with stand-ins in the place of its secrets, as it would be read again from what apply stores."""
    from xdpfw.compiler.lower import lower
    from xdpfw.plan import Snapshot
    from xdpfw.policy.knocks import loaded_knock
    from xdpfw.policy.source import Sources

    loaded, policy = file.loaded, file.policy
    if file.sources.secrets_on_disk:
        stored = Sources.from_bundle(file.sources.files)
        knocks = {
            name: loaded_knock(name, knock.model, knock.place, knock.file, stored)
            for name, knock in loaded.knocks.items()
        }
        # Rules and tests are lowered already, and have no secrets.
        without_rules = replace(loaded, knocks=knocks, rules=(), tests=())
        policy = replace(policy, knocks=lower(without_rules).knocks)
    return Snapshot(policy, loaded.sets)


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
