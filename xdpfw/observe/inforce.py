# SPDX-License-Identifier: GPL-2.0-or-later
"""Which generation is in force: it is never written down, the links say it."""

from __future__ import annotations

from xdpfw.kernel.interface import Link
from xdpfw.kernel.loader import Program
from xdpfw.kernel.pins import Pins


def running(pins: Pins) -> dict[int, int | None]:
    """Interface index -> number of the generation that it runs. Raises KernelError."""
    programs = {}
    for number in pins.generations():
        with Program.open(str(pins.generation(number) / "program")) as program:
            programs[program.id] = number
    found = {}
    for path in pins.links().values():
        with Link.open(str(path)) as link:
            if link.ifindex:
                found[link.ifindex] = programs.get(link.program_id)
    return found


def in_force(pins: Pins) -> int | None:
    """The newest generation that an interface runs; where all interfaces are gone, the newest; None if there is none.

    A newer one may be there: one that is about to be put in force, or never was as its process was killed.
    Raises KernelError.
    """
    numbers = [number for number in running(pins).values() if number is not None]
    return max(numbers or pins.generations(), default=None)
