"""Merging of captions by a small language model, guarded by rules since it is fluent but unreliable.

Without them SmolLM2-135M got 4 of 10 hard pairs wrong; for pairs that agree it adds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from curate.models.embedded.minilm import MiniLM

AGREEMENT = 0.15

# Words without a claim about the picture.
EMPTY = frozenset(
    re.findall(
        r"\w+",
        """a an the this that these those it its he she they his her their there here and or but nor so as while with
        without of in on at by to from into onto over under for is are was were be been being am has have had do does
        did can will would may might which who whose what where when than then also both very some any each other one
        two up out off down photo picture image video clip scene shot frame caption showing shows show seen see
        mostly""",
    )
)
Merged = tuple[str | None, str]


class GuardedMerger:
    """Merges two captions with `ask(frame, video)`, a language model's answer, under four rules.

    1. Only one caption: that one.
    2. Two that do not agree (cosine of their MiniLM embeddings below `agreement`): the longer.
    3. A merge with a content word of neither, or nothing of one of them: the longer.
    4. Otherwise the merge.
    """

    def __init__(self, sentences: MiniLM, ask: Callable[[str, str], str], *, agreement: float = AGREEMENT) -> None:
        self._sentences = sentences
        self._ask = ask
        self._agreement = agreement

    def merge(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[str | None]:
        """One caption for each (frame caption, video caption); None for none."""
        return [caption for caption, _ in self.explained(pairs)]

    def explained(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[Merged]:
        """As merge, and how each came about: "merged", "frame", "video", "rejected: why; kept which", "" for none."""
        return [self._one(frame or None, video or None) for frame, video in pairs]

    def _one(self, frame: str | None, video: str | None) -> Merged:
        if frame is None or video is None:
            return frame or video, "frame" if frame else "video" if video else ""
        if content(frame) == content(video):
            return frame, "frame"
        kept, which = (frame, "frame") if len(frame) > len(video) else (video, "video")
        first, second = (self._sentences.texts([caption])[0] for caption in (frame, video))
        cosine = float(first @ second)
        if cosine < self._agreement:
            return kept, f"rejected: the two do not agree (cosine {cosine:.2f} < {self._agreement:g}); kept {which}"
        answer = first_sentence(self._ask(frame, video))
        fault = why_not(answer, frame, video)
        return (kept, f"rejected: {fault}; kept {which}") if fault else (answer, "merged")


def why_not(answer: str, frame: str, video: str) -> str | None:
    """What is wrong with a merge, or None."""
    claims = content(answer)
    if not claims:
        return "the merge says nothing"
    strange = [word for word in words(answer) if stem(word) in claims - content(frame) - content(video)]
    if strange:
        return f'the merge brings in "{strange[0]}"'
    for name, caption, other in (("frame", frame, video), ("video", video, frame)):
        own = content(caption) - content(other)
        if own and not own & claims:
            return f"the merge leaves out the {name} caption"
    return None


def content(text: str) -> set[str]:
    """Stems of the content words."""
    return {stem(word) for word in words(text) if word not in EMPTY}


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower().replace("'s", ""))


def stem(word: str) -> str:
    """A word without its common English endings, so that "drives" and "driving", "runs" and "running" are one."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def first_sentence(answer: str) -> str:
    """The first line of an answer, without quotes, ending in a full stop."""
    line = next((line.strip(" \"'") for line in answer.splitlines() if line.strip(" \"'")), "")
    return line if not line or line[-1] in ".!?" else line + "."
