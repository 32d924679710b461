# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw keygen: a key for single packet authorization, or the secret of a rotation."""

from __future__ import annotations

from pathlib import Path

import click

from xdpfw.cli.app import App
from xdpfw.cli.options import examples, json_option
from xdpfw.errors import UsageError

DEFAULT_SERVER_FILE = "spa.keys"


@click.command(
    short_help="Make a key, or a secret, to knock with.",
    epilog=examples(
        "xdpfw keygen laptop --server-file /etc/xdpfw/admin.keys --port 62201",
        "xdpfw keygen phone --server-file /etc/xdpfw/admin.keys --nat",
        "xdpfw keygen --rotate /etc/xdpfw/home.secret",
    ),
)
@click.argument("name", required=False)
@click.option(
    "--server-file",
    metavar="FILE",
    type=click.Path(readable=False),
    help=f"The server half; by default {DEFAULT_SERVER_FILE}.",
)
@click.option("--client-file", metavar="FILE", type=click.Path(), help="The client half; by default NAME.key.")
@click.option("--nat", is_flag=True, help="Any source may use the key: for devices behind NAT.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="The server's, for the client half to know.")
@click.option("--rotate", metavar="FILE", type=click.Path(), help="Make a secret for rotating sequences instead.")
@json_option
@click.pass_obj
def command(
    app: App,
    name: str | None,
    server_file: str | None,
    client_file: str | None,
    nat: bool,
    port: int | None,
    rotate: str | None,
    as_json: bool,
) -> None:
    """Make a key called NAME, one for each device: a line in the server half, and a client half of its own.

    The server half is made, with a new id of the server, where there is none; else all that is in it stays. New files
    are for their owner alone (mode 0600), and none is ever overwritten.

    JSON: {"server_file", "client_file", "server", "key": {"number", "name", "nat", "fingerprint"}, "port"}; with
    --rotate, {"secret_file"}.
    """
    if rotate is not None:
        if name or server_file or client_file or nat or port:
            raise UsageError("--rotate makes a secret, which has no name, halves, port or nat")
        _make_secret(app, Path(rotate), as_json=as_json)
    elif name is None:
        raise UsageError("a key needs a NAME, that of its device", hint="xdpfw keygen laptop")
    else:
        server, client = Path(server_file or DEFAULT_SERVER_FILE), Path(client_file or f"{name}.key")
        _make_key(app, name, server, client, nat=nat, port=port, as_json=as_json)


def _make_key(
    app: App, name: str, server_file: Path, client_file: Path, *, nat: bool, port: int | None, as_json: bool
) -> None:
    from xdpfw.knock.keyfiles import add_key, is_open_to_others
    from xdpfw.knock.keys import fingerprint

    half = add_key(server_file, client_file, name, nat=nat, port=port)
    if as_json:
        app.say_json(
            {
                "server_file": str(server_file),
                "client_file": str(client_file),
                "server": half.server.hex(),
                "key": {
                    "number": half.number,
                    "name": name,
                    "nat": nat,
                    "fingerprint": f"{fingerprint(half.bound):016x}",
                },
                "port": port,
            }
        )
    else:
        how = f"xdpfw knock HOST --spa {client_file.name}{'' if port is not None else ' --port N'}"
        app.say(
            f"key {half.number}, {name}: {server_file} for the server, {client_file} for the device", colour="green"
        )
        app.say(f"server: name the file in a knock, spa: {{port: {port or 'N'}, keys: {server_file.name}}}, and apply")
        app.say(f"device: move {client_file} there, keep no copy, and knock: {how}")
    if is_open_to_others(server_file):
        app.complain(f"xdpfw: others than its owner may read or write {server_file} (chmod 600 {server_file})")


def _make_secret(app: App, path: Path, *, as_json: bool) -> None:
    from xdpfw.knock.keyfiles import create, new_secret

    create(path, new_secret())
    if as_json:
        app.say_json({"secret_file": str(path)})
        return
    app.say(f"{path} has a new secret", colour="green")
    app.say(f"server: name the file in a knock, rotate: {{secret: {path.name}, ...}}, and apply")
    app.say(f"device: copy it there by a safe way, and knock: xdpfw knock HOST --rotate {path.name}")
