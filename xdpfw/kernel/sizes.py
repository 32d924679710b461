# SPDX-License-Identifier: GPL-2.0-or-later
"""How large the tables of state are."""

from __future__ import annotations

from typing import Any, Final

from xdpfw.kernel import abi

MASKS: Final = {
    "beginning_mask": "beginnings",
    "progress_mask": "progress",
    "flow_mask": "flow_tags",
    "incoming_mask": "incoming",
    "limit_mask": "limit_buckets",
    "fragment_mask": "fragments",
    "acquaintance_mask": "acquaintances",
}
"""Members of the constants that are the number of a table's buckets - 1."""


def state_sizes_of(config: Any, *, is_full: bool) -> dict[str, int]:
    """Entries of the maps of state: of those that the policy has no use for, 1. Not ``is_full``: small ones do."""
    limit, flow, bound = abi.Limit, abi.FlowLimit, abi.LimitBound
    knocks, tracks, fragments = config.knock_count, config.tracks, config.allow.fragments

    def buckets(wanted: int, used: int) -> int:
        return int(min(wanted, wanted if is_full else limit.TEST_BUCKETS)) if used else 1

    flow_buckets = buckets(flow.FLOW_BUCKETS, tracks)
    return {
        "beginnings": buckets(limit.BEGINNING_BUCKETS, knocks),
        "progress": buckets(limit.PROGRESS_BUCKETS, knocks),
        "grants": limit.MAX_GRANTS if knocks else 1,
        "spa_times": limit.MAX_SPA_KEYS if knocks else 1,
        "spa_failures": limit.SPA_FAILURE_SLOTS if knocks else 1,
        "flow_tags": flow_buckets,
        "flows": flow_buckets * limit.BUCKET_SLOTS if tracks else 1,
        "incoming": buckets(flow.INCOMING_BUCKETS, tracks),
        "fragments": buckets(flow.FRAGMENT_BUCKETS, fragments),
        "limit_buckets": buckets(bound.LIMIT_BUCKETS, config.limit_count),
        "acquaintances": buckets(bound.ACQUAINTANCE_BUCKETS, config.protects_syn),
    }
