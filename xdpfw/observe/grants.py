# SPDX-License-Identifier: GPL-2.0-or-later
"""Who holds which grant, and until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from xdpfw.kernel.state import Grant
from xdpfw.observe.events import rfc3339
from xdpfw.observe.metadata import KnockMeta, Metadata, service_name
from xdpfw.observe.names import address_text

NS_PER_MS: Final = 1_000_000
MS_PER_S: Final = 1_000


@dataclass(frozen=True, slots=True)
class HeldGrant:
    """What a source or prefix holds of one knock until one time.

    ``knock`` is None where the policy has it no more, ``key`` where no SPA key earned it or the policy has that no
    more. ``until`` is in ns since 1970. ``entries`` are those of the map that it is made of.
    """

    source: str
    knock: str | None
    knock_id: int
    services: tuple[str, ...]
    until: int
    remaining_ns: int
    key: str | None
    key_id: int | None
    entries: tuple[Grant, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "knock": self.knock,
            "knock_id": self.knock_id,
            "services": self.services,
            "until": rfc3339(self.until),
            "remaining_s": self.remaining_ns // NS_PER_MS / MS_PER_S,
            "key": self.key,
            "key_id": self.key_id,
        }


def live_grants(entries: Iterable[Grant], meta: Metadata, now_ns: int, wall_offset_ns: int) -> list[HeldGrant]:
    """Those that are in force at ``now_ns`` (CLOCK_BOOTTIME), by source and knock; the ones that end first go first.

    The entry of the knock itself belongs to the service that lasts longest. ``wall_offset_ns``: what the time since
    1970 is ahead.
    """
    knocks = {knock.id: knock for knock in meta.knocks}
    groups: dict[tuple[object, ...], list[Grant]] = {}
    for entry in entries:
        if entry.is_live(now_ns):
            what = (entry.family, entry.source, entry.prefix_bits, entry.knock, entry.until_ns, entry.key)
            groups.setdefault(what, []).append(entry)
    held = [_held(group, knocks.get(group[0].knock), now_ns, wall_offset_ns) for _, group in sorted(groups.items())]
    return sorted(held, key=lambda grant: (*_whom(grant), grant.until))


def _whom(grant: HeldGrant) -> tuple[int, int, int, str, int]:
    first = grant.entries[0]
    return first.family, first.source, first.prefix_bits, grant.knock or "", grant.knock_id


def _held(group: list[Grant], knock: KnockMeta | None, now_ns: int, wall_offset_ns: int) -> HeldGrant:
    first = group[0]
    named = {service_name(entry.protocol, entry.port) for entry in group if entry.protocol}
    order = knock.services if knock else ()
    services = [*(name for name in order if name in named), *sorted(named.difference(order))]
    keys = knock.keys if knock and first.key else ()
    return HeldGrant(
        source=address_text(first.family, first.source, first.prefix_bits),
        knock=knock.name if knock else None,
        knock_id=first.knock,
        services=tuple(services),
        until=first.until_ns + wall_offset_ns,
        remaining_ns=first.until_ns - now_ns,
        key=next((key.name for key in keys if key.fingerprint == first.key), None),
        key_id=first.key_number or None,
        entries=tuple(group),
    )
