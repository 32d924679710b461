# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw apply: put a policy in force."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Self

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option, rules_argument
from xdpfw.policy.collector import collector_paused

if TYPE_CHECKING:
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.compiler import ir
    from xdpfw.compiler.image import MapImage
    from xdpfw.simulate.policytest import CaseResult

MAX_LINTED_RULES: Final = 150_000
"""Looking through more would hold up apply for more than a few seconds."""

MAX_TOLD_UNREACHED: Final = 20
"""More would push out of sight that the policy is in force."""


@click.command(
    short_help="Put a policy in force.",
    epilog=examples("xdpfw apply edge.yaml", "xdpfw apply edge.yaml --netns blue --instance edge"),
)
@rules_argument
@click.option("--skip-tests", is_flag=True, help="Apply even if the policy's tests fail; they are not run.")
@click.option("--confirm", metavar="DUR", hidden=True)
@instance_options
@json_option
@click.pass_obj
@collector_paused()
def command(
    app: App,
    rules: str,
    skip_tests: bool,
    confirm: str | None,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    """Put RULES in force on its interfaces, atomically: each packet meets the whole old or the whole new policy.

    The policy's tests run first, in the kernel; if one fails, nothing is changed and the exit status is 1. Applying
    what is in force already changes nothing.

    JSON: {"changed", "generation", "interfaces": {NAME: MODE}, "tests": {"passed", "failed"}, "notes": [...]}; where a
    test failed, {"changed": false, "tests", "failures": [...]}.
    """
    from xdpfw.errors import UsageError

    if confirm is not None:
        raise UsageError("--confirm is not supported yet", hint="leave it out")
    with _Interrupts(app) as interrupts:
        return _apply(app, rules, interrupts, skip_tests=skip_tests, netns=netns, instance=instance, as_json=as_json)


class _Interrupts:
    """Tells whoever interrupts the work in this context what has become of it: ``state``, as far as it is certain."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.state = "nothing is changed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self._app.complain(f"interrupted: {self.state}")


def _apply(
    app: App,
    rules: str,
    interrupts: _Interrupts,
    *,
    skip_tests: bool,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> int:
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.cli.progressbar import progress_bar
    from xdpfw.cli.test import failures, print_result
    from xdpfw.compiler.image import compile_policy
    from xdpfw.compiler.lower import rules_digest
    from xdpfw.controller import Controller, Source
    from xdpfw.policy.knocks import secret_notes
    from xdpfw.policy.sets import set_notes

    with progress_bar(app, as_json=as_json) as progress:
        file = PolicyFile.read(rules, progress)
        controller = Controller(app.pins(instance, netns), netns, app.clock)
        digest = rules_digest(file.loaded)
        image = compile_policy(file.policy, controller.earlier_rules(file.policy, digest), progress)
        progress("testing", 0, 0)
        results = [] if skip_tests else _test(file, image)
        failed = [result for result in results if not result.ok]
        if not failed:
            # All that takes time comes before the switch: who interrupts behind it would not know that it was made.
            progress("looking for rules that are never reached", 0, 0)
            of_policy = [
                *set_notes(file.loaded.sets.values()),
                *secret_notes(file.loaded.knocks.values(), file.sources),
            ]
            warnings, unreached = _warnings(file.policy)
            progress("loading", 0, 0)
            source = Source(os.path.abspath(rules), dict(file.sources.files), file.sources.digest, digest)
            interrupts.state = "xdpfw status tells which policy is in force"
            applied = controller.apply(file.policy, image, source)
            interrupts.state = f"{rules} is in force"
    tests = {"passed": len(results) - len(failed), "failed": len(failed)}
    if failed:
        if as_json:
            reasons = [line for result in failed for line in failures(file.policy, result)]
            app.say_json({"changed": False, "tests": tests, "failures": reasons})
        else:
            for result in failed:
                print_result(app, file.policy, result)
            app.say(f"nothing is changed: {len(failed)} of {len(results)} tests failed (--skip-tests overrides)")
        return 1
    notes = [*applied.notes, *of_policy, *warnings]
    if as_json:
        app.say_json(
            {
                "changed": applied.changed,
                "generation": applied.generation,
                "interfaces": applied.modes,
                "tests": tests,
                "notes": [*notes, *unreached],
            }
        )
        return 0
    what = "is in force" if applied.changed else "is in force already: nothing is changed"
    app.say(f"{rules} {what} (generation {applied.generation})", colour="green")
    for name, mode in applied.modes.items():
        app.say(f"  {name}: {mode}")
    for line in (*notes, *unreached[:MAX_TOLD_UNREACHED]):
        app.say(line)
    if len(unreached) > MAX_TOLD_UNREACHED:
        app.say(f"and {len(unreached) - MAX_TOLD_UNREACHED:,} more: xdpfw check lists them")
    return 0


def _warnings(policy: ir.Policy) -> tuple[list[str], list[str]]:
    """A line for each thing that is likely to be wrong, and one for each rule that is never reached."""
    from xdpfw.compiler.knocklint import knock_lints
    from xdpfw.compiler.limitlint import limit_lints
    from xdpfw.compiler.lint import never_reached
    from xdpfw.compiler.protectlint import protect_lints

    warnings = [f"{each.knock.position}: {each}" for each in knock_lints(policy)]
    warnings += [f"{each.rule.position}: {each}" for each in (*limit_lints(policy), *protect_lints(policy))]
    if len(policy.rules) > MAX_LINTED_RULES:
        warnings.append(f"of {len(policy.rules)} rules, xdpfw check tells which are never reached; that takes a while")
        return warnings, []
    return warnings, [f"{each.rule.position}: {each}" for each in never_reached(policy)]


def _test(file: PolicyFile, image: MapImage) -> list[CaseResult]:
    from xdpfw.simulate import policytest
    from xdpfw.simulate.decider import in_kernel

    cases = policytest.prepare(file.policy, file.sources.files)
    if not cases:
        return []
    with in_kernel(file.policy, image) as decider:
        return list(policytest.run(cases, decider))
