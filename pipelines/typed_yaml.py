"""Typed configs from YAML: `a.b=value` overrides, and errors that name the file, the key and the fix."""

from __future__ import annotations

import copy
import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SHIPPED = Path(str(files("pipelines"))) / "configs"  # in a checkout and in what pip installs
Root = TypeVar("Root", bound=BaseModel)


class ConfigError(Exception):
    """One line: the file, the key, what is wrong, and the fix."""


def find(name: str, folder: Path = SHIPPED) -> Path:
    """A config by file name, or by the name of one that ships with Winnow in `folder`."""
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise ConfigError(f"config {name}: no such file, and not one of the shipped configs ({shipped})")


def read(root: type[Root], path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Root:
    """The config in a file, with `a.b=value` overrides (values are YAML). ConfigError names the key and the fix."""
    return validate(root, read_tree(path, overrides), str(path))


def read_tree(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> dict:
    """The keys of a config, not checked yet. Raises ConfigError."""
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: not UTF-8, or a date that is none
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys, this is a {type(tree).__name__}")
    for item in overrides:
        override(tree, item)
    return tree


def validate(root: type[Root], tree: dict, origin: str) -> Root:
    """The typed config of a tree of keys."""
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_message(root, origin, item) for item in error.errors())) from None


def drop_unknown_keys(root: type[BaseModel], tree: dict) -> dict:
    """A copy of a tree of keys, without unknown ones."""
    tree = copy.deepcopy(tree)
    try:
        root.model_validate(tree)
    except ValidationError as error:
        for item in error.errors():
            if item["type"] == "extra_forbidden":
                *parents, last = item["loc"]
                section: Any = tree
                for part in parents:  # the path includes the kind of a union's member, the tree does not
                    section = section[part] if not isinstance(section, dict) or part in section else section
                section.pop(last, None)
    return tree


def override(tree: dict, assignment: str) -> None:
    """Apply one `a.b=value` to a tree of config keys; the value is YAML."""
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, e.g. --set shots.min_seconds=1.5")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {assignment}: {parent} is not a section")
    try:
        tree[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"--set {assignment}: the value is not readable as YAML ({reason})") from None


def _message(root: type[BaseModel], origin: str, item: ErrorDetails) -> str:
    where = [str(part) for part in item["loc"] if part not in _kinds(root)]
    key, kind = ".".join(where), item["type"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(where[-1], _keys(root, where[:-1]), n=1)
        return f"{origin}: unknown key {key}" + (f": did you mean {close[0]}?" if close else "")
    if kind == "value_error":
        return f"{origin}: {item['msg'].removeprefix('Value error, ')}"
    got = "" if isinstance(item["input"], (dict, list)) else f" (got {item['input']!r})"
    return f"{origin}: {key} {item['msg'].replace('Input should be', 'must be').replace('Field required', 'is required')}{got}"


def _keys(root: type[BaseModel], parents: list[str]) -> list[str]:
    """The valid keys of a section; of a union, those of the default's kind."""
    section: Any = root
    for parent in parents:
        field = section.model_fields.get(parent) if _typed(section) else None
        if field is not None:
            inside = [kind for kind in _sections(field.annotation) if kind is not type(field.default)]
            section = type(field.default) if _typed(type(field.default)) else next(iter(inside), None)
    return list(section.model_fields) if _typed(section) else []


def _kinds(section: type[BaseModel]) -> set[str]:
    """The values of every `kind` below a section, which pydantic includes in paths and a config does not."""
    found: set[str] = set()
    for name, field in section.model_fields.items():
        if name == "kind":
            found.update(get_args(field.annotation))
        for inner in _sections(field.annotation):
            found |= _kinds(inner)
    return found


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections in an annotation, through unions and containers."""
    if _typed(annotation):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]


def _typed(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
