# SPDX-License-Identifier: GPL-2.0-or-later
"""CrowdSec's own local API decides, and the firewall drops: its daemon, cscli and the bouncer, in the host's namespace.

    client                            host
┌──────────────┐        ┌────────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)              │
│  192.0.2.2   │        │  192.0.2.1                 │
│  2001:db8::2 │        │  2001:db8::1               │
└──────────────┘        │  crowdsec on 127.0.0.1:8080│
                        └────────────────────────────┘
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, CLIENT_V6, V4, V6, XDPFW, KnockHost, needs
from tests.topology import wait_for

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "crowdsec.md").read_text(encoding="utf-8")

PASS = policy(default="pass")
OWN_SET = policy(
    "{name: crowdsec, match: {src: '@crowdsec'}, action: drop}",
    default="pass",
    extra="sets:\n  crowdsec: {type: prefix, dynamic: true, size: 1000}\n",
)

CONFIGURATION = """\
common: {{daemonize: false, log_media: stdout, log_level: info, working_dir: .}}
config_paths:
  config_dir: {directory}
  data_dir: {directory}
  simulation_path: {directory}/simulation.yaml
  hub_dir: {directory}
  index_path: {directory}/.index.json
crowdsec_service: {{acquisition_path: {directory}/acquis.yaml}}
cscli: {{output: human}}
db_config: {{type: sqlite, db_path: {directory}/crowdsec.db, use_wal: true}}
api:
  client: {{credentials_path: {directory}/client.yaml}}
  server:
    listen_uri: 127.0.0.1:8080
    profiles_path: {directory}/profiles.yaml
    console_path: {directory}/console.yaml
prometheus: {{enabled: false}}
"""


@dataclass
class CrowdSec:
    """The local API alone: it reads no logs, has nothing of the hub, and knows no central API."""

    home: KnockHost
    directory: Path
    key_file: Path
    _running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        log = self._running.enter_context((self.directory / "log").open("a", encoding="utf-8"))
        command = (needs("crowdsec"), "-c", self.directory / "config.yaml", "-no-cs")
        self._running.enter_context(self.home.host.process(*command, stdout=log, stderr=log))
        wait_for(lambda: ":8080" in self.home.host.run("ss", "-ltnH").stdout, "crowdsec to listen")

    def stop(self) -> None:
        self._running.close()

    def cscli(self, *arguments: str | Path) -> str:
        return self.home.host.run(needs("cscli"), "-c", self.directory / "config.yaml", *arguments).stdout

    def bouncer(self, *options: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """``xdpfw bouncer crowdsec --once``."""
        return self.home.host.run(*self.command("--once", *options), status=status)

    def command(self, *options: str | Path) -> list[str | Path]:
        instance = ("--instance", self.home.firewall.instance)
        return [*XDPFW, "bouncer", "crowdsec", "--key-file", self.key_file, *instance, *options]

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """The bouncer, asking once a second; what it says is in the files ``out`` and ``err``."""
        out, err = ((self.directory / name).open("w", encoding="utf-8") for name in ("out", "err"))
        with out, err:
            command = self.command("--interval", "1s", *options)
            with self.home.host.process(*command, stdout=out, stderr=err) as process:
                yield process

    def said(self, name: str = "out") -> str:
        return (self.directory / name).read_text(encoding="utf-8")

    def entries(self, name: str = "bans") -> list[dict[str, Any]]:
        found: dict[str, Any] = json.loads(self.home.firewall.command("set", "list", name, "--json").stdout)
        return list(found["entries"])

    def banned(self, name: str = "bans") -> set[str]:
        return {entry["prefix"] for entry in self.entries(name)}

    def is_answered(self, address: str = V4) -> bool:
        """Whether the client's ping gets through. One that the firewall drops is lost for certain."""
        return self.home.client.run("ping", "-n", "-c", "1", "-W", "1", address, status=None).returncode == 0


@pytest.fixture
def crowdsec(knock_host: KnockHost, tmp_path: Path) -> Iterator[CrowdSec]:
    directory = tmp_path / "crowdsec"
    directory.mkdir()
    for name, text in {
        "config.yaml": CONFIGURATION.format(directory=directory),
        "profiles.yaml": "name: none\nfilters: ['false']\ndecisions: [{type: ban, duration: 4h}]\non_success: break\n",
        "simulation.yaml": "simulation: false\n",
        "client.yaml": "url: http://127.0.0.1:8080/\nlogin: host\npassword: a-password\n",
        "acquis.yaml": "",
    }.items():
        (directory / name).write_text(text, encoding="utf-8")
    made = CrowdSec(knock_host, directory, tmp_path / "crowdsec.key")
    made.cscli("machines", "add", "host", "--password", "a-password", "--file", directory / "client.yaml", "--force")
    made.key_file.touch(mode=0o600)
    made.key_file.write_text(made.cscli("bouncers", "add", "xdpfw", "-o", "raw"), encoding="utf-8")
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("text", [PASS, OWN_SET], ids=["bans", "own set"])
def test_decisions_are_enforced_while_they_are_in_force(crowdsec: CrowdSec, text: str) -> None:
    """An address, and the range of another family, each until it is deleted."""
    crowdsec.home.firewall.apply(text)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    with crowdsec.running() as bouncer:
        wait_for(lambda: not crowdsec.is_answered(V4), "the address to be dropped")
        assert crowdsec.is_answered(V6)
        crowdsec.cscli("decisions", "add", "--range", "2001:db8::/64", "--duration", "1h")
        wait_for(lambda: not crowdsec.is_answered(V6), "the range to be dropped")
        crowdsec.cscli("decisions", "delete", "--ip", CLIENT_V4)
        wait_for(lambda: crowdsec.is_answered(V4), "the address to be free")
        crowdsec.cscli("decisions", "delete", "--range", "2001:db8::/64")
        wait_for(lambda: crowdsec.is_answered(V6), "the range to be free")
        bouncer.send_signal(signal.SIGTERM)
        assert bouncer.wait(15) == 0
    assert crowdsec.said("err") == ""
    reason = crowdsec.home.firewall.reason("ban") if text == PASS else crowdsec.home.firewall.rule("crowdsec")
    assert reason >= 2
    assert "xdpfw" in crowdsec.cscli("bouncers", "list")


def test_a_decision_ends_though_nobody_is_left_to_end_it(crowdsec: CrowdSec) -> None:
    crowdsec.home.firewall.apply(PASS)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "4s")
    crowdsec.bouncer()
    assert not crowdsec.is_answered()
    crowdsec.stop()
    wait_for(crowdsec.is_answered, "the time of the ban to be over")


def test_only_bans_of_addresses_are_taken(crowdsec: CrowdSec) -> None:
    crowdsec.home.firewall.apply(PASS)
    crowdsec.cscli("decisions", "add", "--ip", "198.51.100.7", "--type", "captcha")
    crowdsec.cscli("decisions", "add", "--range", "0.0.0.0/0")
    crowdsec.cscli("decisions", "add", "--scope", "country", "--value", "NL")
    crowdsec.cscli("decisions", "add", "--range", "198.51.100.9/24", "--duration", "1h")
    told = json.loads(crowdsec.bouncer("--json").stdout)
    assert told["left"] == {"type captcha": 1, "every address": 1}
    assert crowdsec.banned() == {"198.51.100.0/24"}
    assert crowdsec.is_answered()


def test_an_api_that_is_down_is_waited_for(crowdsec: CrowdSec) -> None:
    """Bans stay, it is told once, and what was decided meanwhile comes."""
    crowdsec.home.firewall.apply(PASS)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    with crowdsec.running():
        wait_for(lambda: not crowdsec.is_answered(V4), "the ban")
        crowdsec.stop()
        wait_for(lambda: "asking again" in crowdsec.said("err"), "the bouncer to miss its API")
        assert not crowdsec.is_answered(V4)
        crowdsec.start()
        crowdsec.cscli("decisions", "add", "--ip", CLIENT_V6, "--duration", "1h")
        crowdsec.cscli("decisions", "delete", "--ip", CLIENT_V4)
        wait_for(lambda: crowdsec.is_answered(V4) and not crowdsec.is_answered(V6), "what was decided meanwhile")
    assert len(crowdsec.said("err").splitlines()) == 2


def test_a_wrong_key_is_an_error(crowdsec: CrowdSec) -> None:
    crowdsec.home.firewall.apply(PASS)
    crowdsec.key_file.write_text("wrong\n", encoding="utf-8")
    done = crowdsec.bouncer(status=3)
    assert "cscli bouncers add" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_that_is_taken_back_ends_the_bouncer_and_no_ban(crowdsec: CrowdSec) -> None:
    crowdsec.home.firewall.apply(PASS)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    with crowdsec.running() as bouncer:
        wait_for(lambda: not crowdsec.is_answered(), "the ban")
        crowdsec.cscli("bouncers", "delete", "xdpfw")
        assert bouncer.wait(15) == 3
    assert not crowdsec.is_answered()


def test_what_others_banned_stays(crowdsec: CrowdSec) -> None:
    firewall = crowdsec.home.firewall
    firewall.apply(PASS)
    firewall.command("ban", CLIENT_V4)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V6, "--duration", "1h")
    with crowdsec.running():
        wait_for(lambda: not crowdsec.is_answered(V6), "the ban")
        crowdsec.cscli("decisions", "delete", "--all")
        wait_for(lambda: crowdsec.is_answered(V6), "the end of the ban")
    assert crowdsec.banned() == {CLIENT_V4}
    assert not crowdsec.is_answered(V4)


def test_its_own_set_is_put_right_at_the_start(crowdsec: CrowdSec) -> None:
    """What an earlier bouncer left, and was taken back while none ran."""
    firewall = crowdsec.home.firewall
    firewall.apply(OWN_SET)
    firewall.command("set", "add", "crowdsec", "198.51.100.1")
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    crowdsec.bouncer()
    assert crowdsec.banned("crowdsec") == {CLIENT_V4}


def test_decisions_outlive_a_new_policy_and_come_back_after_detach(crowdsec: CrowdSec) -> None:
    firewall = crowdsec.home.firewall
    firewall.apply(OWN_SET)
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    with crowdsec.running():
        wait_for(lambda: not crowdsec.is_answered(), "the ban")
        firewall.apply(OWN_SET + "  - {name: more, match: {proto: gre}, action: drop}\n")
        assert not crowdsec.is_answered()
        firewall.detach()
        assert crowdsec.is_answered()
        wait_for(lambda: "has no firewall in force" in crowdsec.said("err"), "the bouncer to miss the firewall")
        firewall.apply(OWN_SET)
        wait_for(lambda: not crowdsec.is_answered(), "the ban to be back")


def test_a_full_set_is_told(crowdsec: CrowdSec) -> None:
    crowdsec.home.firewall.apply(OWN_SET.replace("1000", "2"))
    for number in range(3):
        crowdsec.cscli("decisions", "add", "--ip", f"198.51.100.{number}", "--duration", "1h")
    told = json.loads(crowdsec.bouncer("--json").stdout)
    assert (told["added"], told["refused"]) == (2, 1)
    assert len(crowdsec.entries("crowdsec")) == 2


def test_thousands_of_decisions(crowdsec: CrowdSec, tmp_path: Path) -> None:
    addresses = [f"10.{number >> 8}.{number & 255}.1" for number in range(5000)]
    csv = tmp_path / "decisions.csv"
    csv.write_text("duration,scope,value\n" + "".join(f"4h,ip,{each}\n" for each in addresses), encoding="utf-8")
    crowdsec.cscli("decisions", "import", "-i", csv)
    crowdsec.home.firewall.apply(PASS)
    assert json.loads(crowdsec.bouncer("--json").stdout)["added"] == 5000
    assert crowdsec.banned() == {*addresses}


def test_the_policy_of_the_document(crowdsec: CrowdSec) -> None:
    (text,) = re.findall(r"(?ms)^```yaml\n(version.*?)^```$", DOCUMENT)
    crowdsec.home.firewall.apply(text.replace("eth0", "fw0"))
    crowdsec.cscli("decisions", "add", "--ip", CLIENT_V4, "--duration", "1h")
    crowdsec.bouncer()
    assert crowdsec.banned("crowdsec") == {CLIENT_V4}
    assert not crowdsec.is_answered(V4)
    assert crowdsec.is_answered(V6)


def test_the_unit_of_the_document_has_all_capabilities_that_it_takes(crowdsec: CrowdSec) -> None:
    """And none that it does not."""
    setpriv = needs("setpriv")
    (text,) = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", DOCUMENT)
    capabilities = text.replace("CAP_", "").lower().split()
    crowdsec.home.firewall.apply(PASS)

    def run(left: list[str], status: int | None) -> int:
        bounds = ",".join(["-all", *(f"+{name}" for name in left)])
        command = (setpriv, "--no-new-privs", "--bounding-set", bounds, "--", *crowdsec.command("--once"))
        return crowdsec.home.host.run(*command, status=status).returncode

    for address in (CLIENT_V4, CLIENT_V6):
        crowdsec.cscli("decisions", "add", "--ip", address, "--duration", "1h")
    for name in capabilities:
        assert run([each for each in capabilities if each != name], None) == 3, name
    run(capabilities, 0)
    crowdsec.cscli("decisions", "delete", "--all")
    run(capabilities, 0)
    assert len(crowdsec.banned()) == 2
