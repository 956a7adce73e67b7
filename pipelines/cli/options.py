"""Options of `winnow` parsed into configs, stages, executors and folders.

Heavy modules are imported inside functions, so that `winnow --help` is fast.
"""

from __future__ import annotations


def config_of(name: str, overrides: list[str], plugins: list[str] = []):  # noqa: B006
    from pipelines.config import load

    return load(name, overrides, plugins)


def recorded_config(dataset: str, overrides: list[str] = [], plugins: list[str] = []):  # noqa: B006
    """The config of a dataset. plugins: files given on the command line."""
    from pathlib import Path

    from curate.parts import Parts
    from pipelines.config import load_recorded, override, resolve
    from pipelines.dataset.dataset import read_about

    files = [str(Path(name).expanduser().absolute()) for name in plugins]
    made = load_recorded(read_about(dataset)["config"], f"{dataset}/dataset.json", Parts.load(files))
    tree = made.model_dump(mode="json") | {"plugins": files}
    for item in overrides:
        override(tree, item)
    return resolve(tree, f"{dataset}/dataset.json")


def with_export(config, **options):
    """The config with the given options: format, shard_size, seed."""
    from pipelines.config import ConfigError, resolve
    from pipelines.formats.options import size_of

    given = {name: value for name, value in options.items() if value is not None}
    try:
        size_of(given.get("shard_size", config.export.shard_size))
    except ConfigError as error:
        raise ConfigError(f"--shard-size: {error}") from None
    tree = config.model_dump()
    return resolve(tree | {"export": tree["export"] | given}, "the command line")


def stages_of(text: str, config) -> list[str]:
    from pipelines.annotation.stages import StageError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        known = ", ".join(config.parts.stages)
        raise StageError(f"--stages is empty: choose from {known}, or leave the option out for all")
    return names


def place_of(config, executor: str | None, workers: int | None, address: str | None):
    from pipelines.annotation.pools import Place
    from pipelines.cluster import require_ray
    from pipelines.config import ConfigError

    run = config.execution
    chosen = executor or run.executor
    if chosen not in ("ray", "inline"):
        raise ConfigError(f"--executor {chosen}: choose ray or inline")
    if chosen == "ray":
        require_ray("use --executor inline")
    return Place(chosen, workers or run.workers, address or run.address)


def cluster_of(config, executor: str | None, address: str | None):
    """Ray's workers for cutting, where they are asked for, or an address is known; None: this machine's processes."""
    from pipelines.cluster import require_ray
    from pipelines.config import ConfigError
    from pipelines.curated.request import Cluster

    if executor not in ("ray", "inline", None):
        raise ConfigError(f"--executor {executor}: choose ray or inline")
    found = address or config.execution.address
    if executor == "inline" or not (executor or found):
        return None
    require_ray("use --executor inline")
    return Cluster(found, config.model_dump_json())


def source_roots_of(options: list[str]) -> dict[str, str]:
    """Old folder or URL -> new one, from options OLD=NEW."""
    from pipelines.config import ConfigError

    roots = {}
    for option in options:
        old, sign, new = option.partition("=")
        if not (old and sign and new):
            raise ConfigError(
                f"--source-root {option}: write OLD=NEW, such as /mnt/old/videos=/data/videos or /data=s3://bucket/data"
            )
        roots[old] = new
    return roots
