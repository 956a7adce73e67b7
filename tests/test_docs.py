"""The documentation says what the code says: links, commands, generated pages, examples."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from docs.generate import pages
from pipelines.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
every_page = pytest.mark.parametrize("page", TEXTS)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def prose(text):
    return BLOCK.sub("", text)


def anchors(text):
    """What GitHub makes of the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(TEXTS[page])):
        name, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / name) if name else ROOT / page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{page}: {target}"


def commands(text):
    """(the words of a `winnow` command, whether it is given whole) of a page, in blocks and in the prose."""
    for language, block in BLOCK.findall(text):
        lines = block.splitlines() if language in ("", "sh") else ()
        for line in lines:
            line = re.sub(r"\s{2,}#.*|\s{3,}\(.*|\s+# .*", "", line.strip())
            if line.startswith("winnow "):
                yield shlex.split(line)[1:], True
    for line in re.findall(r"`winnow ([^`]*)`", prose(text)):
        yield shlex.split(line), False


@every_page
def test_commands_of_winnow_are_understood(page):
    root = typer.main.get_command(app)
    for words, whole in commands(TEXTS[page]):
        command, rest = root, [word for word in words if word not in ("...", "[CONFIG]")]
        while rest and getattr(command, "commands", None):
            name, *rest = rest
            if name == "--help":
                break
            assert name in command.commands, f"{page}: winnow {' '.join(words)}: no command {name}"
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        asked = {word for word in rest if word.startswith("--")}
        assert asked <= known | {"--help"}, f"{page}: winnow {' '.join(words)}"
        if whole and command is not root:
            command.make_context("winnow", rest)  # raises for what it does not understand


@every_page
def test_other_commands_exist(page):
    made = (ROOT / "Makefile").read_text()
    code = "\n".join([*(block for _, block in BLOCK.findall(TEXTS[page])), *re.findall(r"`([^`\n]*)`", TEXTS[page])])
    for target in re.findall(r"^make ([\w-]+)", code, re.M):
        assert re.search(rf"^{target}:", made, re.M), f"{page}: make {target}"
    for module in re.findall(r"python -m ([\w.]+)", code):
        assert find_spec(module), f"{page}: python -m {module}"


@every_page
def test_python_in_a_page_is_python_and_examples_are_as_in_their_files(page):
    for language, block in BLOCK.findall(TEXTS[page]):
        if language == "python":
            compile(block, page, "exec")
    for name, block in re.findall(r"\(examples/([\w.]+)\):\n\n```\w*\n(.*?)^```", TEXTS[page], re.M | re.S):
        assert block == (ROOT / "docs" / "examples" / name).read_text(), f"{page}: {name} is not as its file"


def recipe(name):
    """What the block of docs/extending.md that defines a name defines."""
    (block,) = (
        block
        for _, block in BLOCK.findall(TEXTS["docs/extending.md"])
        if re.search(rf"^(def|class) {name}\b", block, re.M)
    )
    found = {}
    exec(compile(block, "docs/extending.md", "exec"), found)
    return found[name]


def test_the_recipe_of_a_sampler_solves_what_is_known():
    sigmas = [80.0, 10.0, 1.0, 0.1, 0.0]
    assert recipe("midpoint")(lambda x, sigma: x / (1 + sigma**2), 80.0, [80.0, 60.0, 50.0]) == pytest.approx(
        50.0, rel=0.01
    )
    assert recipe("midpoint")(lambda x, sigma: 3.0, 80.0, sigmas) == pytest.approx(3.0)  # data that is a single point


@pytest.mark.parametrize("name", pages())
def test_generated_pages_are_of_today(name):
    made = pages()[name].rstrip("\n") + "\n"
    assert (ROOT / "docs" / name).read_text() == made, f"docs/{name} is not what the code declares now: run `make docs`"


def test_the_readme_is_short_and_names_every_page():
    assert (ROOT / "README.md").stat().st_size <= 8192
    linked = set(re.findall(r"\(docs/([\w-]+\.md)\)", TEXTS["README.md"]))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_named_where_one_reads(path):
    assert any(f"examples/{path.name}" in text for text in TEXTS.values())


def test_the_tree_of_architecture_has_every_folder():
    tree = TEXTS["docs/architecture.md"]
    for package in ("curate", "pipelines", "video_model"):
        for folder in (ROOT / package).rglob("*/"):
            if folder.name != "__pycache__" and folder.is_dir():
                assert f"{folder.name}/" in tree, f"docs/architecture.md: {folder.relative_to(ROOT)} is not in the tree"
