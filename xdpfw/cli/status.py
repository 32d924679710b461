# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw status: what is in force, where, and since when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option

if TYPE_CHECKING:
    from xdpfw.observe.status import FlowStatus, KnockStatus, Status

DIGEST_SHOWN = 12


@click.command(
    short_help="Tell what is in force.", epilog=examples("xdpfw status", "xdpfw status --instance edge --json")
)
@instance_options
@json_option
@click.pass_obj
def command(app: App, netns: str | None, instance: str | None, as_json: bool) -> int:
    """Tell which policy is in force on which interfaces, since when, and how full its tables are.

    Exit status 1 if nothing is in force, or none of the policy's interfaces runs it any more.

    JSON: {"instance", "generation", "policy_file", "source_digest", "applied_at", "netns", "rules", "sets", "knocks",
    "knocking": {"grants": {"used", "capacity", "refused"}, "half_done", "spa_failures": [{"prefix", "packets",
    "last"}]}, "flows": {"used", "capacity", "counters": {NAME: COUNT}, "seen": {INTERFACE: "tcx" | "clsact" | null}},
    "interfaces": [{"name", "ifindex", "mode", "generation", "note"}], "fill": {NAME: {"used", "capacity"}},
    "memory_bytes", "kernel", "pending_confirm", "notes"}; where nothing is in force, "generation" is null and only
    "instance" is beside it.
    """
    from xdpfw.cli.inforce import refresh_clock
    from xdpfw.observe.status import Status

    pins = app.pins(instance, netns)
    status = Status.read(pins)
    if status is None:
        if as_json:
            app.say_json({"instance": pins.instance, "generation": None})
        else:
            app.say(f"instance {pins.instance}: nothing is in force")
        return 1
    notes = _notes(refresh_clock(pins))
    if as_json:
        app.say_json({**status.to_json(), "notes": notes})
    else:
        _print(app, status)
        for note in notes:
            app.say(note, colour="yellow")
    return 0 if status.attached else 1


def _notes(wrong_s: int) -> list[str]:
    """``wrong_s``: how far the kernel was from the time since 1970 until now."""
    if not wrong_s:
        return []
    return [
        f"the time that SPA and rotating knocks go by was {abs(wrong_s)} s {'ahead' if wrong_s > 0 else 'behind'}, "
        "as the offset of TAI has changed since; it is right now"
    ]


def _print(app: App, status: Status) -> None:
    from xdpfw.cli.output import Column, bytes_text, print_table

    applied = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(status.applied_at))
    since = f"since {applied}, {_duration(app.clock() - status.applied_at)}"
    facts = {
        "instance": status.instance,
        "policy": f"{status.policy_file} (SHA-256 {status.source_digest[:DIGEST_SHOWN]}...)",
        "in force": since if status.attached else f"nowhere: no interface of the policy runs it (applied {applied})",
        "generation": str(status.generation),
        "namespace": status.netns,
        "rules": str(status.rules),
        "sets": ", ".join(f"@{each.name} ({each.entries} entries)" for each in status.sets) or None,
        "knocks": ", ".join(status.knocks) or None,
        **_knocking(status.knocking),
        **_flows(status.flows),
        "memory": bytes_text(status.memory_bytes),
        "kernel": status.kernel,
    }
    for key, fact in facts.items():
        if fact is not None:
            app.say(f"{key:<10}  {fact}")
    app.say()
    print_table(
        app,
        [Column("interface"), Column("mode"), Column("generation", is_number=True), Column("")],
        [
            (each.name, each.mode or "-", "-" if each.generation is None else str(each.generation), each.note or "")
            for each in status.interfaces
        ],
    )
    app.say()
    print_table(
        app,
        [Column("limit"), *(Column(title, is_number=True) for title in ("used", "capacity", "full"))],
        [
            (name, str(level.used), str(level.capacity), f"{level.used / level.capacity:.0%}")
            for name, level in status.fill.items()
        ],
    )


def _knocking(knocking: KnockStatus | None) -> dict[str, str | None]:
    from xdpfw.cli.output import count_text

    if knocking is None:
        return {}
    refused = f", {knocking.refused} refused as there was no room" if knocking.refused else ""
    failures = "; ".join(f"{each.packets} from {each.prefix}" for each in knocking.failures)
    return {
        "grants": f"{knocking.grants.used} of {knocking.grants.capacity}{refused}",
        "half done": count_text(knocking.half_done, "source") if knocking.half_done else None,
        "not let in": f"{failures} (SPA)" if failures else None,
    }


def _flows(flows: FlowStatus | None) -> dict[str, str | None]:
    if flows is None:
        return {}
    lost = {"gave way to others": flows.counters.evicted, "refused as there was no room": flows.counters.refused}
    lost_text = "".join(f", {count} {what}" for what, count in lost.items() if count)
    unseen = ", ".join(name for name, hook in flows.seen.items() if hook is None)
    return {
        "flows": f"{flows.used} of {flows.capacity}{lost_text}",
        "not seen": f"what {unseen} sends: xdpfw apply puts back what sees it" if unseen else None,
    }


def _duration(seconds: float) -> str:
    """``42 s``, ``5 min``, ``3 h``, ``12 d``: rounded down."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
