"""`winnow train`, `sample`, `evaluate` and `weights`: the command line of the video model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.errors import COULD_NOT_START, DONE, CommandError, err_console, errors, out_console
from video_model.diffusion.samplers import names_of

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key, e.g. --set stages.video.steps=200")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="a folder that `winnow train` made, or its URL")]
Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin", metavar="FILE.py", help="a Python file with networks, samplers ... of your own; it is run"
    ),
]
StageName = Annotated[str | None, typer.Option("--stage", help="image, video, hq ...: as the config names them")]
weights = typer.Typer(no_args_is_help=True, help="Public checkpoints in, diffusers' layout out.")


def register(app: typer.Typer) -> None:
    """Add the commands to `winnow`."""
    app.command()(train)
    app.command()(sample)
    app.command()(evaluate)
    app.add_typer(weights, name="weights")


def train(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="a YAML file, or a shipped config: tiny, demo, svd, svd-lora, sd21-image"
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="the run to make, or to resume: a folder, or s3://... and the like"),
    ] = None,
    data: Annotated[
        list[str], typer.Option("--data", "-d", help="a folder that `winnow select` made; give it again for more")
    ] = [],  # noqa: B006
    stage: StageName = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume from the last good checkpoint")] = False,
    workers: Annotated[int, typer.Option(min=1, help="processes that share every batch, with Ray Train")] = 1,
    address: Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. auto or ray://head:10001")] = None,
    cache: Annotated[
        str | None, typer.Option(help="folder of latents that runs share; default: `latents` beside RUN")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="train nothing: memory by part, time and disk that the stages would take")
    ] = False,
    gpus: Annotated[
        str | None, typer.Option(metavar="COUNTxGB", help="of --dry-run, e.g. 8x80GB; default: this machine")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="of --dry-run: h100, a100, 4090 ...; default: by its memory")] = None,
    mfu: Annotated[float, typer.Option(help="of --dry-run: the share of a GPU's peak that training reaches")] = 0.4,
    json_: Annotated[bool, typer.Option("--json", help="of --dry-run: as JSON")] = False,
    set_: Overrides = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Train the stages of a config on curated shards; or a LoRA (svd-lora).

    Interrupt it at any time: with --resume the same command continues it, and ends with the same weights.

      winnow train tiny --data out/curated --out out/model
      winnow train svd.yaml --data /shared/curated --out /shared/run --workers 8 --address auto
      winnow train svd --dry-run --gpus 8x80GB
    """
    with errors():
        from pipelines.cli.training_progress import Following, print_run
        from pipelines.ray_training import train_on_ray
        from pipelines.training import TrainingJob, load_config, train_here

        loaded = load_config(config, set_, plugin)
        if dry_run:
            from pipelines.cli.planning import show_plan

            with Following(err_console) as watcher:
                fits = show_plan(out_console, loaded, data, gpus, gpu, mfu, json_, watcher)
            raise typer.Exit(DONE if fits else COULD_NOT_START)
        if out is None:
            raise CommandError("--out: name the run's folder (or use --dry-run, which makes none)")
        if gpus or gpu or json_:
            raise CommandError("--gpus, --gpu and --json: they are of --dry-run: give it too, or leave them out")
        job = TrainingJob(loaded, tuple(data), out, stage, resume, cache, tuple(plugin))
        with Following(err_console) as watcher:
            if workers == 1 and address is None:
                train_here(job, watcher)
            else:
                train_on_ray(job, workers, address, watcher)
        print_run(out_console, out, type(loaded))
    raise typer.Exit(DONE)


def sample(
    run: RunFolder,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="what to draw; give it again for more")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option("--out", "-o", help="an .mp4 (a .png for one frame); numbered for more")] = Path(
        "video.mp4"
    ),
    image: Annotated[
        Path | None, typer.Option(help="the first frame: a picture or a video, cropped to the size")
    ] = None,
    last_image: Annotated[Path | None, typer.Option(help="the last frame, of a stage that interpolates")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="default: the stage's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="of the sampler; default: the config's")] = None,
    guidance: Annotated[
        str | None, typer.Option(metavar="SCALE|FIRST:LAST", help="of the prompt; 1: none; 1:2.5 rises over the frames")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="the same seed draws the same noise; the pixels are the same to the bit on one CPU thread"),
    ] = 0,
    sampler: Annotated[str | None, typer.Option(help=", ".join(names_of()))] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, help="frames a second; the network is conditioned on it")
    ] = None,
    motion: Annotated[
        float | None,
        typer.Option(
            help="motion score to aim at, or a bucket (0 to 255) of runs with motion buckets; left out: none, or 127"
        ),
    ] = None,
    condition: Annotated[
        list[str], typer.Option(metavar="NAME=NUMBER", help="of a conditioning slot that has no option of its own")
    ] = [],  # noqa: B006
    size: Annotated[str | None, typer.Option(metavar="HxW", help="in px; default: the stage's")] = None,
    scale: Annotated[int, typer.Option(min=1, help="enlarge what is written so many times, pixel by pixel")] = 1,
    stage: StageName = None,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Draw videos (or pictures) from a trained run.

    winnow sample out/model --prompt "a red circle moves left" --out video.mp4
    winnow sample out/model --image first.png --guidance 1:2.5 --out video.mp4
    """
    with errors():
        from pipelines.cli.drawing import Wish, draw
        from pipelines.cli.training_progress import Following
        from pipelines.training import schema_of

        wish = Wish(
            list(prompt), out, image, last_image, stage, scale,
            {"frames": frames, "steps": steps, "seed": seed, "sampler": sampler, "fps": fps, "motion": motion},
            guidance, size, list(condition),
        )  # fmt: skip
        with Following(err_console) as watcher:
            written = draw(run, wish, watcher, schema_of(plugin))
        for path in written:
            out_console.print(f"written: {path}")
    raise typer.Exit(DONE)


def evaluate(
    run: RunFolder,
    data: Annotated[list[str], typer.Option("--data", "-d", help="curated folders; default: those of the run")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder; default: RUN/evaluation")] = None,
    count: Annotated[int, typer.Option(min=2, help="videos that are drawn and compared with real ones")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="of the sampler; default: the config's")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    i3d: Annotated[
        Path | None, typer.Option(help="safetensors of I3D (Kinetics-400): Frechet video distance over it as well")
    ] = None,
    stage: StageName = None,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Measure a run on held-out clips: loss by noise level, Frechet video distance, caption similarity, flicker.

    Every figure has a 95% interval and stands beside its value for real videos; a Frechet distance needs 64 drawn videos and
    128 unseen clips. Writes metrics.json, and a contact sheet of real and drawn.
    """
    with errors():
        from pipelines.cli.training_progress import Following, print_metrics
        from pipelines.training import schema_of
        from video_model.evaluation.evaluate import evaluate as measure

        with Following(err_console) as watcher:
            found = measure(
                run,
                data,
                out=out,
                count=count,
                steps=steps,
                seed=seed,
                i3d=i3d,
                stage=stage,
                watcher=watcher,
                schema=schema_of(plugin),
            )
        print_metrics(out_console, found)
    raise typer.Exit(DONE)


@weights.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="a UNet in diffusers' layout, or a pipeline that holds one")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to make: what `start:` of a config names")],
) -> None:
    """Check that a public UNet (Stable Diffusion 1.x/2.x, Stable Video Diffusion) maps onto ours, tensor by tensor.

    Writes it in the same layout, so that `start: FOLDER` of a training config begins from it.
    """
    with errors():
        from video_model.public.weights import export_unet, import_unet

        network = import_unet(source)
        export_unet(network, out)
        shape = network.config
        count = sum(parameter.numel() for parameter in network.parameters())
        out_console.print(
            f"{count / 1e6:.1f} M parameters; network.channels {list(shape.channels)}, text states of {shape.context_dim}, "
            f"{'video' if shape.temporal else 'image'}: written: {out}",
            soft_wrap=True,
        )
    raise typer.Exit(DONE)


@weights.command("open")
def open_(
    pipeline: Annotated[Path, typer.Argument(help="a StableVideoDiffusionPipeline's folder, as it is published")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the run to make")],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="in px, multiples of 64; default: 576x1024, of the release")
    ] = None,
) -> None:
    """Make a run of a published image-to-video pipeline, to sample from, evaluate, or export again; nothing is trained.

    winnow weights open stable-video-diffusion-img2vid --out out/svd
    winnow sample out/svd --image first.png --motion 127 --fps 7 --out video.mp4
    """
    with errors():
        from pipelines.cli.drawing import size as parsed
        from video_model.training.released import run_of_pipeline

        run = run_of_pipeline(pipeline, out, parsed(size))
        out_console.print(f"written: {run.root}", soft_wrap=True)
    raise typer.Exit(DONE)


@weights.command("export")
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to make: unet/ in diffusers' layout")],
    vae: Annotated[Path | None, typer.Option(help="AutoencoderKLTemporalDecoder: a whole pipeline is made")] = None,
    image_encoder: Annotated[Path | None, typer.Option(help="CLIPVisionModelWithProjection, of that pipeline")] = None,
    feature_extractor: Annotated[Path | None, typer.Option(help="CLIPImageProcessor, of that pipeline")] = None,
    companions: Annotated[
        Path | None, typer.Option(help="a pipeline's folder that has all three: vae, image_encoder, feature_extractor")
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="of a run with `lora`: that alone, as pytorch_lora_weights.safetensors")
    ] = False,
    stage: StageName = None,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Write a run's network (its average) as a diffusers UNet; with its companions' folders, as an image-to-video pipeline.

    The LoRA of a run is part of the weights, or is written by itself.

    winnow weights export out/model --out unet
    winnow weights export out/lora --lora --out lora
    winnow weights export out/lora --out pipeline --companions weights/stable-video-diffusion-img2vid
    """
    with errors():
        from pipelines.training import schema_of
        from video_model.public.formats import format_of
        from video_model.training.sampler import Sampler

        loaded = Sampler(run, stage, schema=schema_of(plugin))
        given = {"vae": vae, "image_encoder": image_encoder, "feature_extractor": feature_extractor}
        if companions is not None:
            given = {name: path or companions / name for name, path in given.items()}
        if any(given.values()) and not all(given.values()):
            raise CommandError(
                "--vae, --image-encoder and --feature-extractor: a pipeline needs all three; a UNet, none"
            )
        if lora and any(given.values()):
            raise CommandError("--lora: is written alone: leave --companions and its parts out")
        known, network = format_of(loaded.config.network), loaded.public_network()
        if lora:
            written = known.save_lora(loaded.denoiser.network, out)
        elif all(given.values()):
            written = known.save_pipeline(network, out, given, max(loaded.stage.frames))
        else:
            written = known.save(network, out)
        out_console.print(f"stage {loaded.name}, step {loaded.checkpoint.step}: written: {written}", soft_wrap=True)
    raise typer.Exit(DONE)
