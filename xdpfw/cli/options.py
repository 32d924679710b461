# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, of a shape that stays.")

reference_option = click.option(
    "--reference", is_flag=True, help="Decide by the reference interpreter: no kernel, no privileges."
)

interface_option = click.option(
    "--interface", metavar="NAME", help="Where packets arrive; by default the policy's first interface."
)


def _not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """An empty name would be taken for none, and the command would change another firewall than was meant."""
    if value == "":
        raise click.BadParameter("a name is expected, and this is empty; perhaps a shell variable is not set")
    return value


netns_option = click.option(
    "--netns", metavar="NS", callback=_not_empty, help="The network namespace that the interfaces are in."
)


def rules_argument(command: F) -> F:
    return click.argument("rules", metavar="RULES", type=click.Path(readable=False))(command)


def instance_options(command: F) -> F:
    """``netns`` and ``instance``, each None where it is not given."""
    command = click.option(
        "--instance",
        metavar="NAME",
        callback=_not_empty,
        help='Which firewall; by default that of --netns, else "default".',
    )(command)
    return netns_option(command)


def examples(*lines: str) -> str:
    """An epilog for ``--help``, which click leaves as it is."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
