# SPDX-License-Identifier: GPL-2.0-or-later
"""What an import makes."""

from __future__ import annotations

from dataclasses import dataclass

from xdpfw.errors import Position


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the policy does otherwise than what it was made from.

    ``position``: where that says it; None: it is about the whole. ``left_out``: the policy has nothing in its place.
    """

    text: str
    position: Position | None = None
    left_out: bool = False

    def __str__(self) -> str:
        text = f"left out: {self.text}" if self.left_out else self.text
        return f"{self.position}: {text}" if self.position else text


@dataclass(frozen=True, slots=True)
class Imported:
    """``policy``: YAML text. ``differences``: first those of single places, in their order, then those of the whole."""

    policy: str
    differences: tuple[Difference, ...]

    @property
    def is_whole(self) -> bool:
        """True if nothing was left out."""
        return not any(difference.left_out for difference in self.differences)
