# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents for users show is so: policies are right, messages are real, commands and options exist.

A fenced block of ``yaml`` that lacks ``version``, ``interfaces`` or ``default`` is an excerpt, and gets them here. The
comment ``<!-- refused -->`` before one says that what follows it are its errors; ``<!-- run -->`` before a block of
``console``, that the commands in it answer just that, in a directory with the README's first policy as edge.yaml.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from xdpfw.cli import COMMANDS, cli
from xdpfw.compiler.knocklint import knock_lints
from xdpfw.compiler.limitlint import limit_lints
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.compiler.protectlint import protect_lints
from xdpfw.errors import PolicyError
from xdpfw.importer import tinyknock
from xdpfw.packet.decode import INVALID_REASONS, Packet, decode
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.models import Allow, Knock, Match, PolicyFile, Rotate, Rule, Spa, Step
from xdpfw.policy.source import Sources
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import ReferenceDecider

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
REQUIRED = {"version": "1", "interfaces": "{eth0: {}, eth1: {}}", "default": "drop"}

_FENCE = re.compile(r"^(?:<!-- (?P<note>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"xdpfw ([a-z]+)\b([^\n`|]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z-]+")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    language: str
    note: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(document, line, found["language"], found["note"], found["text"])


ALL = tuple(blocks())
POLICIES = [block for block in ALL if block.language == "yaml" and block.note is None]
REFUSED = [(block, after) for block, after in pairwise(ALL) if block.note == "refused"]
SESSIONS = [block for block in ALL if block.note == "run"]


@pytest.mark.parametrize("block", POLICIES, ids=str)
def test_policies_are_right_and_pass_their_tests(block: Block) -> None:
    given = re.findall(r"(?m)^(\w+):", block.text)
    header = "".join(f"{key}: {value}\n" for key, value in REQUIRED.items() if key not in given)
    sources = Sources.from_bundle({"edge.yaml": header + block.text})
    policy = lower(load("edge.yaml", sources))
    results = policytest.run(policytest.prepare(policy, sources.files), ReferenceDecider(policy))
    assert [result.to_json() for result in results if not result.ok] == []
    assert [*map(str, never_reached(policy)), *map(str, knock_lints(policy))] == []
    assert [*map(str, limit_lints(policy)), *map(str, protect_lints(policy))] == []


@pytest.mark.parametrize(("block", "messages"), REFUSED, ids=str)
def test_messages_are_what_a_user_reads(block: Block, messages: Block) -> None:
    with pytest.raises(PolicyError) as caught:
        load("edge.yaml", Sources.from_bundle({"edge.yaml": block.text}))
    assert [str(error) for error in (caught.value, *caught.value.others)] == messages.text.splitlines()


@pytest.mark.parametrize("block", SESSIONS, ids=str)
def test_sessions_go_as_shown(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge.yaml").write_text(next(policy.text for policy in POLICIES if policy.document == ROOT / "README.md"))
    Path("rules").symlink_to(ROOT / "rules")
    shown = ""
    for line in block.text.splitlines():
        if line.startswith("$ "):
            program, *arguments = shlex.split(line[2:])
            assert program == "xdpfw"
            shown += f"{line}\n{CliRunner().invoke(cli, arguments).output}"
    assert shown == block.text


def test_the_example_of_tinyknock_can_be_imported() -> None:
    (text,) = (block.text for block in ALL if block.text.startswith("policies:\n"))
    assert tinyknock.convert(text, "policies.yaml", interfaces=["eth0"], grant="8h").is_whole


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_packets_can_be_built() -> None:
    lines = [line for block in ALL if block.language == "packets" for line in block.text.splitlines()]
    assert lines
    assert [line for line in lines if not isinstance(decode(parse_packet(line)), Packet)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", document.read_text())
    code = spans + [block.text for block in ALL if block.document == document]
    for name, arguments in (found for text in code for found in _COMMAND.findall(text)):
        assert name in COMMANDS
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        subcommands = command.commands.values() if isinstance(command, click.Group) else ()
        parameters = [parameter for each in (command, *subcommands) for parameter in each.params]
        options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(_OPTION.findall(arguments)) <= options | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(document.read_text()):
        if "://" in path:
            continue
        target = document.parent / path if path else document
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), anchor


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub links to them."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_described(command: str) -> None:
    assert f"\n## {command}\n" in (ROOT / "docs" / "commands.md").read_text()


@pytest.mark.parametrize(
    "model", [PolicyFile, Rule, Match, Allow, Step, Knock, Spa, Rotate], ids=lambda model: model.__name__
)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "policy.md").read_text()
    keys = [field.alias or name for name, field in model.model_fields.items()]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_every_invalid_reason_is_described() -> None:
    text = (ROOT / "docs" / "policy.md").read_text()
    assert tuple(re.findall(r"(?m)^\| `(invalid\.\w+)`", text)) == INVALID_REASONS
