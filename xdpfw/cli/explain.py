# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw explain: which rule decides a packet, and why each earlier one did not."""

from __future__ import annotations

import time

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, interface_option, json_option, rules_argument
from xdpfw.policy.collector import collector_paused


@click.command(
    short_help="Tell which rule decides a packet, and why.",
    epilog=examples(
        'xdpfw explain edge.yaml "tcp 198.51.100.7:40000 > 203.0.113.1:22 S"',
        'xdpfw explain edge.yaml "udp [2001:db8::7]:53 > [2001:db8::1]:40000 vlan=100" --interface eth1',
        "xdpfw explain edge.yaml pcap:odd.pcap#17 --json",
    ),
)
@rules_argument
@click.argument("packet", metavar="PACKET")
@interface_option
@json_option
@click.pass_obj
@collector_paused()
def command(app: App, rules: str, packet: str, interface: str | None, as_json: bool) -> None:
    """Tell which rule of RULES decides PACKET, and why each earlier one did not.

    It is taken to come now, and to be the first one of its source.

    PACKET is "PROTO SOURCE > DESTINATION [FLAGS] [OPTION=VALUE...]", a whole frame in hex, or pcap:FILE#N.

    JSON: {"verdict", "rule", "reason", "detail", "trace": [{"step", "outcome", ...}], "target" of a redirect}.
    """
    from xdpfw.cli.output import VERDICT_COLOURS, decision_text
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.errors import Position
    from xdpfw.explain import explain
    from xdpfw.packet.notation import parse_packet
    from xdpfw.reference.memory import START, Instant

    file = PolicyFile.read(rules)
    frame = parse_packet(packet, position=Position("PACKET", 1, 1))
    now = Instant(START.boot_ns, time.time_ns())
    decision, trace = explain(file.policy, frame, file.interface_number(interface), now=now)
    if as_json:
        answer = {
            "verdict": decision.verdict,
            "rule": decision.rule,
            "reason": decision.kind,
            "detail": decision.reason,
            "trace": [entry.to_json() for entry in trace],
        }
        app.say_json(answer if decision.target is None else {**answer, "target": decision.target})
        return
    for entry in trace:
        app.say(str(entry))
    app.say(decision_text(decision), colour=VERDICT_COLOURS[decision.verdict])
