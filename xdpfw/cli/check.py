# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw check: whether a policy is right, and whether it says what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option, rules_argument
from xdpfw.policy.collector import collector_paused

if TYPE_CHECKING:
    from xdpfw.compiler.knocklint import KnockLint
    from xdpfw.compiler.limitlint import RuleLint
    from xdpfw.compiler.lint import Unreached
    from xdpfw.errors import PolicyError, Position


@click.command(short_help="Validate and lint a policy.", epilog=examples("xdpfw check edge.yaml"))
@rules_argument
@json_option
@click.pass_obj
@collector_paused()
def command(app: App, rules: str, as_json: bool) -> int:
    """Validate RULES, its tests' packets and size; look for rules never reached, limits that do not hold what they seem
    to, and knocks that a scan opens.

    Needs no privileges, but to read the files of keys and secrets. Exit status 1 if there are such rules, limits or
    knocks, 2 if the policy is wrong.

    JSON: {"ok", "errors": [{"file", "line", "column", "message", "hint"}], "lints": [{"kind", "file", "line", "column",
    "message"}], "notes": [...]} and, where there are no errors, "interfaces", "rules", "sets", "knocks" and "tests",
    the number of each. A lint of kind never-reached has "rule" and "covered_by", those about limits and protected
    ports "rule", those about knocks "knock" and "others".
    """
    from xdpfw.cli.output import count_text
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.cli.progressbar import progress_bar
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.knocklint import knock_lints
    from xdpfw.compiler.limitlint import limit_lints
    from xdpfw.compiler.lint import never_reached
    from xdpfw.compiler.protectlint import protect_lints
    from xdpfw.errors import PolicyError
    from xdpfw.policy.knocks import secret_notes
    from xdpfw.policy.sets import set_notes
    from xdpfw.simulate.policytest import prepare

    try:
        with progress_bar(app, as_json=as_json) as progress:
            policy_file = PolicyFile.read(rules, progress)
            policy = policy_file.policy
            prepare(policy, policy_file.sources.files)
            compile_policy(policy, progress=progress)
            progress("looking for rules that are never reached", 0, 0)
            unreached, of_knocks = never_reached(policy), knock_lints(policy)
            of_rules = [*limit_lints(policy), *protect_lints(policy)]
    except PolicyError as error:
        if as_json:
            found = [_error(each) for each in (error, *error.others)]
            app.say_json({"ok": False, "errors": found, "lints": [], "notes": []})
        raise
    loaded = policy_file.loaded
    of_secrets = secret_notes(loaded.knocks.values(), policy_file.sources)
    notes = [*set_notes(loaded.sets.values()), *of_secrets]
    counts = {
        "interfaces": len(policy.interfaces),
        "rules": len(policy.rules),
        "sets": len(policy.address_sets) + len(policy.port_sets) + len(policy.dynamic_sets),
        "knocks": len(policy.knocks),
        "tests": len(policy.tests),
    }
    if not policy.knocks and not as_json:
        del counts["knocks"]
    if as_json:
        lints = [*map(_unreached_json, unreached), *map(_knock_json, of_knocks), *map(_rule_json, of_rules)]
        app.say_json({"ok": not lints, "errors": [], "lints": lints, "notes": notes, **counts})
    else:
        lines = [f"{each.rule.position}: {each}" for each in unreached]
        lines += [f"{each.knock.position}: {each}" for each in of_knocks]
        lines += [f"{each.rule.position}: {each}" for each in of_rules]
        for line in lines:
            app.say(line, colour="yellow")
        for note in notes:
            app.say(note)
        size = ", ".join(count_text(count, what.removesuffix("s")) for what, count in counts.items())
        wrong = [f"{len(unreached)} never reached"] if unreached else []
        wrong += [count_text(len(of_knocks), "warning") + " about knocks"] if of_knocks else []
        wrong += [count_text(len(of_rules), "warning") + " about limits and protected ports"] if of_rules else []
        state, colour = (", ".join(wrong), "red") if wrong else ("ok", "green")
        app.say(f"{rules}: {state} ({size})", colour=colour)
    return 1 if unreached or of_knocks or of_rules else 0


def _unreached_json(lint: Unreached) -> dict[str, Any]:
    return {
        "kind": "never-reached",
        "rule": lint.rule.name,
        "covered_by": lint.covered_by,
        **_place(lint.rule.position),
        "message": str(lint),
    }


def _knock_json(lint: KnockLint) -> dict[str, Any]:
    return {
        "kind": lint.kind,
        "knock": lint.knock.name,
        "others": lint.others,
        **_place(lint.knock.position),
        "message": str(lint),
    }


def _rule_json(lint: RuleLint) -> dict[str, Any]:
    return {"kind": lint.kind, "rule": lint.rule.name, **_place(lint.rule.position), "message": str(lint)}


def _error(error: PolicyError) -> dict[str, Any]:
    return {**_place(error.position), "message": error.message, "hint": error.hint}


def _place(position: Position | None) -> dict[str, Any]:
    if position is None:
        return {"file": None, "line": None, "column": None}
    return {"file": position.file, "line": position.line, "column": position.column}
