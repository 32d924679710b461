# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands need that are about a firewall in force."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xdpfw.errors import KernelError, XdpfwError

if TYPE_CHECKING:
    from xdpfw.kernel.pins import Pins
    from xdpfw.kernel.state import State
    from xdpfw.observe.metadata import Metadata


class NothingInForceError(XdpfwError):
    """There is nothing to tell of."""

    exit_status = 1

    def __init__(self, pins: Pins) -> None:
        super().__init__(f"instance {pins.instance} has no firewall in force", hint="xdpfw apply RULES")


def check_in_force(pins: Pins) -> int:
    """The number of the generation in force. Raises NothingInForceError, KernelError."""
    from xdpfw.observe.inforce import in_force

    number = in_force(pins)
    if number is None:
        raise NothingInForceError(pins)
    return number


def read_in_force(pins: Pins, tries: int = 5) -> tuple[int, Metadata]:
    """The number of the generation in force, and what it was made from. Raises NothingInForceError, KernelError."""
    from xdpfw.observe import metadata

    while True:
        numbers = pins.generations()
        try:
            number = check_in_force(pins)
            return number, metadata.read(pins.generation(number))
        except KernelError:
            # A switch that ended between two of these reads has removed the generation before.
            tries -= 1
            if not tries or pins.generations() == numbers:
                raise


@contextlib.contextmanager
def open_state(pins: Pins) -> Iterator[State | None]:
    """The maps that outlive generations; None where no policy has needed them yet. Raises KernelError."""
    from xdpfw.kernel.state import State

    directory = pins.state
    if not directory.exists():
        yield None
        return
    with State.open(directory) as state:
        yield state


def refresh_clock(pins: Pins) -> int:
    """Tells the kernel what its clock's offset from the time since 1970 is now, in s, by how many it was wrong."""
    from xdpfw.kernel.state import NS_PER_S, present_tai_offset_ns

    with open_state(pins) as state:
        if state is None:
            return 0
        present_ns = present_tai_offset_ns()
        wrong_ns = present_ns - state.read_shared().tai_offset_ns
        if wrong_ns:
            state.set_tai_offset(present_ns)
        return wrong_ns // NS_PER_S
