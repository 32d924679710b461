# SPDX-License-Identifier: GPL-2.0-or-later
"""fail2ban reads a log and bans through its action: Debian's own configuration, with nothing but a jail.local added.

    client                            host
┌──────────────┐        ┌──────────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)                │
│  192.0.2.2   │        │  192.0.2.1                   │
│  192.0.2.3   │        │  2001:db8::1                 │
│  2001:db8::2 │        │  fail2ban, sshd on port 2222 │
└──────────────┘        └──────────────────────────────┘
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, CLIENT_V6, SECOND_V4, V4, V6, XDPFW, KnockHost, needs
from tests.topology import wait_for

CONFIGURATION = Path("/etc/fail2ban")
DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "fail2ban.md").read_text(encoding="utf-8")

PASS = policy(default="pass")
OWN_SET = policy(
    "{name: fail2ban, match: {src: '@fail2ban'}, action: drop}",
    default="pass",
    extra="sets:\n  fail2ban: {type: prefix, dynamic: true, size: 1000}\n",
)

_processes = itertools.count(1000)


@dataclass
class Fail2ban:
    """A server of its own: configuration, log, socket and data base are in ``directory``."""

    home: KnockHost
    directory: Path
    _running: ExitStack = field(default_factory=ExitStack)

    def configure(self, *, action: str = "xdpfw", bantime: str = "1h", more: str = "") -> None:
        program = self.directory / "xdpfw"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(XDPFW)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        text = self.home.firewall.command("bouncer", "fail2ban").stdout
        (self.directory / "action.d" / "xdpfw.conf").write_text(text, encoding="utf-8")
        name, _, parameters = action.partition("[")
        given = ", ".join(filter(None, (f'xdpfw="{program}"', parameters.removesuffix("]"))))
        (self.directory / "jail.local").write_text(
            f"[DEFAULT]\nbanaction = {name}[{given}]\nbackend = polling\n"
            f"[sshd]\nenabled = true\nlogpath = {self.log}\nmaxretry = 2\nbantime = {bantime}\n{more}",
            encoding="utf-8",
        )
        self.log.touch()

    @property
    def log(self) -> Path:
        return self.directory / "auth.log"

    @property
    def socket(self) -> Path:
        return self.directory / "fail2ban.sock"

    def start(self) -> None:
        command = (needs("fail2ban-server"), "-c", self.directory, "-f", "start")
        out = self._running.enter_context((self.directory / "out").open("a", encoding="utf-8"))
        self._running.enter_context(self.home.host.process(*command, stdout=out, stderr=out))
        wait_for(lambda: self.client("ping", status=None).returncode == 0, "fail2ban to answer")

    def stop(self) -> None:
        """As its service is stopped: jails end, and what they have banned is unbanned."""
        self.client("stop")
        self._running.close()

    def kill(self) -> None:
        self._running.close()
        self.socket.unlink(missing_ok=True)

    def client(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        program = needs("fail2ban-client")
        return self.home.host.run(program, "-c", self.directory, "-s", self.socket, *arguments, status=status)

    def attack(self, *sources: str) -> None:
        """What sshd writes of two failures of each source."""
        with self.log.open("a", encoding="utf-8") as log:
            for source in sources * 2:
                now = time.strftime("%b %e %T")
                words = f"Failed password for root from {source} port 40000 ssh2"
                log.write(f"{now} host sshd[{next(_processes)}]: {words}\n")

    def entries(self, name: str = "bans") -> dict[str, dict[str, Any]]:
        found = json.loads(self.home.firewall.command("set", "list", name, "--json").stdout)
        return {entry["prefix"]: entry for entry in found["entries"]}

    def is_answered(self, address: str = V4) -> bool:
        return self.home.client.run("ping", "-n", "-c", "1", "-W", "1", address, status=None).returncode == 0

    def said(self) -> str:
        return (self.directory / "fail2ban.log").read_text(encoding="utf-8")


@pytest.fixture
def fail2ban(knock_host: KnockHost, tmp_path: Path) -> Iterator[Fail2ban]:
    needs("fail2ban-server")
    directory = tmp_path / "fail2ban"
    shutil.copytree(CONFIGURATION, directory)
    shutil.rmtree(directory / "jail.d")
    (directory / "fail2ban.local").write_text(
        "[Definition]\n"
        + "".join(
            f"{name} = {directory / file}\n"
            for name, file in {
                "logtarget": "fail2ban.log",
                "socket": "fail2ban.sock",
                "pidfile": "fail2ban.pid",
                "dbfile": "fail2ban.sqlite3",
            }.items()
        ),
        encoding="utf-8",
    )
    made = Fail2ban(knock_host, directory)
    try:
        yield made
    finally:
        made.kill()


def test_a_log_leads_to_bans_and_fail2ban_ends_them(fail2ban: Fail2ban) -> None:
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure()
    fail2ban.start()
    assert fail2ban.is_answered(V4)
    fail2ban.attack(CLIENT_V4, CLIENT_V6)
    wait_for(lambda: not fail2ban.is_answered(V4) and not fail2ban.is_answered(V6), "both bans")
    assert fail2ban.entries().keys() == {CLIENT_V4, CLIENT_V6}
    assert all(3500 < entry["remaining_s"] <= 3600 for entry in fail2ban.entries().values())
    fail2ban.client("set", "sshd", "unbanip", CLIENT_V4)
    wait_for(lambda: fail2ban.is_answered(V4), "the end of the ban")
    assert not fail2ban.is_answered(V6)
    fail2ban.client("unban", "--all")
    wait_for(lambda: fail2ban.is_answered(V6), "the end of the other ban")
    assert fail2ban.home.firewall.reason("ban") >= 2
    assert "ERROR" not in fail2ban.said()


def test_bans_end_when_their_time_is_over(fail2ban: Fail2ban) -> None:
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure(bantime="4s")
    fail2ban.start()
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: not fail2ban.is_answered(), "the ban")
    wait_for(lambda: f"Unban {CLIENT_V4}" in fail2ban.said(), "its end")
    wait_for(fail2ban.is_answered, "an answer")
    assert "ERROR" not in fail2ban.said()


def test_the_kernel_ends_bans_that_fail2ban_cannot(fail2ban: Fail2ban) -> None:
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure(bantime="5s")
    fail2ban.start()
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: not fail2ban.is_answered(), "the ban")
    fail2ban.kill()
    wait_for(fail2ban.is_answered, "the time of the ban to be over")


def test_a_ban_for_good(fail2ban: Fail2ban) -> None:
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure(bantime="-1")
    fail2ban.start()
    fail2ban.client("set", "sshd", "banip", SECOND_V4)
    wait_for(fail2ban.entries, "the ban")
    assert fail2ban.entries()[SECOND_V4]["permanent"]


def test_fail2ban_bans_again_when_it_starts_again(fail2ban: Fail2ban) -> None:
    """It keeps its bans in a data base; a ban that is there already is one that it may make again."""
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure()
    fail2ban.start()
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: not fail2ban.is_answered(), "the ban")
    fail2ban.stop()
    assert fail2ban.is_answered()
    fail2ban.start()
    wait_for(lambda: not fail2ban.is_answered(), "the ban to be back")
    fail2ban.kill()
    assert not fail2ban.is_answered()
    fail2ban.start()
    wait_for(lambda: fail2ban.said().count("Restore Ban") == 2, "fail2ban to ban again")
    assert not fail2ban.is_answered()
    assert "ERROR" not in fail2ban.said()


def test_a_set_of_its_own(fail2ban: Fail2ban) -> None:
    fail2ban.home.firewall.apply(OWN_SET)
    fail2ban.home.firewall.command("ban", SECOND_V4)
    fail2ban.configure(action="xdpfw[set=fail2ban]")
    fail2ban.start()
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: not fail2ban.is_answered(), "the rule to drop")
    assert fail2ban.entries("fail2ban").keys() == {CLIENT_V4}
    assert fail2ban.entries().keys() == {SECOND_V4}
    fail2ban.stop()
    assert not fail2ban.entries("fail2ban")
    assert fail2ban.entries().keys() == {SECOND_V4}


def test_without_a_firewall_in_force_the_log_says_so(fail2ban: Fail2ban) -> None:
    """And the next failure bans, once there is one."""
    fail2ban.configure()
    fail2ban.start()
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: "has no firewall in force" in fail2ban.said(), "the reason in fail2ban's log")
    fail2ban.home.firewall.apply(PASS)
    fail2ban.attack(CLIENT_V4)
    wait_for(lambda: not fail2ban.is_answered(), "the ban")


def test_a_real_sshd(fail2ban: Fail2ban, tmp_path: Path) -> None:
    """A client that guesses users' names; as its log goes to a file, the time is put in front of each line."""
    sshd, ssh, keygen = needs("sshd"), needs("ssh"), needs("ssh-keygen")
    needs("unshare")
    host, client = fail2ban.home.host, fail2ban.home.client
    host.run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host")
    options = ("ListenAddress=0.0.0.0", f"HostKey={tmp_path / 'host'}", "PidFile=none", "UsePAM=no", "UseDNS=no")
    serve = shlex.join([sshd, "-D", "-e", "-p", "2222", "-f", os.devnull, *(f"-o{option}" for option in options)])
    stamp = f"while read -r line; do echo \"$(date '+%b %e %T') host sshd[1]: $line\" >>{fail2ban.log}; done"
    start = f"mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && {serve} 2>&1 | {stamp}"
    login = ("-F", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={os.devnull}")
    fail2ban.home.firewall.apply(PASS)
    fail2ban.configure()
    fail2ban.start()
    with host.process("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", start):
        wait_for(lambda: ":2222" in host.run("ss", "-ltnH").stdout, "sshd to listen")
        for name in ("alice", "bob"):
            client.run(ssh, *login, "-oConnectTimeout=5", "-p", "2222", f"{name}@{V4}", status=255)
        wait_for(lambda: not fail2ban.is_answered(), "the ban")
        done = client.run(ssh, *login, "-oConnectTimeout=1", "-p", "2222", f"carol@{V4}", status=255)
    assert "timed out" in done.stderr


def test_the_files_of_the_document(fail2ban: Fail2ban) -> None:
    """Each jail.local that it shows, with the action as the command prints it, in front of a policy that it shows."""
    policies = re.findall(r"(?ms)^```yaml\n(.*?)^```$", DOCUMENT)
    jails = re.findall(r"(?ms)^```ini\n# /etc/fail2ban/jail.local\n(.*?)^```$", DOCUMENT)
    assert len(policies) == len(jails) == 2
    log = f"logpath = {fail2ban.log}\nbackend = polling\n"
    for number, (text, jail) in enumerate(zip(policies, jails, strict=True), 1):
        fail2ban.home.firewall.apply(text.replace("eth0", "fw0").replace("192.0.2.0/24", "198.51.100.0/24"))
        fail2ban.configure()
        action = fail2ban.directory / "action.d" / "xdpfw.conf"
        printed = action.read_text(encoding="utf-8")
        action.write_text(printed.replace("\nxdpfw = xdpfw\n", f"\nxdpfw = {fail2ban.directory / 'xdpfw'}\n"))
        jail = jail.replace("192.0.2.0/24", "198.51.100.0/24").replace("backend = systemd\n", log)
        own = "" if "[sshd]" in jail else f"\n[sshd]\nenabled = true\n{log}"
        (fail2ban.directory / "jail.local").write_text(jail + own, encoding="utf-8")
        fail2ban.start()
        fail2ban.client("set", "sshd", "banip", CLIENT_V4)
        wait_for(lambda: not fail2ban.is_answered(), f"the ban of jail.local number {number}")
        fail2ban.client("unban", "--all")
        wait_for(fail2ban.is_answered, f"the end of the ban of jail.local number {number}")
        fail2ban.stop()
