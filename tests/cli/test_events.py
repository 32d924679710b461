# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""xdpfw events, from rings that are written by hand."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import knocking as setting
from tests.cli.conftest import Ran, Run
from tests.cli.imports import SLOW_IMPORTS, imported
from tests.cli.knocking import ADMIN, NS, SSH, Knocking
from tests.cli.test_command_line import ENTRY
from tests.cli.test_in_force import Firewall, applied, firewall  # noqa: F401
from xdpfw.kernel import abi
from xdpfw.kernel.pins import remove_tree
from xdpfw.kernel.state import boot_ns
from xdpfw.observe.events import EventKind

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")


ONLY_COUNTED = "above the limit a second %s only counted, over all the time that is known\n"


@pytest.fixture
def knocking(firewall: Firewall, applied: Path) -> Iterator[Knocking]:
    yield from setting.knocking(firewall)


def json_lines(ran: Ran) -> list[dict[str, object]]:
    return [json.loads(line) for line in ran.lines]


def script(*steps: Callable[[], object]) -> Callable[[float], None]:
    """What happens while a command sleeps: one step each time, and Ctrl-C behind the last."""
    waiting = iter(steps)

    def sleep(_: float) -> None:
        step = next(waiting, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    return sleep


def test_events_are_one_line_each(knocking: Knocking) -> None:
    where = {"destination": 0xCB007101, "sport": 40000, "dport": 9000, "interface": 0}
    knocking.record(abi.EventKind.EVENT_STEP, knock=SSH.id, step=1, steps=3, **where)
    knocking.record(abi.EventKind.EVENT_RESET, ago_s=0.9, knock=SSH.id, step=1, steps=3, suppressed=2, **where)
    knocking.record(
        abi.EventKind.EVENT_GRANT, ago_s=0.8, knock=ADMIN.id, key_number=1, duration_ns=NS // 2, prefix_bits=32
    )
    knocking.record(abi.EventKind.EVENT_GRANT_REFUSED, ago_s=0.2, knock=SSH.id, prefix_bits=24)
    knocking.record(
        abi.EventKind.EVENT_SPA_FAILURE, ago_s=0.15, detail=int(abi.Reason.KNOCK_SPA_UNKNOWN_KEY), protocol=17, **where
    )
    knocking.record(abi.EventKind.EVENT_RULE, ago_s=0.1, rule=1, detail=int(abi.Verdict.PASS), protocol=1, interface=0)
    ran = knocking("events")
    lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?", "TIME", line) for line in ran.lines]
    packet = "40000 > 203.0.113.1:9000 on veth0, 74 bytes"
    assert lines == [
        f"TIME  knock-step     198.51.100.7  ssh: step 1 of 3, tcp {packet}",
        f"TIME  knock-reset    198.51.100.7  ssh: given up behind step 1 of 3, tcp {packet} "
        "(2 more before were only counted)",
        "TIME  grant          198.51.100.7  admin: 8443/tcp until TIME, key laptop",
        "TIME  grant-end      198.51.100.7  admin: 8443/tcp expired",
        "TIME  grant-refused  198.51.100.0/24  ssh: no room for 22/tcp, 443/tcp",
        f"TIME  spa-failure    198.51.100.7  unknown key, udp {packet}",
        "TIME  rule           198.51.100.7  web: pass, icmp to 0.0.0.0 on veth0, 74 bytes",
    ]
    assert (ran.status, ran.err) == (0, f"knock-reset: 2 events {ONLY_COUNTED % 'were'}")


def test_help_and_documentation_have_every_kind(run: Run) -> None:
    told = re.sub(r"-\s+", "-", run("events", "--help").out)  # wrapped at hyphens, too
    documented = (Path(__file__).parents[2] / "docs" / "commands.md").read_text().partition("\n## events")[2]
    for kind in EventKind:
        assert re.search(rf"\b{kind}\b", told.partition("Kinds are")[2]), kind
        assert f"`{kind}`" in documented


def test_json_is_one_object_a_line(knocking: Knocking) -> None:
    knocking.record(abi.EventKind.EVENT_STEP, knock=SSH.id, step=1, steps=3, dport=7000, interface=0)
    ran = knocking("events", "--json")
    (event,) = json_lines(ran)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(event["time"]))
    assert (event["event"], event["knock"], event["dport"], "until" in event) == ("knock-step", "ssh", 7000, False)


def test_since_leaves_out_what_is_older(knocking: Knocking) -> None:
    uptime_s = boot_ns() // NS
    knocking.record(abi.EventKind.EVENT_STEP, ago_s=uptime_s, suppressed=3)
    knocking.record(abi.EventKind.EVENT_RESET, ago_s=0)
    ran = knocking("events", "--json", "--since", f"{uptime_s // 2}s")
    assert [event["event"] for event in json_lines(ran)] == ["knock-reset"]
    assert ran.err == ""
    ran = knocking("events", "--since", "10")
    assert (ran.status, ran.err) == (
        2,
        "xdpfw: --since 10 is not a duration such as 500ms, 30s, 10m, 2h or 7d (write 10s for seconds)\n",
    )


def test_what_no_event_tells_of_is_told_at_the_end(knocking: Knocking) -> None:
    limit = abi.pack("event_limit", {"suppressed": 1})
    knocking.state.event_limits.write(int(abi.EventKind.EVENT_SPA_FAILURE), limit)
    ran = knocking("events", "--json")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == f"spa-failure: 1 event {ONLY_COUNTED % 'was'}"
    assert knocking("events", "--since", "1h").err == ""


def test_follow_goes_on_until_it_is_interrupted(knocking: Knocking) -> None:
    knocking.record(abi.EventKind.EVENT_STEP)
    sleep = script(
        lambda: knocking.record(abi.EventKind.EVENT_RESET),
        lambda: None,
        # So young that it is not settled yet; it is told all the same before the end.
        lambda: knocking.record(abi.EventKind.EVENT_RULE, ago_s=0, rule=1, detail=1),
    )
    ran = knocking("events", "--follow", "--json", sleep=sleep)
    assert [event["event"] for event in json_lines(ran)] == ["knock-step", "knock-reset", "rule"]
    assert (ran.status, ran.err) == (0, "")


def test_follow_says_what_was_lost(knocking: Knocking) -> None:
    def flood() -> None:
        for _ in range(abi.Limit.EVENT_SLOTS + 2):
            knocking.record(abi.EventKind.EVENT_RULE, rule=0)

    ran = knocking("events", "--follow", "--json", sleep=script(flood))
    events = json_lines(ran)
    assert (len(events), events[0]["event"], events[0]["lost"]) == (abi.Limit.EVENT_SLOTS + 1, "lost", 2)
    assert ran.err == "2 events were overwritten before they were read\n"


def test_follow_ends_with_the_firewall(knocking: Knocking, firewall: Firewall) -> None:
    def detach() -> None:
        knocking.record(abi.EventKind.EVENT_STEP)
        assert firewall("detach").status == 0

    ran = knocking("events", "--follow", "--json", sleep=script(detach))
    assert [event["event"] for event in json_lines(ran)] == ["knock-step"]
    assert (ran.status, ran.err) == (0, "the firewall was detached\n")


def test_follow_goes_on_with_the_state_of_another_policy(knocking: Knocking, firewall: Firewall) -> None:
    """As when another version of xdpfw makes it anew."""
    found: list[Iterator[Knocking]] = []

    def without() -> None:
        knocking.record(abi.EventKind.EVENT_STEP)
        remove_tree(knocking.pins.state)

    def again() -> None:
        found.append(setting.knocking(firewall))
        next(found[0]).record(abi.EventKind.EVENT_RESET)

    steps = (without, lambda: None, again, lambda: None)
    ran = knocking("events", "--follow", "--json", sleep=script(*steps))
    assert [event["event"] for event in json_lines(ran)] == ["knock-step", "knock-reset"]
    assert (ran.status, ran.err) == (0, "")
    next(found[0], None)


@pytest.mark.parametrize("option", [[], ["--follow"]])
def test_where_nothing_is_in_force_there_are_no_events(firewall: Firewall, option: list[str]) -> None:
    ran = firewall("events", *option)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"xdpfw: instance {firewall.instance} has no firewall in force (xdpfw apply RULES)\n"


@pytest.fixture
def follower(knocking: Knocking) -> Iterator[subprocess.Popen[bytes]]:
    """A process that follows, and has told one event."""
    knocking.record(abi.EventKind.EVENT_STEP)
    arguments = ["events", "--follow", "--json", "--instance", knocking.firewall.instance]
    process = subprocess.Popen([*ENTRY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["event"] == "knock-step"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_it_cleanly(follower: subprocess.Popen[bytes], number: signal.Signals) -> None:
    follower.send_signal(number)
    assert (follower.communicate(timeout=30), follower.returncode) == ((b"", b""), 0)


def test_it_ends_with_its_reader(knocking: Knocking, follower: subprocess.Popen[bytes]) -> None:
    assert follower.stdout
    assert follower.stderr
    follower.stdout.close()
    knocking.record(abi.EventKind.EVENT_RESET)
    assert (follower.wait(timeout=30), follower.stderr.read()) == (141, b"")


def test_several_follow_at_once(knocking: Knocking, follower: subprocess.Popen[bytes]) -> None:
    knocking.record(abi.EventKind.EVENT_RESET)
    ran = knocking("events", "--follow", "--json", sleep=script())
    assert [event["event"] for event in json_lines(ran)] == ["knock-step", "knock-reset"]
    assert follower.stdout
    assert json.loads(follower.stdout.readline())["event"] == "knock-reset"


@pytest.mark.parametrize("command", ["events", "grants"])
def test_quick_commands_import_nothing_slow(knocking: Knocking, command: str) -> None:
    assert not imported(command, "--instance", knocking.firewall.instance) & SLOW_IMPORTS
