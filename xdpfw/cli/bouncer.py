# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw bouncer: bans that other programs decide."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, instance_options, json_option
from xdpfw.cli.output import NS_PER_S, count_text

if TYPE_CHECKING:
    from xdpfw.integrations.bouncer import Bouncer, Report

DEFAULT_URL: Final = "http://127.0.0.1:8080"
DEFAULT_INTERVAL: Final = "10s"
OWN_SET: Final = "crowdsec"
LONGEST_WAIT_S: Final = 60.0


@click.group(
    short_help="Ban whom CrowdSec or fail2ban decide to ban.",
    epilog=examples(
        "xdpfw bouncer crowdsec --key-file /etc/xdpfw/crowdsec.key",
        "xdpfw bouncer fail2ban > /etc/fail2ban/action.d/xdpfw.conf",
    ),
)
def command() -> None:
    """Ban whom other programs decide to ban. Each of them has --json, of a shape that its --help tells."""


@command.command(
    short_help="Keep a set to the decisions of a CrowdSec local API.",
    epilog=examples(
        "cscli bouncers add xdpfw -o raw > /etc/xdpfw/crowdsec.key",
        "xdpfw bouncer crowdsec --key-file /etc/xdpfw/crowdsec.key",
        "xdpfw bouncer crowdsec --url https://lapi.example.net:8080 --ca-file ca.pem --key-file crowdsec.key --once",
    ),
)
@click.option("--url", metavar="URL", default=DEFAULT_URL, help=f"The local API; by default {DEFAULT_URL}.")
@click.option(
    "--key-file", metavar="FILE", type=click.Path(readable=False), required=True, help="With the bouncer's key."
)
@click.option("--ca-file", metavar="FILE", type=click.Path(readable=False), help="For https: whom to trust, in PEM.")
@click.option("--interval", metavar="DUR", default=DEFAULT_INTERVAL, help=f"Between two questions: {DEFAULT_INTERVAL}.")
@click.option("--set", "name", metavar="NAME", help=f'By default "{OWN_SET}" where the policy has it, else the bans.')
@click.option("--once", is_flag=True, help="Ask for all decisions, do what they say, and end.")
@instance_options
@json_option
@click.pass_obj
def crowdsec(
    app: App,
    url: str,
    key_file: str,
    ca_file: str | None,
    interval: str,
    name: str | None,
    once: bool,
    netns: str | None,
    instance: str | None,
    as_json: bool,
) -> None:
    """Keep a dynamic set to the ban decisions of a CrowdSec local API, until SIGTERM or Ctrl-C.

    Each entry ends by itself when its decision does, whatever becomes of this command or of the API. A set other than
    the bans is the bouncer's alone: what else is in it is taken out. Among the bans, those of others stay as they are.

    JSON: one object a line, {"time", "set", "all", "decisions", "added", "deleted", "refused", "left"}.
    """
    from xdpfw.cli.inforce import read_in_force
    from xdpfw.integrations.bouncer import Bouncer
    from xdpfw.integrations.crowdsec import LocalApi
    from xdpfw.integrations.members import LiveMembers
    from xdpfw.kernel.state import boot_ns

    every_s = _interval_s(interval)
    api = LocalApi(url, _read_key(app, key_file), ca_file=ca_file)
    if api.sends_key_in_the_clear:
        app.complain(f"xdpfw: {url} is neither https nor this host: others on the way can read the key and forge bans")
    pins = app.pins(instance, netns)
    members = LiveMembers(pins, partial(read_in_force, pins), name, preferred=OWN_SET)
    bouncer = Bouncer(api, members, members.is_sole, boot_ns)
    if once:
        _tell(app, members.name, bouncer.round(), as_json)
        return
    try:
        _run(app, bouncer, members.name, every_s, as_json)
    except KeyboardInterrupt:
        return  # that is how it is ended


@command.command(
    "fail2ban",
    short_help="Print an action for fail2ban.",
    epilog=examples("xdpfw bouncer fail2ban > /etc/fail2ban/action.d/xdpfw.conf"),
)
@instance_options
@json_option
@click.pass_obj
def fail2ban(app: App, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Print a file for fail2ban's action.d, by which its jails ban and unban through this command.

    With --netns or --instance, in that firewall.

    JSON: {"action"} with the file's text.
    """
    from xdpfw.integrations.fail2ban import action

    given = (("--netns", netns), ("--instance", instance))
    text = action(sys.argv[0], [word for option, name in given if name is not None for word in (option, name)])
    if as_json:
        app.say_json({"action": text})
    else:
        app.stdout.write(text)


def _interval_s(text: str) -> float:
    from xdpfw.errors import UsageError
    from xdpfw.policy.values import NotationError, duration_between

    try:
        return duration_between(text, "1s", "1h") / NS_PER_S
    except NotationError as error:
        raise UsageError(f"--interval {error.message}", hint=error.hint) from None


def _read_key(app: App, path: str) -> str:
    from xdpfw.knock import keyfiles

    text = keyfiles.read(Path(path))
    if keyfiles.is_open_to_others(Path(path)):
        app.complain(f"xdpfw: others than its owner may read or write {path} (chmod 600 {path})")
    return text.strip()


def _run(app: App, bouncer: Bouncer, name: str, every_s: float, as_json: bool) -> None:
    """Until something that waiting does not mend. An API or a firewall that is gone for a while is waited for."""
    from xdpfw.cli.inforce import NothingInForceError
    from xdpfw.integrations.crowdsec import ApiUnreachableError

    is_first = True
    failures = 0
    while True:
        try:
            report = bouncer.round()
        except (ApiUnreachableError, NothingInForceError) as error:
            if is_first and isinstance(error, NothingInForceError):
                raise
            if not failures:
                app.complain(f"xdpfw: {error}; asking again, and entries stay until their times are over")
            failures += 1
        else:
            if failures:
                app.complain(f"xdpfw: it answers again, after {count_text(failures, 'failure')}")
            if is_first or report.is_change:
                _tell(app, name, report, as_json)
            is_first, failures = False, 0
        app.sleep(min(every_s * 2 ** min(failures, 16), max(every_s, LONGEST_WAIT_S)))


def _tell(app: App, name: str, report: Report, as_json: bool) -> None:
    if as_json:
        from xdpfw.observe.events import rfc3339

        told = {"time": rfc3339(int(app.clock() * NS_PER_S)), "set": name, **report.to_json()}
        app.say_json(told, one_line=True)
    else:
        app.say(_line(name, report))
    app.stdout.flush()


def _line(name: str, report: Report) -> str:
    """``set crowdsec: 812 added, 3 taken out; left: 4 (type captcha)``."""
    parts = [f"set {name}: {report.added} added, {report.deleted} taken out"]
    if report.refused:
        parts.append(f"no room for {report.refused}: the set is full, and its size is the policy's to say")
    if report.left:
        parts.append("left: " + ", ".join(f"{count} ({why})" for why, count in sorted(report.left.items())))
    return "; ".join(parts)
