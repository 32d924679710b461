# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw replay: a capture through a policy."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, interface_option, json_option, reference_option, rules_argument

if TYPE_CHECKING:
    from xdpfw.simulate.replay import Replayed, Totals

TOLD_EVERY: Final = 1000  # packets


@click.command(
    short_help="Run a capture through a policy.",
    epilog=examples("xdpfw replay edge.yaml today.pcap", "xdpfw replay edge.yaml today.pcapng --per-packet --json"),
)
@rules_argument
@click.argument("capture", metavar="PCAP", type=click.Path(readable=False))
@click.option("--per-packet", is_flag=True, help="A line for each packet instead of totals.")
@reference_option
@interface_option
@json_option
@click.pass_obj
def command(
    app: App, rules: str, capture: str, per_packet: bool, reference: bool, interface: str | None, as_json: bool
) -> None:
    """Tell what RULES would do with each packet of PCAP, a pcap or pcapng file, by the program in the kernel.

    Packets of link types other than Ethernet get an Ethernet header if there is IP inside; others are skipped.
    xdpfw sees what comes in: a capture taken on a host also has what it sends, unless it is taken by tcpdump -Q in.

    JSON: {"packets", "verdicts", "rules", "reasons", "details", "counted", "skipped", "cut", "late"}; with --per-packet
    a line a packet: {"n", "verdict", "rule", "reason", "detail"}, all but n null for a packet that is skipped.
    """
    from xdpfw.cli.output import count_text, working
    from xdpfw.cli.policyfile import PolicyFile, decider
    from xdpfw.errors import PolicyError
    from xdpfw.simulate.replay import Totals, replay

    file = PolicyFile.read(rules)
    number = file.interface_number(interface)
    totals = Totals()
    broken: PolicyError | None = None
    with ExitStack() as opened:
        decides = opened.enter_context(decider(file.policy, reference=reference))
        tell = None if per_packet else opened.enter_context(working(app, f"replaying {capture}"))
        try:
            for replayed in replay(Path(capture), decides, number):
                totals.add(replayed)
                if tell is None:
                    _print_packet(app, replayed, as_json)
                elif totals.packets % TOLD_EVERY == 0:
                    tell(f"replaying {capture}: {totals.packets} packets")
        except PolicyError as error:
            broken = error
        counted = decides.counted()
    if not per_packet and (broken is None or totals.packets):
        _print_totals(app, totals, counted, as_json)
    if totals.skipped:
        kinds = ", ".join(f"{count} of link type {link_type}" for link_type, count in sorted(totals.skipped.items()))
        app.complain(f"skipped, as they have no Ethernet equivalent: {kinds}")
    if totals.cut:
        app.complain(f"cut short in the capture, and decided as they are there: {count_text(totals.cut, 'packet')}")
    if totals.late:
        app.complain(
            f"decided at the time of an earlier one, as theirs is before it: {count_text(totals.late, 'packet')}"
        )
    if broken is not None:
        raise broken


def _print_packet(app: App, replayed: Replayed, as_json: bool) -> None:
    from xdpfw.cli.output import decision_text
    from xdpfw.packet.notation import describe

    if as_json:
        app.say_json(replayed.to_json(), one_line=True)
    elif replayed.decision is None or replayed.captured.frame is None:
        app.say(f"{replayed.captured.number}: skipped")
    else:
        app.say(f"{replayed.captured.number}: {decision_text(replayed.decision)}: {describe(replayed.captured.frame)}")


def _print_totals(app: App, totals: Totals, counted: dict[str, int], as_json: bool) -> None:
    from xdpfw.cli.output import Column, count_text, print_table

    if as_json:
        app.say_json({**totals.to_json(), "counted": counted})
        return
    app.say(count_text(totals.packets, "packet"))
    views = {
        "verdict": totals.verdicts,
        "reason": totals.details,
        "rule": totals.rules,
        "counted by": {name: packets for name, packets in counted.items() if packets},
    }
    for title, counts in views.items():
        if counts:
            app.say()
            print_table(
                app,
                [Column(title), Column("packets", is_number=True)],
                [(name, str(packets)) for name, packets in sorted(counts.items(), key=lambda item: -item[1])],
            )
