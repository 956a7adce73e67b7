"""Finding weights: in a file or folder that the config names, else in the Hugging Face cache; downloaded only on request.

The network is used only with `allow_download=True` *and* without the hub's offline switch (`HF_HUB_OFFLINE=1`). A model
is identified by its repository on the hub and, for single files, by the accepted names, best first. Searching loads
nothing, so that `winnow models` is instant.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from curate.weights import MissingWeights, Weights

SHARD_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
NOT_NEEDED = ["*.msgpack", "*.h5", "*.onnx", "*.gguf", "*.ot", "onnx/*", "original/*"]  # other frameworks' copies


def offline() -> bool:
    """The hub's offline switch, read now (huggingface_hub reads it once, at import)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def cached_file(repo: str, names: Sequence[str]) -> Path | None:
    """The first of `names` that the local cache holds of `repo`'s main revision, or None."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str):  # else None, or the marker of a file known not to exist
            return Path(found)
    return None


def cached_folder(repo: str) -> Path | None:
    """The cached snapshot of a transformers model if it is complete (config, every weight shard), or None."""
    config = cached_file(repo, ["config.json"])
    return config.parent if config is not None and is_complete(config.parent) else None


def is_complete(folder: Path) -> bool:
    """Whether `folder` has a config.json and all the weight files that its shard index, if any, names.

    An interrupted download leaves a folder too; loading it would fail an hour into a run.
    """
    if not (folder / "config.json").is_file():
        return False
    if any((folder / name).is_file() for name in SINGLE_FILES):
        return True
    for name in SHARD_INDEXES:
        if (folder / name).is_file():
            shards = json.loads((folder / name).read_text(encoding="utf-8")).get("weight_map", {}).values()
            if shards and all((folder / shard).is_file() for shard in shards):
                return True
    return False


def weights_of_file(
    *, role: str, model: str, repo: str | None, names: Sequence[str], folder: str | None, allow_download: bool = False
) -> Weights:
    """Where one weight file is: `folder` (a file, or a folder that holds one of `names`), else the hub's cache."""
    if folder is not None:
        place = Path(folder).expanduser()
        path = place if place.is_file() else next((place / n for n in names if (place / n).is_file()), None)
        get = f"put {' or '.join(names)} there, or name the file itself"
        get += f"; to get it: {download_command(repo, names)} --local-dir {shlex.quote(folder)}" if repo else ""
        return Weights(role, model, path, f"folder {folder}", get)
    if repo is None:
        return Weights(role, model, None, "no place given", "set `folder` to the file or folder that holds the weights")
    return Weights(role, model, cached_file(repo, names), f"hub {repo}", fix_for(repo, names, allow_download))


def weights_of_folder(*, role: str, model: str, folder: str | None, allow_download: bool = False) -> Weights:
    """Where a transformers model folder is: `folder`, else the cached snapshot of the repository named `model`."""
    if folder is not None:
        place = Path(folder).expanduser()
        get = "put config.json, the tokenizer's and every weight file there, or correct the path"
        return Weights(role, model, place if is_complete(place) else None, f"folder {folder}", get)
    return Weights(role, model, cached_folder(model), f"hub {model}", fix_for(model, [], allow_download))


def obtain(weights: Weights, *, repo: str | None, names: Sequence[str] = (), allow_download: bool = False) -> Path:
    """The path of the weights, downloaded if that is allowed. Raises MissingWeights.

    names: accepted single files, best first; empty for the whole repository. Only weights on the hub are downloaded: a
    folder that the config names and that lacks the weights is an error.
    """
    if weights.path is not None:
        return weights.path
    if repo is None or not allow_download or offline() or not weights.source.startswith("hub "):
        raise MissingWeights(weights)
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        if not names:
            return Path(snapshot_download(repo, ignore_patterns=NOT_NEEDED))
        for name in names[:-1]:
            try:
                return Path(hf_hub_download(repo, name))
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(repo, names[-1]))
    except OSError as error:  # the hub's and the network's errors are OSErrors
        raise MissingWeights(
            Weights(weights.role, weights.model, None, f"download of {repo} failed: {error}", weights.get)
        ) from error


def label(model: str, folder: str | None) -> str:
    """Name of weights in the records: `model`, or that of the local folder, which may hold any model."""
    return model if folder is None else f"local {Path(folder).expanduser().resolve().name}"


def download_command(repo: str, names: Sequence[str]) -> str:
    """The command that fetches one named file, or those of several alternatives that exist, or all of `repo`."""
    if len(names) > 1:
        return shlex.join(["hf", "download", repo, *(word for name in names for word in ("--include", name))])
    return shlex.join(["hf", "download", repo, *names])


def fix_for(repo: str, names: Sequence[str], allow_download: bool, option: str = "folder") -> str:
    """How to get missing hub weights. option: the argument that takes a local copy."""
    command = f"run `{download_command(repo, names)}`, or set `{option}` to a copy of it"
    if not allow_download:
        return command + ", or set `allow_download: true`"
    return command + (
        " (HF_HUB_OFFLINE is set, so nothing is downloaded)" if offline() else " (downloaded on first use)"
    )
