# SPDX-License-Identifier: GPL-2.0-or-later
"""What xdpfw set, ban, unban and bans have in common: entries of dynamic sets, read and shown."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xdpfw.cli.app import App
from xdpfw.errors import UsageError

if TYPE_CHECKING:
    from xdpfw.kernel.members import Keys
    from xdpfw.kernel.pins import Pins
    from xdpfw.livesets import LiveSet

F = TypeVar("F", bound=Callable[..., Any])

BANS = "bans"
MOST_INDENTED = 1000
"""Entries that are listed in JSON on lines of their own: indented JSON takes several times as long to write."""

SHOWN_WARNINGS = 64
"""Entries of which it is looked up whether they have an effect."""

prefixes_argument = click.argument("prefixes", metavar="[PREFIX]...", nargs=-1)

file_option = click.option(
    "--file",
    "file",
    metavar="FILE",
    type=click.Path(readable=False, allow_dash=True),
    help='Read entries from FILE, one a line, as files of sets have them; "-" is standard input.',
)

timeout_option = click.option(
    "--timeout",
    metavar="DUR",
    help='How long they stay, as in 10m or 7d; "never": for good. By default what the policy has for the set.',
)

force_option = click.option(
    "--force", is_flag=True, help="Even if it bans the client of this SSH session, or everybody."
)


def read_entries(prefixes: tuple[str, ...], file: str | None) -> Keys:
    """Raises UsageError, PolicyError with a line where a file is wrong."""
    from xdpfw.livesets import parse_prefixes, read_prefixes

    if file is None:
        if not prefixes:
            raise UsageError("nothing says which entries", hint="a PREFIX or --file does")
        return parse_prefixes(prefixes)
    if prefixes:
        raise UsageError("a PREFIX and --file do not go together")
    return read_prefixes(_read(file), "standard input" if file == "-" else file)


def read_timeout(text: str | None) -> int | None:
    """In ns; 0: for good; None: as the set has it. Raises UsageError."""
    from xdpfw.policy.values import NotationError, duration_ns

    if text is None:
        return None
    if text == "never":
        return 0
    try:
        found = duration_ns(text)
    except NotationError as error:
        hint = '"never" keeps it for good' if text.isalpha() else error.hint
        raise UsageError(f"--timeout {error.message}", hint=hint) from None
    if not found:
        raise UsageError("--timeout 0: an entry without time", hint='"never" keeps it for good')
    return found


@contextlib.contextmanager
def changing(pins: Pins, name: str) -> Iterator[tuple[int, LiveSet]]:
    """The set, and the generation in force, while no other command changes anything."""
    from xdpfw.cli.inforce import check_in_force, read_in_force
    from xdpfw.livesets import LOCK_WAIT_S, opened

    check_in_force(pins)
    with pins.lock(LOCK_WAIT_S, gives_way=True):
        number, meta = read_in_force(pins)
        with opened(pins, number, meta, name) as found:
            yield number, found


def add(
    app: App, pins: Pins, name: str, prefixes: Keys, timeout_ns: int | None, *, as_json: bool, force: bool = False
) -> int:
    """Puts entries in, and says how many. Returns the exit status."""
    if name == BANS and not force:
        _check_everybody(prefixes)
    with changing(pins, name) as (number, found):
        if name == BANS and not force:
            _check_ssh_client(pins, number, prefixes)
        added = found.add(prefixes, timeout_ns)
        without_effect = _without_effect(pins, number, prefixes) if name == BANS else []
    if as_json:
        counts = {"added": added.new, "renewed": added.renewed, "refused": added.refused, "displaced": added.displaced}
        app.say_json({"set": name, **counts, "without_effect": without_effect})
    else:
        renewed = f", {counted(added.renewed)} renewed" if added.renewed else ""
        app.say(f"{name}: {counted(added.new)} added{renewed}")
    if added.displaced:
        app.complain(f"{name} is full: {counted(added.displaced)} that rules had put in made room")
    if added.refused:
        app.complain(
            f"{name} is full: no room for {counted(added.refused)} (a larger size in the policy: sets: "
            f"{{{name}: {{type: prefix, dynamic: true, size: N}}}})"
        )
    for text in without_effect:
        app.complain(f"{text}: the policy's never_ban has it, so that this ban has no effect")
    return 1 if added.refused else 0


def delete(app: App, pins: Pins, name: str, prefixes: Keys, *, as_json: bool) -> int:
    """Takes entries out. Exit status 1 where none of them was there."""
    with changing(pins, name) as (_, found):
        deleted = found.delete(prefixes)
    if as_json:
        app.say_json({"set": name, "deleted": deleted.deleted, "missing": deleted.missing})
    else:
        missing = f", {counted(deleted.missing)} not there" if deleted.missing else ""
        app.say(f"{name}: {counted(deleted.deleted)} deleted{missing}")
    return 1 if deleted.missing and not deleted.deleted else 0


def show(app: App, pins: Pins, name: str, *, as_json: bool) -> None:
    """Lists the entries of a set."""
    from xdpfw.cli.inforce import read_in_force
    from xdpfw.cli.output import Column, print_table, span_text, time_text
    from xdpfw.kernel.state import NS_PER_S, boot_ns
    from xdpfw.livesets import opened
    from xdpfw.observe.events import rfc3339

    number, meta = read_in_force(pins)
    with opened(pins, number, meta, name) as found:
        entries, refused = found.entries(), found.refused
        size, timeout_ns = found.meta.size, found.meta.timeout_ns
    now_ns = boot_ns()
    wall_ns = time.time_ns() - now_ns
    if as_json:
        app.say_json(
            {
                "set": name,
                "size": size,
                "timeout_s": None if timeout_ns is None else timeout_ns / NS_PER_S,
                "refused": refused,
                "entries": [
                    {
                        "prefix": str(entry),
                        "since": rfc3339(entry.added_ns + wall_ns),
                        "until": None if entry.until_ns is None else rfc3339(entry.until_ns + wall_ns),
                        "remaining_s": None if entry.until_ns is None else max(entry.until_ns - now_ns, 0) / NS_PER_S,
                        "permanent": entry.until_ns is None,
                        "by": "rule" if entry.by_rule else "command",
                    }
                    for entry in entries
                ],
            },
            one_line=len(entries) > MOST_INDENTED,
        )
        return
    if not entries:
        app.say(f"{name} is empty")
        return
    rows = [
        (
            str(entry),
            time_text(entry.added_ns + wall_ns),
            "-" if entry.until_ns is None else time_text(entry.until_ns + wall_ns),
            "for good" if entry.until_ns is None else span_text(max(entry.until_ns - now_ns, 0)),
            "rule" if entry.by_rule else "command",
        )
        for entry in entries
    ]
    columns = [Column("prefix"), Column("since"), Column("until"), Column("remaining", is_number=True), Column("by")]
    print_table(app, columns, rows)


def counted(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _without_effect(pins: Pins, number: int, prefixes: Keys) -> list[str]:
    from xdpfw.kernel.members import prefixes_of
    from xdpfw.livesets import never_banned
    from xdpfw.observe.names import prefix_text

    if len(prefixes) > SHOWN_WARNINGS:
        return []
    return [prefix_text(*prefix) for prefix in never_banned(pins, number, prefixes_of(prefixes))]


def _check_everybody(prefixes: Keys) -> None:
    """Raises UsageError for a ban of all addresses of a family."""
    from xdpfw.kernel.members import prefixes_of
    from xdpfw.observe.names import prefix_text

    for prefix in prefixes_of(prefixes[prefixes["prefix_bits"] == 0]):
        raise UsageError(
            f"{prefix_text(*prefix)} would ban every address of its family", hint="--force bans it all the same"
        )


def _check_ssh_client(pins: Pins, number: int, prefixes: Keys) -> None:
    """Raises UsageError where the ban would end the session that asks for it, if the environment tells of one."""
    from xdpfw.kernel.members import covers, prefixes_of
    from xdpfw.livesets import never_banned_at_all, parse_prefixes

    client = os.environ.get("SSH_CONNECTION", "").partition(" ")[0].partition("%")[0]
    own = []
    with contextlib.suppress(UsageError):
        own = prefixes_of(parse_prefixes([client]))
    if any(covers(prefixes, each) and not never_banned_at_all(pins, number, each) for each in own):
        raise UsageError(
            f"this would ban {client}, where this SSH session comes from", hint="--force bans it all the same"
        )


def _read(file: str) -> str:
    from xdpfw.regularfile import regular

    try:
        if file == "-":
            return sys.stdin.buffer.read().decode()
        with open(file, "rb", opener=regular) as opened:
            return opened.read().decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: byte {error.start + 1} is no UTF-8") from None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
