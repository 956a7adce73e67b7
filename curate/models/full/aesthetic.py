"""The LAION aesthetic score: a small head on unit-length OpenAI CLIP ViT-L/14 picture embeddings, about 1..10.

Two heads were published, both trained on human ratings. "linear": LAION-Aesthetics V1, one layer
(github.com/LAION-AI/aesthetic-predictor). "mlp": V2, five linear layers with dropout between and no activation
(github.com/christophschuhmann/improved-aesthetic-predictor). Their scores are not comparable with each other.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from curate.base.files import cache_folder
from curate.base.section import Section
from curate.models import hub
from curate.models.adapter import Adapter
from curate.models.full.loading import placement
from curate.models.roles import AESTHETIC
from curate.weights import Weights

if TYPE_CHECKING:
    import torch

LINEAR_FILE = "sa_0_4_vit_l_14_linear.pth"
LINEAR_URL = f"https://github.com/LAION-AI/aesthetic-predictor/raw/main/{LINEAR_FILE}"
MLP_REPO, MLP_FILE = "ttj/sac-logos-ava1-l14-linearMSE", "model.safetensors"  # the V2 author's .pth as safetensors
HEADS = ("linear", "mlp")


class LaionOptions(Section):
    kind: Literal["laion"] = "laion"
    head: Literal["linear", "mlp"] = "linear"
    allow_download: bool = False
    file: str | None = None


class LaionAesthetic(Adapter):
    """AestheticHead: [N, 768] unit-length ViT-L/14 "openai" embeddings to [N] scores, higher is more pleasing.

    head: which published one to look for where `file` is not given: "linear" in the folder `$XDG_CACHE_HOME/winnow`
    (`~/.cache/winnow`), as it is not on the hub; "mlp" in the hub's cache. file: your own copy, .safetensors or .pth;
    its shapes determine the head. MissingWeights if there is no file; ValueError for a file of other shapes.
    """

    roles = (AESTHETIC,)
    cpu_seconds, gpu_passes = 0.0, 0
    Options = LaionOptions
    gpu = True

    def __init__(
        self, *, head: str = "linear", file: str | None = None, device: str = "auto", allow_download: bool = False
    ) -> None:
        [found] = self.weights(head=head, file=file, allow_download=allow_download)
        repo = MLP_REPO if head == "mlp" else None
        path = hub.obtain(found, repo=repo, names=[MLP_FILE], allow_download=allow_download)
        self.device, _ = placement(device, "float32")
        self.network = build(read_state(path), path).to(self.device).eval()
        self.dim = self.network[0].in_features
        self.name = f"LAION aesthetic {'linear' if len(self.network) == 1 else 'MLP'} head ({path.name})"

    @classmethod
    def parameters(cls, section: object) -> float:
        return 1e6  # of the larger head

    @classmethod
    def weights(
        cls, *, head: str = "linear", file: str | None = None, allow_download: bool = False, **_: object
    ) -> list[Weights]:
        role, model = "aesthetic_score", f"LAION {head} head"
        if head not in HEADS:
            raise ValueError(f"{role}: head must be one of {', '.join(HEADS)} (got {head!r})")
        if head == "mlp" and file is None:
            got = hub.cached_file(MLP_REPO, [MLP_FILE])
            return [
                Weights(role, model, got, f"hub {MLP_REPO}", hub.fix_for(MLP_REPO, [MLP_FILE], allow_download, "file"))
            ]
        path = Path(file).expanduser() if file is not None else cache_folder() / LINEAR_FILE
        get = hub.download_command(MLP_REPO, [MLP_FILE])
        if head == "linear":
            get = shlex.join(["curl", "-L", "--create-dirs", "-o", str(path), LINEAR_URL])
        get = f"run `{get}`, or set `file` to your copy"
        return [Weights(role, model, path if path.is_file() else None, f"file {path}", get)]

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """[N] float32, about 1..10"""
        import torch

        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(
                f"the aesthetic head takes [N, {self.dim}] embeddings (got {list(rows.shape)}); it was trained on "
                "OpenAI's CLIP ViT-L/14: use it with that embedder"
            )
        with torch.inference_mode():
            return self.network(torch.from_numpy(rows).to(self.device))[:, 0].cpu().numpy()


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or a torch file; never unpickles anything but tensors."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def build(state: dict[str, torch.Tensor], path: Path) -> torch.nn.Sequential:
    """The layers that the file holds. Dropout is the identity when scoring, so only linear layers are made.

    Names differ between copies ("weight", "layers.0.weight", "mlp.0.weight"): the number orders the layers.
    """
    import torch

    names = sorted((k for k in state if k.endswith("weight")), key=lambda k: int((re.findall(r"\d+", k) or [0])[-1]))
    weights = [state[name] for name in names]
    widths = [w.shape[1] for w in weights if w.ndim == 2] + [weights[-1].shape[0]] if weights else []
    chained = all(w.ndim == 2 for w in weights) and all(
        after.shape[1] == before.shape[0] for before, after in pairwise(weights)
    )
    if not chained or not widths or widths[-1] != 1 or len(weights) not in (1, 5) or len(state) != 2 * len(weights):
        raise ValueError(
            f"{path}: not a LAION aesthetic head: expected one linear layer to 1 value, or five in a row "
            f"(768-1024-128-64-16-1), got { ({k: list(v.shape) for k, v in list(state.items())[:4]}) }"
        )
    layers = []
    for name, weight in zip(names, weights, strict=True):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.float(), "bias": state[name[: -len("weight")] + "bias"].float()})
        layers.append(layer)
    return torch.nn.Sequential(*layers)
