"""Writes docs/scores.md and docs/configs.md from what the parts declare: python -m docs.generate

A test compares the files with what this makes now.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from curate.clip import Column
from curate.parts import Parts
from curate.pipeline_part import PipelinePart
from pipelines.annotation.stages import tables_of
from pipelines.config import schema
from video_model.config import TrainConfig

HERE = Path(__file__).parent
MADE = "<!-- made by `make docs` from what the code declares: change it there -->\n"
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true, false",
    dict: "mapping",
    list: "list",
    tuple: "list",
}


def pages() -> dict[str, str]:
    """Name of a generated page -> its text."""
    return {"scores.md": scores(), "configs.md": configs()}


def scores() -> str:
    parts = Parts()
    tables = tables_of(parts)
    lines = [
        "# Scores and columns", MADE,
        "Every clip has every score, kept or not. Null means: not computed; where a stage failed, `errors` says why. A score of "
        "one model is never comparable with a threshold made for another: the models and the hashes of their weights are "
        "recorded in `dataset.json`. The same notes are in the schema of the Parquet files.\n",
    ]  # fmt: skip
    for part in parts.stages.values():
        lines += _part(part)
    known = {column.name for part in parts.stages.values() for column in part.columns}
    lines += ["## Address and form of a clip\n", "Columns of every row of `clips/`, whichever stages ran.\n"]
    lines += [*_columns(column for column in tables.clip_columns if column.name not in known), ""]
    lines += ["## Videos\n", "Columns of `videos/`: a row for each unit, and for each path that came to nothing.\n"]
    lines += [*_columns(Column.of(field) for field in tables.videos), ""]
    return "\n".join(lines)


def _part(part: type[PipelinePart]) -> Iterator[str]:
    if part.columns:
        yield f"## {part.name}\n"
        needs = f" Needs {', '.join(f'`{name}`' for name in part.needs)}." if part.needs else ""
        yield f"{(part.__doc__ or '').strip().splitlines()[0]}{needs}\n"
        yield from _columns(part.columns)
        yield ""


def _columns(columns: Iterable[Column]) -> Iterator[str]:
    yield "| column | formula | unit, range | source |"
    yield "|---|---|---|---|"
    for column in columns:
        unit = ", ".join(part for part in (column.unit, column.range) if part)
        models = "".join(f"; null without `{key}`" for key in column.models)
        yield f"| `{column.name}` | {_cell(column.formula + models)} | {_cell(unit)} | {_cell(column.source)} |"


def configs() -> str:
    lines = [
        "# Configs", MADE,
        "A config is a YAML file, or the name of one that ships with Winnow (`pipelines/configs/`). `--set a.b=value` overrides a "
        "key. An unknown key is an error that names the nearest one. A key that is left out has the default given here; the "
        "resolved config is recorded with the result.\n",
        "## Annotating and selecting\n",
        "`winnow run`, `annotate` and `select` with `--config`: `quickstart` (offline), `svd` (the paper's models), `world`.\n",
        *_section(schema(Parts()), ""),
        "## Training\n",
        "`winnow train CONFIG`: `tiny`, `demo`, `svd`, `svd-lora`, `sd21-image`. `stages.NAME` stands for each stage, in the order they run in.\n",
        *_section(TrainConfig, ""),
    ]  # fmt: skip
    return "\n".join(lines)


def _section(section: type[BaseModel], path: str, choice: str = "") -> Iterator[str]:
    """A table of the keys that hold values; then the sections inside, each with its own."""
    rows, inside = [], []
    for name, field in section.model_fields.items():
        key = f"{path}.{name}" if path else name
        kinds = _sections(field.annotation)
        if kinds:
            inside.append((f"{key}.NAME" if get_origin(field.annotation) is dict else key, kinds, field))
        elif name != "kind":
            rows.append(
                f"| `{key}` | {_cell(_default(field))} | {_cell(_values(field))} | {_cell(field.description or '')} |"
            )
    if path:
        yield f"### {path}{choice}\n"
        yield from ([f"{_about(section)}\n"] if _about(section) else [])
    if rows:
        yield from ("| key | default | values | meaning |", "|---|---|---|---|", *rows, "")
    elif path:
        yield "No keys of its own.\n"
    for key, kinds, field in inside:
        chosen = _default(field)
        for kind in kinds:
            choice = _kind(kind)
            yield from _section(
                kind, key, f": {{kind: {choice}}}{' (default)' if choice in chosen else ''}" if choice else ""
            )


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]


def _kind(section: type[BaseModel]) -> str:
    field = section.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return f"{getattr(value, 'kind', '')}"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _values(field: FieldInfo) -> str:
    names = list(dict.fromkeys(_names(field.annotation)))
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in SIGNS.items()
        if hasattr(rule, name)
    ]
    empty = ["or null"] if "null" in names else []
    text = ", ".join(name for name in names if name != "null")
    return ", ".join([" ".join([text, ", ".join(bounds)]).strip(), *empty])


def _names(annotation: Any) -> Sequence[str]:
    origin = get_origin(annotation)
    if origin is Literal:
        return [f"`{value}`" for value in get_args(annotation)]
    if origin in (Union, types.UnionType):
        return [name for part in get_args(annotation) for name in _names(part)]
    if origin is Annotated:
        return _names(get_args(annotation)[0])
    if annotation is type(None):
        return ["null"]
    return [NAMES.get(origin or annotation, "")] if NAMES.get(origin or annotation) else []


def _about(section: type[BaseModel]) -> str:
    own = section.__dict__.get("__doc__") or ""
    return own.strip().split("\n\n")[0].replace("\n    ", " ")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text.rstrip("\n") + "\n")
        print(f"written: docs/{name}")


if __name__ == "__main__":
    main()
