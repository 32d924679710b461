# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line. Each command is a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
import keyword
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from xdpfw.cli.app import App
from xdpfw.errors import PolicyError, XdpfwError

COMMANDS: Final = (
    "check",
    "explain",
    "test",
    "replay",
    "plan",
    "apply",
    "status",
    "stats",
    "grants",
    "flows",
    "ban",
    "unban",
    "bans",
    "set",
    "events",
    "bouncer",
    "detach",
    "knock",
    "keygen",
    "import",
    "doctor",
    "demo",
)
"""In the order of ``--help``; ``xdpfw.cli.NAME.command`` each, with ``_`` behind a NAME that is a keyword.

A command returns its exit status, None for 0.
"""

INTERNAL_ERROR: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE

_EPILOG: Final = """\b
Exit status:
  0  done
  1  the answer is no: a test failed, a rule is never reached, nothing is in force
  2  the input is wrong
  3  the system refused

\b
Shell completion, for bash (zsh and fish likewise):
  eval "$(_XDPFW_COMPLETE=bash_source xdpfw)"
"""


class CommandLine(click.Group):
    """Imports commands lazily, and turns what they raise into messages and exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        found = importlib.import_module(f"xdpfw.cli.{module}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            from xdpfw.policy.names import nearest

            if near := nearest(args[0], COMMANDS):
                ctx.fail(f"No such command '{args[0]}'. Did you mean {near}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        app: App = ctx.obj or App.from_environment()
        ctx.obj = app
        ctx.exit(self._status(ctx, app))

    def _status(self, ctx: click.Context, app: App) -> int:
        try:
            status = super().invoke(ctx)
            app.stdout.flush()
            return status or 0
        except XdpfwError as error:
            for line in messages(error):
                app.complain(line)
            return error.exit_status
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read has gone. What is still buffered must not raise again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 no traceback ever reaches a user
            app.complain(f"xdpfw: internal error: {type(error).__name__}: {error} (please report it)")
            if os.environ.get("XDPFW_DEBUG") == "1":
                import traceback

                app.complain(traceback.format_exc())
            return INTERNAL_ERROR


def messages(error: XdpfwError) -> Iterator[str]:
    """One message an error, all that were found in the same run."""
    others = error.others if isinstance(error, PolicyError) else ()
    for each in (error, *others):
        yield f"xdpfw: {each}" if each.position is None else str(each)


@click.group(cls=CommandLine, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xdpfw", message="%(prog)s %(version)s")
def cli() -> None:
    """An XDP firewall: a policy in YAML, enforced by one fixed program in the kernel."""


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets it escaped.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for number in (signal.SIGTERM, signal.SIGHUP):
        # They end a command as Ctrl-C does: what is half done is put back. Ignored ones, as under nohup, stay so.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    cli(prog_name="xdpfw")
