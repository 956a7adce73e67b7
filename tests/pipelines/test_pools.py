"""What workers take, and how machines are allocated to them: from declarations, in known numbers."""

import json
import struct
from functools import cache

import numpy as np
import pytest

from curate.clip import Clip, Unit, Video
from curate.models.full.clip import OpenClipEmbedder
from curate.models.quality import Brisque
from curate.stages.appearance import Appearance
from curate.stages.portion import Portion
from curate.stages.stage import Stage
from pipelines.annotation.models import Use, uses
from pipelines.annotation.pools import Node, Place, actor_options, allocate, pools_of
from pipelines.annotation.stages import build, with_needs
from pipelines.annotation.workers.worker import work
from pipelines.cluster import ExecutorError
from pipelines.config import load
from tests.curate.pictures import plain, png

BF16 = [f"{key}.dtype=bfloat16" for key in ("embedder", "captions.frame", "captions.video", "captions.merge")]
ALL = with_needs(["similarity", "text", "appearance"])
GB = 1e9


@cache
def paper(*overrides):
    config = load("svd", list(overrides))
    return config, pools_of(config, ALL)


def placed(shares, pools, nodes):
    """Whether all workers find room, GPU workers first and spread (`actor_options` asks for it): what Ray has to do."""
    free = [[node.gpus, node.cpus, node.memory] for node in nodes for _ in range(node.count)]
    for share in sorted(shares, key=lambda share: -share.gpus):
        wants = share.gpus, share.cpus, share.memory
        for _ in range(share.workers_max):
            fit = [room for room in free if all(has >= want - 1e-6 for has, want in zip(room, wants, strict=True))]
            if not fit:
                return False
            room = max(fit) if share.gpus else fit[0]
            room[:] = (has - want for has, want in zip(room, wants, strict=True))
    return True


def test_without_gpus_a_unit_stays_in_one_process():
    (pool,) = pools_of(load("quickstart"), ALL)
    assert pool.stages == ALL and not pool.gpu
    (share,) = allocate([pool], load("quickstart"), Place("ray"), None, [Node(4)])
    options = actor_options(pool, share)
    assert options["num_gpus"] == 0 and options["runtime_env"]["env_vars"] == {"CUDA_VISIBLE_DEVICES": ""}


def test_what_cannot_use_a_gpu_holds_none():
    assert [pool.gpu for pool in pools_of(load("quickstart", ["execution.gpus=0.5"]), ALL)] == [False]
    _, (cpu, gpu) = paper("execution.gpus=0.5")
    assert (cpu.gpu, gpu.gpu) == (False, True)
    assert cpu.stages == ("shots", "motion", "stills", "text", "appearance")  # BRISQUE and open_nsfw, before
    assert gpu.stages == ("appearance", "captions", "similarity")
    assert set(gpu.without) == {"appearance.quality", "appearance.nsfw"}
    assert set(cpu.without) == {"appearance.aesthetic", "embedder"}
    kept = [use.kind for pool in (cpu, gpu) for use in uses(load("svd"), pool.stages, pool.without)]
    of_gpu = ["open_clip", "laion", "coca", "videoblip", "transformers", "open_clip"]
    assert kept == ["cascade", "easyocr", "brisque", "open_nsfw", *of_gpu]


def test_memory_is_that_of_the_models_in_the_precision_of_the_config():
    (offline,) = pools_of(load("quickstart"), ALL)
    assert 2 * GB < offline.memory < 3 * GB  # the process, its decoder, and models of 400 MB
    _, (whole,) = paper()
    weights = 4 * (0.428 + 0.638 + 3.74 + 7.24) * GB  # float32, though the files of Mistral hold bfloat16
    assert weights + 6 * GB < whole.memory < weights + 9 * GB and whole.unknown == ()
    _, (cpu, gpu) = paper("execution.gpus=1", *BF16)
    assert cpu.memory < 3 * GB
    assert weights / 2 + 6 * GB < gpu.gpu_memory < weights / 2 + 7.5 * GB
    assert 14 * GB < gpu.memory < 20 * GB  # of the host: the largest model passes through it
    _, (_, larger) = paper("execution.gpus=1", *BF16, "captions.video.batch=16")
    assert larger.gpu_memory == pytest.approx(gpu.gpu_memory + 3 * 2 * GB)  # four times the working memory
    _, (strange,) = paper("captions.merge.model=someone/nameless")
    assert strange.unknown == ("caption_merged",)
    assert paper("captions.merge.model=someone/Tiny-1.5B-chat")[1][0].unknown == ()


def test_a_folder_with_several_formats_counts_the_one_that_is_loaded(tmp_path):
    header = json.dumps(
        {"a": {"dtype": "BF16", "shape": [100, 50], "data_offsets": [0, 10_000]}, "__metadata__": {}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(10_000))
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(10_000))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(20_000))
    section = load("svd", [f"embedder.folder={tmp_path}"]).embedder
    weights = OpenClipEmbedder.weights(**OpenClipEmbedder.arguments(section))
    assert weights[0].path == tmp_path or weights[0].path is None
    from curate.weights import Weights

    use = Use("image_embedding", "open_clip", (Weights("r", "m", tmp_path, "", ""),), section, True)
    assert sum(use.weight_bytes.values()) == 100 * 50 * 4


@pytest.mark.parametrize("gpus", [0.25, 0.5, 1, 2])
@pytest.mark.parametrize(
    "nodes",
    [
        [Node(16, 8, 256 * GB, 4)],
        [Node(64, 8, 1000 * GB, 2), Node(64, 0, 256 * GB, 3)],
        [Node(2, 2, 24 * GB)],
        [Node(4, 1, 64 * GB), Node(96, 4, 512 * GB)],
    ],
)
@pytest.mark.parametrize("seconds", [[], [0.65, 0.02], [0.01, 2.0]])
def test_all_workers_fit_at_once(nodes, gpus, seconds):
    config, pools = paper(f"execution.gpus={gpus}", *BF16)
    shares = allocate(pools, config, Place("ray"), None, nodes, seconds)
    assert all(share.workers_max >= share.workers_min >= 1 for share in shares)
    assert placed(shares, pools, nodes)
    assert (shares[0].gpus, shares[0].batch) == (0, 0) and shares[1].gpus > 0 and shares[1].batch == 64


def test_decode_follows_the_gpus_by_measured_times():
    config, pools = paper("execution.gpus=1", *BF16)
    nodes = [Node(64, 8, 1000 * GB, 2)]
    cpu, gpu = allocate(pools, config, Place("ray"), None, nodes)
    assert (gpu.workers_max, cpu.workers_max) == (16, 128)  # nothing is measured yet: all
    cpu, gpu = allocate(pools, config, Place("ray"), None, nodes, [0.5, 0.1])
    assert (gpu.workers_max, cpu.workers_max) == (16, 100)  # 16 / 0.1 = 160 s/s of footage: 80 workers and a quarter
    cpu, gpu = allocate(pools, config, Place("ray"), 5, nodes)
    assert (gpu.workers_max, cpu.workers_max) == (5, 5)  # no more workers than units


def test_where_memory_is_short_gpu_workers_leave_room_for_those_that_feed_them():
    config, pools = paper("execution.gpus=0.5", *BF16)
    nodes = [Node(16, 8, 256 * GB, 4)]
    greedy_cpu, greedy_gpu = allocate(pools, config, Place("ray"), None, nodes)
    cpu, gpu = allocate(pools, config, Place("ray"), None, nodes, [0.65, 0.05])
    assert gpu.workers_max < greedy_gpu.workers_max and cpu.workers_max > greedy_cpu.workers_max


def test_a_gpu_is_shared_by_as_many_workers_as_its_memory_holds():
    nodes = [Node(64, 4, 1000 * GB)]
    config, pools = paper("execution.gpus=0.25", *BF16)
    assert allocate(pools, config, Place("ray"), None, nodes)[1].gpus == 0.25
    config, pools = paper("execution.gpus=0.25", "execution.gpu_gb=80", *BF16)
    assert allocate(pools, config, Place("ray"), None, nodes)[1].gpus == 0.5  # 31 GB each
    with pytest.raises(ExecutorError, match=r"execution.gpus is 0.25, and Ray sees no GPU"):
        allocate(pools, config, Place("ray"), None, [Node(64)])


def test_memory_says_how_many_workers_machines_hold():
    config = load("quickstart")
    pools = pools_of(config, ALL)
    nodes = [Node(16, 0, 2.5 * pools[0].memory), Node(16, 0, 100 * GB)]
    (share,) = allocate(pools, config, Place("ray"), None, nodes)
    assert share.workers_max == 2 + 16 and share.memory == pools[0].memory
    (share,) = allocate(pools, config, Place("ray", workers=5), 100, nodes[:1])
    assert (share.workers_min, share.workers_max) == (5, 5) and share.memory == pytest.approx(pools[0].memory / 2)
    (share,) = allocate(pools, config, Place("ray"), 100, [Node(4, 0, 1 * GB)])
    assert share.workers_max == 1 and share.memory <= 1 * GB
    threads = load("quickstart", ["execution.threads=4"])
    assert allocate(pools, threads, Place("ray"), None, [Node(16)])[0].workers_max == 4


class Counting(Stage):
    """Counts the clips of each call."""

    name = "counting"

    def __init__(self, fails=()):
        self.calls, self.fails = [], fails

    def process(self, clips):
        self.calls.append(len(clips))
        for clip in clips:
            if clip.start_frame in self.fails:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


def unit(name, clips, start=0):
    return Unit(Video(name), clips=[Clip(start + at, start + at + 1, 0, 1, 0, 1) for at in range(clips)])


def test_a_task_of_several_units_is_one_call_and_shares_its_time():
    stage, units = Counting(), [unit("a", 3), unit("b", 0), unit("c", 5), unit("d", 2).fail("not opened")]
    work(units, [stage])
    assert stage.calls == [8]
    assert units[0].seconds["counting"] / units[2].seconds["counting"] == pytest.approx(3 / 5)
    assert units[1].seconds["counting"] == 0 and "counting" not in units[3].seconds


def test_a_unit_without_memory_costs_none_of_the_others():
    stage, units = Counting(fails=(100,)), [unit("a", 2), unit("b", 2, start=100), unit("c", 2, start=10)]
    work(units, [stage])
    assert [(one.status, one.lost) for one in units] == [("ok", []), ("lost", ["memory"]), ("ok", [])]
    assert not any(clip.errors for one in (units[0], units[2]) for clip in one.clips)


class Scorer:
    name = "scorer"

    def __init__(self, add):
        self.add = add

    def scores(self, images):
        return np.array([image.mean() + self.add for image in images], np.float32)

    def images(self, images):
        return np.array([[image.mean() + 1, self.add] for image in images], np.float32)


def test_a_stage_in_two_pools_fills_the_columns_that_it_fills_in_one():
    def scored():
        made = unit("a", 4)
        for at, clip in enumerate(made.clips):
            clip.values = {"still_first": png(plain((10 * at, 90, 60))) if at else b"broken"}
        return made

    whole, apart = scored(), scored()
    work([whole], [Appearance(Scorer(1), Scorer(2), Scorer(3), Scorer(4))])
    steps = [
        Portion(Appearance(None, None, Scorer(3), Scorer(4)), ["embedder", "appearance.aesthetic"]),
        Portion(Appearance(Scorer(1), Scorer(2)), ["appearance.quality", "appearance.nsfw"]),
    ]
    work([apart], steps[:1])
    assert apart.clips[1].values.keys() & {"image_embedding", "aesthetic_score"} == set()
    work([apart], steps[1:])
    assert [clip.values for clip in apart.clips] == [clip.values for clip in whole.clips]
    assert [clip.errors for clip in apart.clips] == [clip.errors for clip in whole.clips]
    assert apart.clips[1].values["nsfw_score"] and list(apart.seconds) == ["appearance"]


def test_a_worker_builds_only_the_models_of_its_pool():
    config = load("svd", ["execution.gpus=1"])
    cpu, _ = pools_of(config, ALL)
    (portion,) = [step for step in build(config, cpu.stages, cpu.without) if isinstance(step, Portion)]
    assert isinstance(portion.stage.quality, Brisque) and portion.stage.embedder is None
