"""What the options of `winnow` mean: from their texts to configs, stages, places to run and folders.

Heavy modules are imported where they are needed, so that `winnow --help` answers at once.
"""

from __future__ import annotations


def config_of(name: str, overrides: list[str], plugins: list[str] = []):  # noqa: B006
    from pipelines.config import load

    return load(name, overrides, plugins)


def recorded_config(dataset: str, overrides: list[str] = [], plugins: list[str] = []):  # noqa: B006
    """The config that a dataset was made with; plugins: files that are named now."""
    from pathlib import Path

    from curate.parts import Parts
    from pipelines.config import override, recorded, resolve
    from pipelines.dataset.dataset import read_about

    files = [str(Path(name).expanduser().absolute()) for name in plugins]
    made = recorded(read_about(Path(dataset))["config"], f"{dataset}/dataset.json", Parts.load(files))
    tree = made.model_dump(mode="json") | {"plugins": files}
    for item in overrides:
        override(tree, item)
    return resolve(tree, f"{dataset}/dataset.json")


def with_export(config, **options):
    """The config with the options of the command line that were given: format, size of a shard, order."""
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
        raise StageError(f"--stages: none is named: choose from {known}, or leave the option out for all")
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


def source_roots_of(options: list[str]) -> dict[str, str]:
    """OLD=NEW, each, of folders."""
    from pipelines.config import ConfigError

    roots = {}
    for option in options:
        old, sign, new = option.partition("=")
        if not (old and sign and new):
            raise ConfigError(f"--source-root {option}: write OLD=NEW, such as /mnt/old/videos=/data/videos")
        roots[old] = new
    return roots
