# SPDX-License-Identifier: GPL-2.0-or-later
"""Sweeps over ports from many sources, none of which sends two packets. On a wire as tests/wire.py has it."""

from __future__ import annotations

import pytest

from tests import frames
from tests.firewall import policy
from tests.flood import flood, with_sources
from tests.knock_host import ssh_knock
from tests.wire import Wire

LENGTHS = {3: (7005, 7017, 7001), 5: (7005, 7017, 7001, 7011, 7003)}
PORTS = range(7000, 7020)


@pytest.mark.parametrize(("length", "sources"), [(3, 16384), (3, 2000), (5, 16384)])
def test_a_sweep_by_many_sources_opens_nothing(wire: Wire, length: int, sources: int) -> None:
    """All ports upwards, as often as the knock has steps; each packet of a source of its own.

    No source knows or sends a second step, and the order of the knock is not that of the ports.
    """
    sequence = f"[{', '.join(f'{port}/tcp' for port in LENGTHS[length])}]"
    wire.firewall.apply(policy(extra=ssh_knock(sequence=sequence, within="10m")))
    first = 0x0B000000
    for _ in range(length):
        for port in PORTS:
            reason = "knock.step" if port in LENGTHS[length] else "default"
            sweep = with_sources(frames.v4_frame(frames.tcp(dport=port)), sources, first)
            flood(wire.sockets[0], wire.firewall, sweep, reason)
            first += sources
    assert wire.firewall.status()["knocking"]["grants"]["used"] == 0


def test_a_flood_of_first_steps_spares_nobody_the_first_step(wire: Wire) -> None:
    """Somebody who never sent the first step sends the other two."""
    wire.firewall.apply(policy(extra=ssh_knock(within="10m")))
    first_step = frames.v4_frame(frames.tcp(dport=7000))
    flood(wire.sockets[0], wire.firewall, with_sources(first_step, 163840, 0x0B000000), "knock.step")
    assert wire.decide(frames.v4_frame(frames.udp(dport=9000), frames.UDP)) == "knock.step"
    assert wire.decide(frames.v4_frame(frames.tcp(dport=8000))) == "knock.step"
    assert wire.decide(frames.v4_frame(frames.tcp())) == "knock.closed"
