# SPDX-License-Identifier: GPL-2.0-or-later
"""Where half-done sequences lie in the kernel, by bpf/progress.h: for tests whose sources must not fall together.

Whoever falls into a slot that another has taken counts as having come as far; the reference knows no slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.program import TEST_SECRET
from xdpfw.kernel.ring import halves
from xdpfw.reference.knocks import windows
from xdpfw.reference.memory import Instant, Source

MASK: Final = (1 << 64) - 1
PRIMES: Final = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)


def _mix(value: int) -> int:
    value ^= value >> 32
    value = value * PRIMES[1] & MASK
    value ^= value >> 32
    value = value * PRIMES[0] & MASK
    return value ^ value >> 32


def source_hash(source: Source, secret: tuple[int, int] = TEST_SECRET) -> int:
    high, low = halves(source.family, source.address)
    found = (high ^ secret[0]) * PRIMES[0] & MASK
    found ^= found >> 32
    found = found + (low ^ secret[1] ^ source.family) & MASK
    return found * PRIMES[1] & MASK


def progress_tag(source: Source, sequence_id: int, salt: int = 0, secret: tuple[int, int] = TEST_SECRET) -> int:
    """``salt``: the window of a rotation and 1; else 0."""
    found = _mix(source_hash(source, secret) ^ (sequence_id << 32 | sequence_id)) ^ salt
    return _mix(found ^ secret[1]) or 1


def slot(tag: int) -> int:
    """Within a step's part of the map ``progress``."""
    return tag & abi.Limit.PROGRESS_SLOTS - 1


def _courses(policy: ir.Policy, nows: Iterable[Instant]) -> Iterator[tuple[int, int]]:
    """Identity and salt of all that a source can be on."""
    data = compile_policy(policy).knocks.sequences
    size = abi.size_of("sequence")
    identities = [abi.unpack("sequence", data[at : at + size]).id for at in range(0, len(data), size)]
    rotations = [knock.way for knock in policy.knocks if isinstance(knock.way, ir.Rotation)]
    for rotation, identity in zip(rotations, identities, strict=False):
        for window in {window for now in nows for window in windows(rotation, now)}:
            yield identity, window + 1
    yield from ((identity, 0) for identity in identities[len(rotations) :])


def fall_together(policy: ir.Policy, sources: Iterable[Source], nows: Iterable[Instant]) -> bool:
    """Whether two of the sources, or two sequences of one, have the same slot at any of these times."""
    courses = list(_courses(policy, list(nows)))
    tags = [progress_tag(source, identity, salt) for source in set(sources) for identity, salt in courses]
    return any(slot(a) == slot(b) for a, b in combinations(tags, 2))
