"""What the code imports is declared, with bounds, and locked."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = ("curate", "pipelines", "video_model")
WITH_OTHERS = {
    "libsvm": "brisque",
    "skimage": "brisque",
    "starlette": "fastapi",
    "torchgen": "torch",
    "pydantic_core": "pydantic",
    "markupsafe": "jinja2",
}
NOT_LOCKED = {"wandb", "bitsandbytes"}  # a service, and kernels of a GPU: asked for by those who use them
INSTALLED = packages_distributions()
SAME = {"scenedetect": "scenedetect-headless"}  # one module, two packages


def requirements(lines):
    return {canonicalize_name(found.name): found for found in map(Requirement, lines) if found.name != "winnow"}


BASE = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def imports(tree, inside=False):
    """(name of a module, whether it is imported only within a function, or for types) of all imports."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        lazily = inside or for_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, ast.Import):
            yield from ((name.name.partition(".")[0], lazily) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0], lazily
        else:
            yield from imports(node, lazily)


def distributions(module):
    found = [SAME.get(name, name) for name in INSTALLED.get(module, [])]
    return {canonicalize_name(name) for name in [*found, WITH_OTHERS.get(module, module)]}


def foreign():
    """(file, module, only within a function) of every import of a package that is not ours."""
    for package in OWN:
        for file in (ROOT / package).rglob("*.py"):
            for module, lazily in imports(ast.parse(file.read_text())):
                if module not in sys.stdlib_module_names and module not in OWN:
                    yield str(file.relative_to(ROOT)), module, lazily


def test_every_import_is_declared():
    declared = set(BASE).union(*(set(found) for name, found in EXTRAS.items() if name not in ("dev", "demo")))
    assert {(file, module) for file, module, _ in foreign() if not distributions(module) & declared} == set()


def test_without_extras_everything_but_models_and_the_trainer_can_be_imported():
    wanting = {
        (file, module)
        for file, module, lazily in foreign()
        if not lazily
        and not file.startswith(("curate/models/", "video_model/"))
        and not distributions(module) & set(BASE)
    }
    assert wanting == set()


def test_every_requirement_is_bounded_and_the_lock_is_within():
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    locked = {canonicalize_name(name): version for name, version in locked.items()}
    for found in [*BASE.values(), *(item for extra in EXTRAS.values() for item in extra.values())]:
        kinds = {bound.operator for bound in found.specifier}
        assert "==" in kinds or "<" in kinds, f"{found}: no upper bound"
        if found.name not in NOT_LOCKED:
            assert found.specifier.contains(locked[canonicalize_name(found.name)]), f"{found}: not what is locked"
