# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: a policy, compiled, and a trace of packets for it."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench import traces
from tests import filtersets
from tests.filtersets import FilterSet
from tests.shared_data import FOLDER
from xdpfw.compiler import ir
from xdpfw.compiler.image import MapImage, compile_policy
from xdpfw.compiler.lower import lower
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

TEN_RULES: Final = "ten_rules"
TEN_RULES_FILE: Final = Path(__file__).with_name("ten-rules.yaml")
TEN_RULES_TRACE: Final = 10_000

FILTER_SETS: Final = (
    *(f"{kind}_{size}" for size in ("1k", "10k") for kind in ("acl1", "fw1", "ipc1")),
    *(f"v6_{kind}_{size}" for size in ("1k", "10k") for kind in ("acl1", "fw1", "ipc1")),
    "acl1_100k",
    "fw1_100k",
)
EVERY: Final = (TEN_RULES, *FILTER_SETS)
CLASSBENCH: Final = FOLDER / "classbench"

INTERFACE: Final = "fw0"
"""The only one of each policy, so that all differ in nothing but their rules."""

_FLOWS: Final = (
    "tcp {source}:{port} > 203.0.113.1:443 S",
    "tcp 192.0.2.{low}:{port} > 203.0.113.1:22 S",
    "udp {source}:{port} > 203.0.113.1:161",
    "tcp 127.0.0.{low}:{port} > 203.0.113.1:443 S",
)


@dataclass(frozen=True)
class Subject:
    """``frames`` is a whole trace: distinct headers, which match rules all over the policy."""

    name: str
    policy: ir.Policy
    frames: list[bytes]

    @functools.cached_property
    def image(self) -> MapImage:
        return compile_policy(self.policy)

    @property
    def rules(self) -> int:
        return len(self.policy.rules)


def is_there(name: str) -> bool:
    """Whether the data of this subject, which is not part of the project, lies where it is looked for."""
    return name == TEN_RULES or _file(name) is not None


@functools.cache
def subject(name: str) -> Subject:
    """One of EVERY. Compiled when asked for, and once: that of 100,000 rules takes seconds."""
    if name == TEN_RULES:
        return Subject(name, ten_rules(), _flows_of_ten_rules())
    filters = filter_set(name)
    trace = _file(f"{name}_trace")
    headers = filtersets.read_trace(trace, filters.bits) if trace else traces.within(filters)
    policy = replace(filters.policy(), interfaces=(ir.Interface(INTERFACE),))
    return Subject(name, policy, [filters.frame(header) for header in headers])


@functools.cache
def filter_set(name: str) -> FilterSet:
    path = _file(name)
    if path is None:
        raise FileNotFoundError(f"{CLASSBENCH / name} is missing")
    return filtersets.read(path)


def ten_rules() -> ir.Policy:
    return lower(load(str(TEN_RULES_FILE), Sources.from_disk()))


def _flows_of_ten_rules() -> list[bytes]:
    """Each from another source: passed by port, by set and port, dropped by default and by source."""
    source = random.Random(1)
    found = []
    for i in range(TEN_RULES_TRACE):
        address = ".".join(map(str, (source.randint(128, 191), *source.choices(range(256), k=3))))
        values = {"source": address, "low": source.randrange(256), "port": source.randrange(1024, 65536)}
        found.append(parse_packet(_FLOWS[i % len(_FLOWS)].format(**values)))
    return found


def _file(name: str) -> Path | None:
    for path in (CLASSBENCH / name, CLASSBENCH / f"{name}.gz"):
        if path.exists():
            return path
    return None
