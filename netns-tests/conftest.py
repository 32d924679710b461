# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces for a test, and a firewall in one of them.

All skip, and say why, where the machine cannot run the firewall at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.firewall import Firewall, firewall
from tests.knock_host import KnockHost, open_knock_host
from tests.topology import Namespace, Network, network
from tests.wire import Wire, quiet
from xdpfw.errors import KernelError
from xdpfw.kernel import features
from xdpfw.kernel.pins import ensure_bpffs


@pytest.fixture(scope="session", autouse=True)
def _can_run() -> None:
    missing = [check for check in (features.privileges(), features.libbpf_version()) if not check.ok]
    if not missing:
        try:
            ensure_bpffs()
        except KernelError as error:
            pytest.skip(str(error))
        missing = [check for check in features.system() if check.required and not check.ok]
    if missing:
        pytest.skip("; ".join(f"{check.name}: {check.detail}; {check.fix}" for check in missing))


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def make_firewall(tmp_path: Path) -> Iterator[Callable[[Namespace], Firewall]]:
    with ExitStack() as opened:
        yield lambda home: opened.enter_context(firewall(tmp_path, home))


@pytest.fixture(params=["native", "generic"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_wire(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Iterator[Callable[..., Wire]]:
    """Called with the names of the firewall's interfaces."""
    with ExitStack() as opened:

        def make(*names: str, mtu: int = 1500) -> Wire:
            sender, home, sockets = quiet(net, *names, mtu=mtu)
            return Wire(sender, home, make_firewall(home), tuple(opened.enter_context(each) for each in sockets))

        yield make


@pytest.fixture
def wire(make_wire: Callable[..., Wire]) -> Wire:
    return make_wire("fw0")


@pytest.fixture
def knock_host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Iterator[KnockHost]:
    client, home = net.namespace("client"), net.namespace("host")
    with open_knock_host(net, make_firewall(home), client) as made:
        yield made
