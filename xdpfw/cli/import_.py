# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw import: a policy from that of another firewall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option

if TYPE_CHECKING:
    from xdpfw.importer.imported import Difference, Imported

FORMATS: Final = ("tinyknock",)
GUESSED_INTERFACE: Final = "eth0"
RESULT: Final = "(the imported policy)"


@click.command(
    short_help="Make a policy from that of another firewall.",
    epilog=examples(
        "xdpfw import tinyknock policies.yaml > edge.yaml",
        "xdpfw import tinyknock policies.yaml --interface eth1 --for 8h",
    ),
)
@click.argument("format_", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("file", metavar="FILE", type=click.Path(readable=False))
@click.option(
    "--interface", "interfaces", metavar="NAME", multiple=True, help="Where it is to be in force; repeatable."
)
@click.option("--for", "grant", metavar="DUR", default="1h", show_default=True, help="How long a grant lasts.")
@json_option
@click.pass_obj
def command(app: App, format_: str, file: str, interfaces: tuple[str, ...], grant: str, as_json: bool) -> int:
    """Print a policy that does what FILE says, in YAML, and on standard error what it does otherwise.

    FORMAT is tinyknock. Nothing is left out silently: exit status 1 if something had to be, 2 if FILE is wrong.

    JSON: {"policy", "differences": [{"text", "left_out", "file", "line", "column"}]}.
    """
    from xdpfw.importer import tinyknock
    from xdpfw.importer.imported import Difference
    from xdpfw.policy.source import Sources

    _check(interfaces, grant)
    text = Sources.from_disk().read(file)
    imported = tinyknock.convert(text, file, interfaces=interfaces or (GUESSED_INTERFACE,), grant=grant)
    _check_policy(imported)
    differences = list(imported.differences)
    if not interfaces:
        guess = f"interfaces: {GUESSED_INTERFACE} is a guess, as FILE does not say: --interface NAME does"
        differences.append(Difference(guess.replace("FILE", file)))
    if as_json:
        app.say_json({"policy": imported.policy, "differences": [_json(each) for each in differences]})
    else:
        app.stdout.write(imported.policy)
        for difference in differences:
            app.complain(str(difference))
    return 0 if imported.is_whole else 1


def _check(interfaces: tuple[str, ...], grant: str) -> None:
    """Raises UsageError."""
    from xdpfw.errors import UsageError
    from xdpfw.policy.values import NotationError, duration_ns, interface

    try:
        option = "--for"
        duration_ns(grant)
        option = "--interface"
        for name in interfaces:
            interface(name)
    except NotationError as error:
        raise UsageError(f"{option} {error.message}", hint=error.hint) from None
    if len(set(interfaces)) < len(interfaces):
        raise UsageError("--interface names one twice")


def _check_policy(imported: Imported) -> None:
    """Raises PolicyError where the policy is beyond what this firewall can do."""
    from xdpfw.cli.policyfile import PolicyFile
    from xdpfw.policy.source import Sources

    PolicyFile.from_sources(RESULT, Sources.from_bundle({RESULT: imported.policy}))


def _json(difference: Difference) -> dict[str, Any]:
    place = difference.position
    return {
        "text": difference.text,
        "left_out": difference.left_out,
        "file": place and place.file,
        "line": place and place.line,
        "column": place and place.column,
    }
