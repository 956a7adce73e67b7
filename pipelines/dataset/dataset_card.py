"""README.md of an annotated dataset; its header lets `datasets.load_dataset(DATASET, "clips")` find the two tables."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from curate.base.store import Store
from curate.clip import Column
from pipelines.dataset.tables import VIDEO_IDENTITY, Tables

TEXT = """# Annotated dataset

Made by `winnow annotate`: a row for every clip in `clips/`, kept or not, with all its scores, and a row for every unit of a
source video in `videos/`, failed ones with the reason. `winnow stats`, `winnow inspect` and `winnow select` read it.

```python
from datasets import load_dataset

clips = load_dataset("PATH OF THIS FOLDER", "clips", split="train", streaming=True)
videos = load_dataset("PATH OF THIS FOLDER", "videos", split="train")
```

Load it so when no `winnow annotate` is at work in it: until one ends, rows that it replaces may still be there. What a
selection keeps, with the bytes of the clips, is made by `winnow select`.

The clips are parts of the source videos and keep the licences of these.
"""


def write_dataset_card(store: Store, tables: Tables) -> None:
    """Write README.md if there is none or the columns changed. One that was edited by hand is kept."""
    configs = [
        {
            "config_name": name,
            "default": name == "clips",
            "data_files": [{"split": "train", "path": f"{name}/*.parquet"}],
        }
        for name in ("clips", "videos")
    ]
    head = {"pretty_name": "Winnow annotations", "tags": ["video", "winnow"], "configs": configs}
    columns = (("clips", tables.clip_columns), ("videos", (*VIDEO_IDENTITY, *tables.facts)))
    opening = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{TEXT}"
    text, path = "\n".join([opening, *(_table(*table) for table in columns)]), "README.md"
    try:
        there = store.read(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        pass
    else:
        if there == text or not there.startswith(opening):
            return
    store.replace(path, text.encode())


def _table(name: str, columns: Sequence[Column]) -> str:
    lines = [
        f"## Columns of `{name}`\n",
        "| column | type | meaning | unit | range | source |",
        "|---|---|---|---|---|---|",
    ]
    for column in columns:
        kind = str(column.type).replace("element: ", "").replace("item: ", "")
        cells = (f"`{column.name}`", kind, column.formula, column.unit, column.range, column.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
