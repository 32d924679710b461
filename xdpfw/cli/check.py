# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw check: whether a policy is right, and whether it says what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option, rules_argument

if TYPE_CHECKING:
    from xdpfw.errors import PolicyError, Position
    from xdpfw.policy.load import LoadedPolicy


@click.command(short_help="Validate and lint a policy.", epilog=examples("xdpfw check edge.yaml"))
@rules_argument
@json_option
@click.pass_obj
def command(app: App, rules: str, as_json: bool) -> int:
    """Validate RULES, its tests' packets and its size, and look for rules that are never reached.

    Needs no privileges. Exit status 1 if a rule is never reached, 2 if the policy is wrong.

    JSON: {"ok", "errors": [{"file", "line", "column", "message", "hint"}], "lints": [{"kind", "rule", "covered_by",
    "file", "line", "column", "message"}], "notes": [...]} and, where there are no errors, "interfaces", "rules", "sets"
    and "tests", the number of each.
    """
    from xdpfw.cli.output import count_text, working
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.lint import never_reached
    from xdpfw.compiler.lower import not_in_force
    from xdpfw.errors import PolicyError
    from xdpfw.simulate.policytest import prepare

    try:
        with working(app, f"checking {rules}"):
            policy_file = PolicyFile.read(rules)
            policy = policy_file.policy
            prepare(policy, policy_file.sources.files)
            compile_policy(policy)
            unreached = never_reached(policy)
    except PolicyError as error:
        if as_json:
            found = [_error(each) for each in (error, *error.others)]
            app.say_json({"ok": False, "errors": found, "lints": [], "notes": []})
        raise
    notes = [*not_in_force(policy), *_empty_files(policy_file.loaded)]
    counts = {
        "interfaces": len(policy.interfaces),
        "rules": len(policy.rules),
        "sets": len(policy.address_sets) + len(policy.port_sets),
        "tests": len(policy.tests),
    }
    if as_json:
        lints = [
            {
                "kind": "never-reached",
                "rule": each.rule.name,
                "covered_by": each.covered_by,
                **_place(each.rule.position),
                "message": str(each),
            }
            for each in unreached
        ]
        app.say_json({"ok": not lints, "errors": [], "lints": lints, "notes": notes, **counts})
    else:
        for each in unreached:
            app.say(f"{each.rule.position}: {each}", colour="yellow")
        for note in notes:
            app.say(note)
        size = ", ".join(count_text(count, what.removesuffix("s")) for what, count in counts.items())
        state, colour = (f"{len(unreached)} never reached", "red") if unreached else ("ok", "green")
        app.say(f"{rules}: {state} ({size})", colour=colour)
    return 1 if unreached else 0


def _empty_files(loaded: LoadedPolicy) -> list[str]:
    """A set without elements is meant so; one whose file has none may have lost them."""
    return [
        f"set {each.name} is empty: {each.file} has no entries"
        for each in loaded.sets.values()
        if each.file is not None and not each.entries
    ]


def _error(error: PolicyError) -> dict[str, Any]:
    return {**_place(error.position), "message": error.message, "hint": error.hint}


def _place(position: Position | None) -> dict[str, Any]:
    if position is None:
        return {"file": None, "line": None, "column": None}
    return {"file": position.file, "line": position.line, "column": position.column}
