# SPDX-License-Identifier: GPL-2.0-or-later
"""An interface that another program holds is refused, and left as it is.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │
│   eth1 ───┼──────┼─── fw1    │  another's XDP program, put there by iproute2
└───────────┘      └───────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.firewall import policy
from tests.topology import unique
from tests.wire import Wire, parsed
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.pins import BPFFS
from xdpfw.kernel.program import Generation

IPROUTE2_MODES = {"native": "xdpdrv", "generic": "xdpgeneric"}


@pytest.fixture
def foreign() -> Iterator[Path]:
    """An XDP program that is pinned, and no firewall's."""
    pin = BPFFS / unique("foreign")
    with Generation.load(compile_policy(parsed(policy(default="pass"))), interfaces=[], targets=[]) as generation:
        generation.program.pin(str(pin))
    try:
        yield pin
    finally:
        pin.unlink()


def test_a_foreign_program_is_left_untouched(make_wire: Callable[..., Wire], foreign: Path, mode: str) -> None:
    wire = make_wire("fw0", "fw1")
    wire.home.run("ip", "link", "set", "dev", "fw1", IPROUTE2_MODES[mode], "pinned", foreign)
    holder = wire.firewall.program("fw1")
    for ours in ("native", "generic", "auto"):
        refused = wire.firewall.apply(policy(interfaces=("fw0", "fw1"), mode=ours), status=3)
        assert "fw1" in refused.stderr
        assert f"program {holder}" in refused.stderr
        assert "never taken over" in refused.stderr
        assert wire.firewall.program("fw1") == holder
        assert wire.firewall.program("fw0") is None
        assert not wire.firewall.pins.root.exists()
    wire.home.ip("link", "set", "dev", "fw1", IPROUTE2_MODES[mode], "off")
    wire.firewall.apply(policy(interfaces=("fw0", "fw1")))
    assert wire.firewall.program("fw1") == wire.firewall.program("fw0") != holder


def test_it_appears_on_an_interface_that_is_to_be_added(make_wire: Callable[..., Wire], foreign: Path) -> None:
    wire = make_wire("fw0", "fw1")
    wire.firewall.apply(policy())
    before, running = wire.firewall.objects(), wire.firewall.program("fw0")
    wire.home.run("ip", "link", "set", "dev", "fw1", "xdpdrv", "pinned", foreign)
    wire.firewall.apply(policy(interfaces=("fw0", "fw1"), default="pass"), status=3)
    assert wire.firewall.program("fw0") == running
    assert wire.firewall.objects() == before


def test_nobody_else_can_take_the_firewall_off(wire: Wire, foreign: Path) -> None:
    wire.firewall.apply(policy())
    running = wire.firewall.program("fw0")
    for arguments in (("xdp", "off"), ("xdpdrv", "pinned", foreign), ("xdpgeneric", "pinned", foreign)):
        refused = wire.home.run("ip", "-force", "link", "set", "dev", "fw0", *arguments, status=None)
        assert refused.returncode != 0
        assert "XDP" in refused.stderr
        assert wire.firewall.program("fw0") == running
