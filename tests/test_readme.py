"""The README says what the code says."""

import re
from pathlib import Path

import typer

from pipelines.annotation.stages import TABLES
from pipelines.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_score_is_explained_as_its_column_is():
    for column in TABLES.scores:
        if column.name.startswith("still"):
            continue
        (row,) = re.findall(rf"^\| `{column.name}` \| (.*) \| (.*) \| (.*) \|$", README, re.M)
        unit = ", ".join(part for part in (column.unit, column.range) if part)
        assert row == (column.formula.replace("|flow|", "abs(flow)"), unit, column.source)


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_commands_of_the_readme_exist():
    made = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{command}:", made, re.M)
    root = typer.main.get_command(app)
    told = re.findall(r"\bwinnow ([a-z]+)( +(?:import|export)\b)?([^`\n]*)", README)
    told = [(name, inner, rest) for name, inner, rest in told if name in root.commands]
    assert len(told) > 20
    for name, inner, rest in told:
        command = root.commands[name].commands[inner.strip()] if inner else root.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--[a-z0-9-]+", rest.split(" # ")[0])) <= known, (name, rest)
