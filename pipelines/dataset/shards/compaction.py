"""Small shards become large ones, older ones get the columns of today, and rows that do not count go.

A reader sees each row exactly once at every moment: the new shard is committed first, and as its rows have the rank of the old
ones, only one of the two counts; then the old ones go. A shard that replaces rows of others goes last, when those rows are gone.
Whatever was interrupted is done by the next call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.scratch import Scratch
from curate.base.store import Store, store_of
from curate.base.store.files import opened, readable_by_sql
from pipelines.dataset.dataset_card import write_dataset_card
from pipelines.dataset.files import FOOTER
from pipelines.dataset.shards.current import Current, ShardState
from pipelines.dataset.shards.fence import write_fence
from pipelines.dataset.shards.footer import Footer
from pipelines.dataset.shards.manifest import Manifest
from pipelines.dataset.shards.reading import footer_of
from pipelines.dataset.shards.writing import commit_tables, write_shard
from pipelines.dataset.tables import Tables
from pipelines.dataset.upgrade import lacks, upgraded

__all__ = ["Compacted", "Group", "compact", "compact_group", "forget", "open_for_writing", "sweep"]

TARGET = 256 << 20  # bytes of a shard that is large enough
MANY = 8  # shards that are merged whatever their sizes

Work = Callable[[str], bytes]  # a packed Group -> the packed footer of the new shard
Map = Callable[[Work, Iterable[str]], Iterable[bytes]]


@dataclass(frozen=True)
class Group:
    """Shards of one form, generation and stages that become one. stale: shard -> (video_id, unit) of rows to leave out."""

    members: Sequence[str]
    stages: Sequence[str]
    generation: int
    replaces: Sequence[str]
    stale: dict[str, list[tuple[str, int]]]
    bytes: int

    def pack(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def unpack(cls, text: str) -> Group:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Compacted:
    """before, after: shards. dropped: rows of units that did not count."""

    before: int
    after: int
    dropped: int


def compact(
    store: Store,
    *,
    target: int = TARGET,
    map_fn: Map | None = None,
    run: str = "",
    check: Callable[[], None] = lambda: None,
) -> Compacted:
    """Merge small shards and drop what does not count. Called by the one process that holds the lock, when no worker writes.

    target: bytes of a good shard. map_fn: applies a function to texts by workers, in any order; the function can be pickled,
    and needs nothing but the store's URL. None: here, one after the other. run: that holds the lock. check: called before each
    commit here; raises where the lock was lost."""
    store.tidy()
    manifest = Manifest(store)
    current = _begun(manifest, run, check)
    try:
        before, dropped = len(current.shards), sum(shard.stale for shard in current.shards)
        groups = _groups(current, target, merge=True)
        made = _rewrite(store, current, groups, None, manifest, map_fn, run, check)
    finally:
        current.close()
    after = before - sum(len(group.members) for group in groups) + made - _dead(current)
    if len(list(store.list("manifest/part-"))) > 1 or groups or _dead(current):
        manifest.rebuild()
    return Compacted(before, after, dropped)


def sweep(store: Store, tables: Tables | None = None, check: Callable[[], None] = lambda: None, run: str = "") -> None:
    """Drop what does not count: unfinished files, uncommitted clips, shards and rows that later ones replaced.

    tables: shards that lack columns of these get them. run: that holds the lock. Called by the one process that holds the lock, when no worker writes.
    Afterwards tools that open the files directly see current rows only."""
    store.tidy()
    manifest = Manifest(store)
    current = _begun(manifest, run, check)
    try:
        manifest.adopt(current)
        old = _lacking(store, current, tables) if tables else set()
        groups = _groups(current, TARGET, merge=False, old=old)
        _rewrite(store, current, groups, tables, manifest, None, run, check)
    finally:
        current.close()


def open_for_writing(store: Store, tables: Tables, check: Callable[[], None] = lambda: None, run: str = "") -> None:
    """Make a dataset ready for shards of these tables: workers of earlier runs are kept out, leftovers are removed, older
    shards get the columns of today, and README.md is written. run: that holds the lock. Called by the one process that does."""
    if store.folder is not None:
        for table in ("clips", "videos"):
            (store.folder / table).mkdir(parents=True, exist_ok=True)
    sweep(store, tables, check, run)
    write_dataset_card(store, tables)


def _begun(manifest: Manifest, run: str, check: Callable[[], None]) -> Current:
    """Which rows count, once workers of earlier runs are kept out."""
    current = manifest.current()
    if run and current.fence.run != run:
        check()
        write_fence(manifest.store, current.fence, run, [shard.name for shard in current.shards])
    return current


def forget(store: Store, tables: Tables, units: Collection[str], run: str = "") -> None:
    """Remove the rows of these units without replacement: a shard without rows says so, until `sweep` removed them.

    Called by the one process that holds the lock."""
    manifest = Manifest(store)
    current = manifest.current()
    generation = 1 + max((shard.generation for shard in current.shards), default=-1)
    current.close()
    if units:
        manifest.add(
            write_shard(store, tables, [], stages=(), generation=generation, replaces=sorted(units), models={}, run=run)
        )
        manifest.flush()
        sweep(store, run=run)


def compact_group(
    store: Store,
    group: Group,
    tables: Tables | None = None,
    run: str = "",
    check: Callable[[], None] = lambda: None,
) -> Footer:
    """Commit the rows of a group as one shard. Its members stay. tables: to give the rows the columns of."""
    members = [f"part-{name}.parquet" for name in group.members]
    heads = {}
    for table in ("clips", "videos"):
        with opened(store.where(f"{table}/{members[0]}")) as stream:
            heads[table] = pq.read_schema(stream)
    about = json.loads(heads["videos"].metadata[FOOTER])
    scratch = Scratch()
    try:
        clips, videos = (_rows(store, table, members, group, heads[table], scratch) for table in ("clips", "videos"))
    finally:
        scratch.close()
    if tables:
        clips, videos = upgraded(clips, tables.clips, videos), upgraded(videos, tables.videos)
    ids = [
        f"{video}-{unit:04d}"
        for video, unit in zip(videos["video_id"].to_pylist(), videos["unit"].to_pylist(), strict=True)
    ]
    footer = {
        "units": ids,
        "stages": list(group.stages),
        "generation": group.generation,
        "replaces": list(group.replaces),
        "models": about.get("models", {}),
    }
    outcome = [list(pair) for pair in zip(videos["status"].to_pylist(), videos["error"].to_pylist(), strict=True)]
    check()
    name, data = commit_tables(store, clips, videos, footer, outcome, run=run)
    return footer_of(name, data, clips.schema)


def _rows(
    store: Store, table: str, members: Sequence[str], group: Group, head: pa.Schema, scratch: Scratch
) -> pa.Table:
    """The members' rows that stay, by unit, in their own order within it."""
    db = scratch.database(memory="1GB")
    rows = [(f"part-{shard}.parquet", *unit) for shard, units in group.stale.items() for unit in units]
    stale = pa.table(
        {
            "file": pa.array([row[0] for row in rows], pa.string()),
            "video_id": pa.array([row[1] for row in rows], pa.string()),
            "unit": pa.array([row[2] for row in rows], pa.int32()),
        }
    )
    db.register("stale", stale)
    files = [readable_by_sql(store.where(f"{table}/{name}")) for name in members]
    found = db.sql(
        """SELECT c.* EXCLUDE (filename, file_row_number)
            FROM read_parquet($files, filename=true, file_row_number=true) c
            ANTI JOIN stale s ON s.file = parse_filename(c.filename) AND s.video_id = c.video_id AND s.unit = c.unit
            ORDER BY c.video_id, c.unit, c.file_row_number""",
        params={"files": files},
    ).to_arrow_table()
    db.close()
    return found.cast(pa.schema(list(head)))


def _groups(current: Current, target: int, merge: bool, old: Collection[str] = ()) -> list[Group]:
    """old: forms that lack columns. merge: also what is only small."""
    bins: list[list[ShardState]] = []
    open_bins: dict[tuple[str, int, str], list[ShardState]] = {}
    for shard in current.live:
        must = shard.mixed or shard.form in old
        if not must and not (merge and shard.bytes < target / 2):
            continue
        key = (shard.stages, shard.generation, shard.form)
        some = open_bins.get(key)
        if some is None or sum(s.bytes for s in some) + shard.bytes > target:
            some = open_bins[key] = []
            bins.append(some)
        some.append(shard)
    return [_group(current, some) for some in bins if _worthwhile(some, old)]


def _worthwhile(some: Sequence[ShardState], old: Collection[str]) -> bool:
    """Whether merging is worth the writing: a large shard is not written again for each small one that comes."""
    if any(shard.mixed or shard.form in old for shard in some):
        return True
    sizes = [shard.bytes for shard in some]
    return len(some) >= MANY or (len(some) > 1 and sum(sizes) >= 2 * max(sizes))


def _group(current: Current, some: Sequence[ShardState]) -> Group:
    names = [shard.name for shard in some]
    stale = current.stale_units([shard.name for shard in some if shard.stale])
    stages = some[0].stages.split(",") if some[0].stages else []
    replaces = current.needed_replacements(names)
    rows = {name: sorted(units) for name, units in stale.items()}
    return Group(names, stages, some[0].generation, replaces, rows, sum(shard.bytes for shard in some))


def _rewrite(
    store: Store,
    current: Current,
    groups: Sequence[Group],
    tables: Tables | None,
    manifest: Manifest,
    map_fn: Map | None,
    run: str,
    check: Callable[[], None],
) -> int:
    """Delete files that were never committed, work the groups off, then delete their members and shards without current rows.
    Returns how many were made.

    Nothing of a group goes before all are made, so that whoever sees that something is gone finds everything new at once."""

    def here(packed: str) -> bytes:
        return compact_group(store, Group.unpack(packed), tables, run, check).pack()

    for table, name in current.alone():  # first: what is made below may have the name of what was given up
        check()
        store.delete(f"{table}/part-{name}.parquet")
    made = set()
    packs = [group.pack() for group in groups]
    work = partial(compact_packed, store.url, tables, run)
    for packed in map(here, packs) if map_fn is None else map_fn(work, packs):
        footer = Footer.unpack(packed)
        manifest.add(footer)
        made.add(footer.shard)
    manifest.flush()
    # One that an interrupted call had made counted for nothing beside its members, and does now.
    dead = [shard for shard in current.shards if not shard.live and shard.name not in made]
    members = {member for group in groups for member in group.members} - made
    # what shards replace goes before them
    gone = [(shard.generation, shard.name) for shard in current.shards if shard.name in members] + [
        (shard.generation, shard.name) for shard in dead
    ]
    for _, name in sorted(gone):
        check()
        _delete(store, name)
    return len(made)


def compact_packed(place: str, tables: Tables | None, run: str, packed: str) -> bytes:
    """`compact_group` as a worker on any machine does it: the packed footer of the new shard. place: path or URL of the store."""
    return compact_group(store_of(place), Group.unpack(packed), tables, run).pack()


def _dead(current: Current) -> int:
    return sum(not shard.live for shard in current.shards)


def _delete(store: Store, shard: str) -> None:
    """The videos file first, which ends the commit."""
    store.delete(f"videos/part-{shard}.parquet")
    store.delete(f"clips/part-{shard}.parquet")


def _lacking(store: Store, current: Current, tables: Tables) -> set[str]:
    """Forms of shards that lack columns of these tables."""
    found = set()
    for form, name in {shard.form: shard.name for shard in current.live}.items():
        for table, schema in (("clips", tables.clips), ("videos", tables.videos)):
            with opened(store.where(f"{table}/part-{name}.parquet")) as stream:
                if lacks(pq.read_schema(stream), schema):
                    found.add(form)
    return found
