# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of the kernel share: features by name, a place in bpffs, interfaces of their own.

    pytestmark = pytest.mark.needs("privileges", "data plane")

skips a module, and says why, where a check of xdpfw.kernel.features of that name does not hold.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from xdpfw.kernel import abi, features, pins
from xdpfw.kernel.image import NoKnocks
from xdpfw.kernel.program import Generation

NOBODY = 65534

_serial = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): skip where one of these checks of xdpfw doctor does not hold")


@functools.cache
def checks() -> dict[str, features.Check]:
    return {check.name: check for check in features.system()}


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("needs"):
        for name in marker.args:
            check = checks()[name]
            if not check.ok:
                print(f"skipped: {name}: {check.detail} ({check.fix})")
                pytest.skip(f"{name}: {check.detail}; {check.fix}")


@dataclass(frozen=True)
class Image:
    """What a compiler would make."""

    config: bytes
    tables: bytes
    actions: bytes
    rule_count: int
    targets: tuple[str, ...]
    knocks: NoKnocks = field(default_factory=NoKnocks)
    limits: bytes = b""
    cpu_choices: tuple[int, ...] = ()
    protected_ports: tuple[tuple[int, int], ...] = ()
    set_sizes: tuple[int, ...] = ()
    never_ban_keys: bytes = b""
    set_tables: bytes = b""


def hand_made(rule_count: int = 0, targets: tuple[str, ...] = (), **config: abi.Value) -> Image:
    """An image whose rules match nothing and whose default is to pass; ``config``: members of struct xdpfw_config."""
    tables = bytes(abi.Layout.BLOCK_BYTES)
    members = {"default_verdict": abi.Verdict.PASS, "table_bytes": len(tables), "rule_count": rule_count, **config}
    actions = abi.pack_array("action", [[abi.ActionKind.ACTION_PASS, abi.ActionFlag.ACTION_PLAIN]] * rule_count)
    return Image(abi.pack("config", members), tables, actions, rule_count, targets)


@pytest.fixture
def make_image() -> Callable[..., Image]:
    return hand_made


@pytest.fixture
def image() -> Image:
    return hand_made()


@pytest.fixture
def generation(image: Image) -> Iterator[Generation]:
    """An empty policy that passes everything, traced."""
    with Generation.load(image, interfaces=[], targets=[], trace=True) as loaded:
        yield loaded


@pytest.fixture
def bpffs() -> Iterator[Path]:
    """A directory in bpffs of the test's own. What it leaves there is removed; that it left nothing is its to check."""
    directory = pins.BPFFS / f"xdpfw-test-{os.getpid()}-{next(_serial)}"
    directory.mkdir(0o700)
    yield directory
    pins.remove_tree(directory)


@dataclass(frozen=True)
class Pair:
    """
        namespace            peer_namespace
    ┌──────────────┐        ┌──────────────┐
    │    name ─────┼────────┼───── peer    │
    └──────────────┘        └──────────────┘
    """

    namespace: str
    name: str
    peer_namespace: str
    peer: str


@pytest.fixture
def veth() -> Iterator[Pair]:
    """A veth pair between two namespaces, both ends up."""
    tag = f"{os.getpid()}-{next(_serial)}"
    pair = Pair(f"xdpfw-t{tag}", "veth0", f"xdpfw-p{tag}", "peer0")
    try:
        ip("netns", "add", pair.namespace)
        ip("netns", "add", pair.peer_namespace)
        ip(
            "-n",
            pair.namespace,
            "link",
            "add",
            pair.name,
            "type",
            "veth",
            "peer",
            pair.peer,
            "netns",
            pair.peer_namespace,
        )
        ip("-n", pair.namespace, "link", "set", pair.name, "up")
        ip("-n", pair.peer_namespace, "link", "set", pair.peer, "up")
        yield pair
    finally:
        for namespace in (pair.namespace, pair.peer_namespace):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """The test runs as nobody, and so without capabilities."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_descriptors() -> Callable[[], set[str]]:
    """What this process has open, as ``/proc/self/fd`` has it; equal before and after where nothing leaks."""

    def snapshot() -> set[str]:
        return {f"{fd}: {_target(fd)}" for fd in os.listdir("/proc/self/fd")} - {""}

    return snapshot


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
