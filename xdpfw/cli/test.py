# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw test: the tests that a policy carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option, reference_option, rules_argument
from xdpfw.policy.collector import collector_paused

if TYPE_CHECKING:
    from xdpfw.compiler import ir
    from xdpfw.explain import TraceEntry
    from xdpfw.simulate.policytest import CaseResult, StepResult


@click.command(
    short_help="Run a policy's tests in the kernel.",
    epilog=examples("xdpfw test edge.yaml", "xdpfw test edge.yaml --reference --json"),
)
@rules_argument
@reference_option
@json_option
@click.pass_obj
@collector_paused()
def command(app: App, rules: str, reference: bool, as_json: bool) -> int:
    """Run the tests of RULES through the real program in the kernel. No interface is touched.

    Exit status 1 if a test fails.

    JSON: {"passed", "failed", "tests": [{"name", "ok", "steps": [{"ok", "packet", "expected", "found"}]}]}.
    """
    from xdpfw.cli.policyfile import PolicyFile, decider
    from xdpfw.simulate import policytest

    file = PolicyFile.read(rules)
    cases = policytest.prepare(file.policy, file.sources.files)
    with decider(file.policy, reference=reference) as decides:
        results = list(policytest.run(cases, decides))
    failed = sum(not result.ok for result in results)
    if as_json:
        app.say_json(
            {
                "passed": len(results) - failed,
                "failed": failed,
                "tests": [
                    {**result.to_json(), "why": [] if result.ok else list(failures(file.policy, result))}
                    for result in results
                ],
            }
        )
    else:
        for result in results:
            print_result(app, file.policy, result)
        app.say(summary(results))
    return 1 if failed else 0


def print_result(app: App, policy: ir.Policy, result: CaseResult) -> None:
    if result.ok:
        app.say(f"ok      {result.case.name}", colour="green")
    else:
        app.say(f"FAILED  {result.case.name}", colour="red")
    for line in failures(policy, result):
        app.say(f"  {line}")


def summary(results: Sequence[CaseResult]) -> str:
    failed = sum(not result.ok for result in results)
    return f"{len(results) - failed} passed, {failed} failed" if results else "the policy has no tests"


def failures(policy: ir.Policy, result: CaseResult) -> Iterator[str]:
    """Of each step that failed: where it stands, what was expected and found, and why."""
    from xdpfw.explain import explain
    from xdpfw.reference.interpreter import note_sent
    from xdpfw.reference.memory import Memory
    from xdpfw.simulate.policytest import timed

    if result.ok:
        return
    memory = Memory()  # why a packet is decided as it is depends on those before it
    for (ready, now), step in zip(timed([step.ready for step in result.steps]), result.steps, strict=True):
        if ready.frame is not None and ready.step.is_sent:
            note_sent(policy, ready.frame, memory=memory, now=now)
        elif ready.frame is not None:
            _, trace = explain(policy, ready.frame, ready.interface, memory=memory, now=now)
            if not step.ok:
                yield from _failure(step, trace)


def _failure(result: StepResult, trace: Sequence[TraceEntry]) -> Iterator[str]:
    from xdpfw.cli.output import decision_text

    step, found = result.ready.step, result.found
    assert found is not None
    rule = f'rule "{step.rule}"' if step.rule is not None else None
    expected = " by ".join(filter(None, [step.expect, rule]))
    yield f"{step.position}: {step.packet}: expected {expected}, found {decision_text(found)}"
    for entry in trace:
        if entry is trace[-1] or (entry.step == "rule" and entry.name == step.rule):
            yield f"  {entry}"
