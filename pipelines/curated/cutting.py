"""Clips cut in child processes, several at a time: a source that crashes or hangs a decoder costs its own clip only.

A clip whose child was lost is tried again in a fresh one, with nothing beside it. What ends alike twice is the clip's own
fault, and the reason why it is not cut. What the machine does twice is nobody's: the work stops, to be resumed.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from curate.base.child import RAISED, SUSPECT, Child, Lost, NotStarted, in_order
from curate.base.store.protocol import StoreError
from curate.export.extract import ClipForm, Extracted, ExtractError, Span, extract
from curate.export.span import ASKED_FOR, NO_KEYFRAME
from curate.export.transcode import transcode
from curate.video.identity import checksum, fingerprint, is_readable, same_stamp, stamp
from curate.video.opening import printable
from pipelines.cluster import elsewhere
from pipelines.curated.spool import keep, spooled

PASS_SECONDS = 30.0  # of time allowed, for each second that is decoded


class CutterError(Exception):
    """The machine kept clips from being cut, which is no fault of theirs. One line: the reason, the fix."""


@dataclass(frozen=True)
class SourceFile:
    """What a file was when it was annotated. bytes, modified, checksum, version: as in `videos/`, None where that was not
    recorded."""

    video_id: str
    bytes: int | None = None
    modified: int | None = None
    checksum: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class CutJob:
    """One clip to cut: `extract(path, span, keyframes, **options)`, if the file is still the source.

    source: None: not compared. spool: folder or URL where it may lie already, cut with others of its source.
    """

    clip_id: str
    path: str
    span: Span
    keyframes: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    source: SourceFile | None = None
    spool: str | None = None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> CutJob:
        """From what `asdict` made of one."""
        source = fields["source"]
        return cls(**fields | {"span": Span.of(fields["span"]), "source": SourceFile(**source) if source else None})


Result = Extracted | str  # the bytes, or the reason why there are none
MapFn = Callable[[Iterable[CutJob]], Iterator[Result]]


def cut(job: CutJob) -> Result:
    """Cut a clip in this process. Never raises for what a source can do wrong; see `Cutters` for what it can do
    worse. Raises CutterError where the source's storage cannot be reached, or this machine does not see the source."""
    if job.spool is not None and (made := spooled(job.spool, job.clip_id)):
        return made
    try:
        if reason := changed(job.path, job.source):
            return reason
        return extract(job.path, job.span, job.keyframes, **job.options)
    except ExtractError as error:
        return _reason(job.path, str(error))
    except StoreError as error:
        if error.transient:
            raise CutterError(str(error)) from None
        return _reason(job.path, str(error))
    except MemoryError:
        return f"{printable(job.path)}: needs too much memory"


def _reason(path: str, why: str) -> str:
    """Why a clip is not cut. Raises CutterError where only this machine, of several, does not see the source."""
    if elsewhere() and not is_readable(path):
        raise CutterError(
            f"{printable(path)}: the machine {socket.gethostname()} does not see it, or may not read it: mount it there; of a "
            "source that is gone, run the same command with --executor inline, which records that"
        )
    return why


def cut_together(jobs: Sequence[CutJob], folder: Path) -> None:
    """Transcode clips of one source in one pass over it, each into the folder as it is done (see `spool.keep`)."""
    jobs = sorted(jobs, key=lambda job: (job.span.start_frame, job.span.end_frame))
    try:
        if changed(jobs[0].path, jobs[0].source):
            return  # each says so when its turn comes
        form = ClipForm(**jobs[0].options)
        why = NO_KEYFRAME if form.may_copy else ASKED_FOR
        spans = [job.span for job in jobs]
        for job, made in zip(jobs, transcode(jobs[0].path, spans, form, why=why), strict=True):
            if not isinstance(made, str):
                keep(folder, job.clip_id, made)
    except (ExtractError, StoreError):
        return


def changed(path: str, source: SourceFile | None) -> str | None:
    """Why a file is not what was annotated; None where it is. That it is missing is for the reader to say."""
    if source is None:
        return None
    try:
        now = stamp(path, fresh=False)
        if now["bytes"] is None:
            return None
        if source.bytes in (None, now["bytes"]):
            if same_stamp(asdict(source), now):
                return None
            known, look = (source.checksum, checksum) if source.checksum else (source.video_id, fingerprint)
            if _looked_at(look, path, *now.values()) == known:
                return None
    except (OSError, ValueError):
        return None
    return (
        f"{printable(path)}: is not the file that was annotated: its content has changed since; run `winnow annotate` on "
        "it again, and then select"
    )


@lru_cache(maxsize=256)
def _looked_at(look: Callable[[str], str], path: str, *stamp: Any) -> str:
    return look(path)


class Cutters:
    """`workers` child processes. Call it with jobs: results come in the order of the jobs, a few are under way ahead.

    timeout: seconds for one clip. memory_gb: most memory that one child may allocate. Results raise CutterError.
    """

    def __init__(self, workers: int | None = None, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout, self.memory_gb = timeout, memory_gb
        self.idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self.collecting = threading.Lock()
        self.children = [_Child(timeout, memory_gb) for _ in range(self.workers)]
        for child in self.children:
            self.idle.put(child)

    def __enter__(self) -> Cutters:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.close()

    def __call__(self, jobs: Iterable[CutJob]) -> Iterator[Result]:
        return self._each(self._cut, jobs)

    def together(self, groups: Iterable[Sequence[CutJob]], folder: Path) -> Iterator[None]:
        """Each group in one pass over its source, into the folder. What fails is left to be cut alone."""
        return self._each(lambda jobs: self._cut_together(jobs, folder), groups)

    def _cut(self, job: CutJob) -> Result:
        if job.spool is not None:  # looked into here, as a child has no part in the storage of what is made
            if made := spooled(job.spool, job.clip_id):
                return made
            job = replace(job, spool=None)
        losses: list[str] = []
        while True:
            try:
                with self._child(alone=bool(losses)) as child:
                    return child.cut(job)
            except NotStarted as error:
                raise CutterError(str(error)) from None
            except Lost as lost:
                losses.append(lost.kind)
                what = f"{printable(job.path)}: frames {job.span.start_frame} to {job.span.end_frame} cannot be cut: {lost}"
            suspect = sum(kind in SUSPECT for kind in losses)
            if losses[-1] == RAISED or suspect == 2:
                return what
            if len(losses) - suspect == 2:
                raise CutterError(
                    f"{what}, twice: free memory and processors of the machine, or cut with fewer --workers"
                )

    def _cut_together(self, jobs: Sequence[CutJob], folder: Path) -> None:
        try:
            with self._child() as child:
                child.cut_together(jobs, folder)
        except NotStarted as error:
            raise CutterError(str(error)) from None
        except Lost:
            pass  # what was cut before is in the spool; each of the others says why when its turn comes

    @contextmanager
    def _child(self, alone: bool = False) -> Iterator[_Child]:
        """One that is idle. alone: a fresh process, while all others are idle."""
        if not alone:
            children = [self.idle.get()]
        else:
            with self.collecting:  # one collects at a time, or two would wait for what the other has
                children = [self.idle.get() for _ in range(self.workers)]
            children[0].close()
        try:
            yield children[0]
        finally:
            for child in children:
                self.idle.put(child)

    def _each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(self.workers) as threads:
            yield from in_order(threads, work, items, 3 * self.workers)


class _Child(Child):
    def __init__(self, timeout: float, memory_gb: float) -> None:
        super().__init__("pipelines.curated.cutting", timeout=timeout, memory_gb=memory_gb, setting="decode.memory_gb")

    def cut(self, job: CutJob) -> Result:
        made = self.ask(asdict(job))
        if "stop" in made:
            raise CutterError(made["stop"])
        return made["reason"] if "reason" in made else Extracted(**made)

    def cut_together(self, jobs: Sequence[CutJob], folder: Path) -> None:
        seconds = max(job.span.end_time for job in jobs) - min(job.span.start_time for job in jobs)
        request = {"together": [asdict(job) for job in jobs], "folder": str(folder)}
        self.ask(request, self.timeout + PASS_SECONDS * seconds)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Cutters` does."""
    if "together" in request:
        cut_together([CutJob.of(fields) for fields in request["together"]], Path(request["folder"]))
        return {}
    try:
        made = cut(CutJob.of(request))
    except CutterError as error:
        return {"stop": str(error)}
    return {"reason": made} if isinstance(made, str) else asdict(made)
