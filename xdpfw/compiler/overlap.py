# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a rule may match packets of a kind."""

from __future__ import annotations

from xdpfw.compiler import ir
from xdpfw.compiler.ranges import merge
from xdpfw.compiler.regions import Region, Regions, are_apart, is_within


def only(*numbers: int) -> ir.Ranges:
    return merge((number, number) for number in numbers)


class Overlap:
    """Asked of one policy's rules, each as if there was no other."""

    def __init__(self, policy: ir.Policy) -> None:
        self._regions = Regions(policy)

    def meets(self, rule: ir.Rule, asked: Region) -> bool:
        """False only where no packet of the region can match the rule."""
        wanted = self._regions.implied(asked)
        matched = self._regions.implied(self._regions.asked(rule.match))
        if any(are_apart(field, values, matched[field]) for field, values in wanted.items() if field in matched):
            return False
        return rule.unless is None or not self._excepted(rule.unless, (wanted, matched))

    def _excepted(self, unless: ir.Match, regions: tuple[Region, ...]) -> bool:
        """Whether each of the exception's conditions holds for all of one of the regions."""
        return all(
            any(field in region and is_within(region[field], values) for region in regions)
            for field, values in self._regions.asked(unless).items()
        )
