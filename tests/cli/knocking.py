# SPDX-License-Identifier: GPL-2.0-or-later
"""A firewall in force whose state is written by hand: what commands tell of knocks, without any packets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.cli.conftest import Ran
from tests.cli.test_in_force import Firewall
from tests.kernel.state_maps import record_in_kernel, state_maps
from xdpfw.kernel import abi
from xdpfw.kernel.maps import Blob
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.ring import EventRecord
from xdpfw.kernel.state import Grant, State, boot_ns, present_tai_offset_ns
from xdpfw.observe import metadata
from xdpfw.observe.metadata import META, KeyMeta, KnockMeta

NS: Final = 1_000_000_000
IPV4: Final = int(abi.Family.IPV4)
IPV6: Final = int(abi.Family.IPV6)
ALICE: Final = 0xC6336407  # 198.51.100.7
BOB: Final = 0x20010DB8 << 96 | 7  # 2001:db8::7
LAPTOP: Final = 0xABCDEF
SSH: Final = KnockMeta("ssh", 111, "ssh: ...", 3, ("22/tcp", "443/tcp"))
ADMIN: Final = KnockMeta("admin", 222, "admin: ...", 0, ("8443/tcp",), (KeyMeta(1, "laptop", LAPTOP),))


@dataclass(frozen=True)
class Knocking:
    firewall: Firewall
    state: State
    pins: Pins

    def __call__(self, command: str, *arguments: object, **app: object) -> Ran:
        return self.firewall(command, *arguments, **app)

    def revoke(self, *arguments: object) -> Ran:
        return self.firewall.run("grants", "--instance", self.firewall.instance, "revoke", *arguments)

    def record(self, kind: abi.EventKind, *, ago_s: float = 1, **members: int) -> None:
        values = {"generation": 1, "family": IPV4, "source": ALICE, "bytes": 74, "protocol": 6, **members}
        record_in_kernel(self.state, EventRecord(int(kind), boot_ns() - int(ago_s * NS), **values))

    def grant(self, knock: KnockMeta = SSH, source: int = ALICE, *, left_s: float = 100, **members: int) -> None:
        """All entries that a knock makes."""
        now_ns = boot_ns()
        family = IPV6 if source >> 32 else IPV4
        bits = members.pop("prefix_bits", 128 if source >> 32 else 32)
        for port in (0, *(int(service.partition("/")[0]) for service in knock.services)):
            protocol = 6 if port else 0
            until_ns = now_ns + int(left_s * NS)
            self.state.put_grant(
                Grant(family, source, bits, knock.id, protocol, port, until_ns, now_ns - NS, **members)
            )


def knocking(firewall: Firewall) -> Iterator[Knocking]:
    """``firewall`` has a policy in force."""
    pins = Pins(firewall.instance)
    directory = pins.generation(1)
    meta = dataclasses.replace(metadata.read(directory), knocks=(SSH, ADMIN), dynamic_sets=())
    (directory / META).unlink()
    with Blob.create(META, meta.to_bytes()) as blob:
        blob.pin(str(directory / META))
    with state_maps() as state:
        state.initialise((1, 2), present_tai_offset_ns())
        with pins.lock(), pins.new_state() as new:
            state.pin(new)
        yield Knocking(firewall, state, pins)
