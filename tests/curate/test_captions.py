import numpy as np
import pytest

from curate.models.embedded.facts import MeasuredFacts, sentence
from curate.models.embedded.merging import GuardedMerger, content, why_not
from curate.stages.captions import Captions, one_line
from tests.curate.pictures import HEIGHT, WIDTH, clip, plain, unit


class Sentences:
    """Sentence embeddings with known cosines: 1 for sentences that share a word with "dog", 0 with the rest."""

    def texts(self, texts):
        return np.array([[1.0, 0.0] if "dog" in text else [0.0, 1.0] for text in texts], np.float32)


def merger(answer="", asked=None):
    def ask(frame, video):
        if asked is not None:
            asked.append((frame, video))
        return answer

    return GuardedMerger(Sentences(), ask, agreement=0.5)


FRAME, VIDEO = "A brown dog on grass.", "A dog runs after a red ball."


@pytest.mark.parametrize(
    ("pair", "answer", "caption", "how"),
    [
        ((None, None), "", None, ""),
        ((FRAME, None), "", FRAME, "frame"),
        ((None, VIDEO), "", VIDEO, "video"),
        (("", VIDEO), "", VIDEO, "video"),
        ((FRAME, "A BROWN dog, on grass"), "", FRAME, "frame"),
        (
            (FRAME, VIDEO),
            "A brown dog runs after a red ball on grass",
            "A brown dog runs after a red ball on grass.",
            "merged",
        ),
        ((FRAME, VIDEO), '"A brown dog running on grass."\nNote:', "A brown dog running on grass.", "merged"),
        (
            (FRAME, VIDEO),
            "A brown dog and a cat run on grass.",
            VIDEO,
            'rejected: the merge brings in "cat"; kept video',
        ),
        (
            (FRAME, VIDEO),
            "A brown dog on grass.",
            VIDEO,
            "rejected: the merge leaves out the video caption; kept video",
        ),
        ((FRAME, VIDEO), "", VIDEO, "rejected: the merge says nothing; kept video"),
    ],
)
def test_merge_rules(pair, answer, caption, how):
    assert merger(answer).explained([pair]) == [(caption, how)]
    assert merger(answer).merge([pair]) == [caption]


def test_captions_that_do_not_agree_are_not_merged_nor_asked_about():
    asked = []
    long = "A man in a suit talks at length into a microphone."
    [(caption, how)] = merger("A dog talks.", asked).explained([(long, FRAME)])
    assert caption == long and "do not agree (cosine 0.00 < 0.5); kept frame" in how and not asked


def test_content_words():
    assert content("A photo of a jeep driving.") == content("The jeeps drive") == content("scene: JEEP, drives")
    assert why_not("The dog's ball", FRAME, VIDEO) is not None  # nothing of the frame caption's own
    assert why_not("A dog with a ball on the grass", FRAME, VIDEO) is None


class Says:
    name = "says"

    def __init__(self, frames=0):
        self.frames = frames
        self.saw = []

    def captions(self, clips):
        self.saw.extend(clips)
        if any(int(view.stills[-1][0, 0, 0]) == 99 for view in clips):
            raise RuntimeError("lost for words")
        return [f" red {int(view.stills[-1][0, 0, 0])}\n of {len(view.frames)} " for view in clips]


class Joins:
    name = "joins"

    def merge(self, pairs):
        return [f"{one} / {two}" if one and two else one or two for one, two in pairs]


def test_captioners_see_what_is_theirs():
    frame, video = Says(), Says(frames=2)
    one = clip(*(plain((value, 0, 0)) for value in (1, 2, 3)), motion_score=5.0)
    one.frames = [one.values["still_first"]] * 2
    stage = Captions(frame, video, Joins)
    stage([unit(one)])
    assert one.values["caption_frame"] == "red 2 of 0" and one.values["caption_video"] == "red 3 of 2"
    assert one.values["caption_merged"] == "red 2 of 0 / red 3 of 2" and one.values["caption_merged_from"] == "merged"
    assert video.saw[0].facts["motion_score"] == 5.0


def test_a_captioner_that_fails_for_one_clip():
    good, bad = clip(plain((1, 0, 0))), clip(plain((99, 0, 0)), start=20)
    Captions(Says(), MeasuredFacts(), Joins())([unit(good, bad)])
    assert good.values["caption_frame"] == "red 1 of 0" and not good.errors
    assert bad.values["caption_frame"] is None and list(bad.errors) == ["caption_frame"]
    assert bad.values["caption_merged"] == bad.values["caption_video"] and bad.values["caption_merged_from"] == "video"


def test_without_captioners_all_is_null_and_nothing_failed():
    one = clip(plain())
    Captions()([unit(one)])
    assert [one.values[column.name] for column in Captions.columns] == [None] * 4 and not one.errors
    assert one_line(" \n ") is None and one_line(None) is None


def test_facts_name_colours_and_light():
    assert sentence([plain((0, 0, 0))], {}) == "A dark scene, mostly black."
    assert sentence([plain((255, 255, 255))], {}) == "A bright scene, mostly white."
    half = plain((30, 60, 220))
    half[:, : WIDTH * 6 // 10] = (30, 200, 60)
    assert sentence([half], {}) == "A scene, mostly green and blue."
    for colour, name in (
        ((220, 30, 30), "red"),
        ((240, 140, 20), "orange"),
        ((120, 70, 20), "brown"),
        ((230, 220, 40), "yellow"),
        ((128, 128, 128), "grey"),
    ):
        assert f"mostly {name}" in sentence([plain(colour)], {})
    rainbow = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours = ((220, 30, 30), (240, 140, 20), (230, 220, 40), (30, 200, 60), (30, 60, 220), (255, 255, 255))
    for column, colour in enumerate(colours):
        rainbow[:, column * WIDTH // 6 : (column + 1) * WIDTH // 6] = colour
    assert sentence([rainbow], {}) == "A scene of many colours."


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({}, "grey."),
        ({"motion_score": None, "camera_pan_x": None, "camera_pan_y": None, "camera_zoom": None}, "grey."),
        ({"motion_score": 0.2}, "grey, with hardly any motion."),
        ({"camera_zoom": 5.0}, "grey; the camera zooms in."),
        (
            {"motion_score": 12.0, "camera_pan_x": 9.0, "camera_pan_y": 1.0, "camera_zoom": 0.0},
            "pans right, with moderate motion.",
        ),
        ({"motion_score": 12.0, "camera_pan_x": -9.0, "camera_pan_y": 1.0}, "pans left, with moderate motion."),
        ({"motion_score": 40.0, "camera_pan_x": 1.0, "camera_pan_y": 9.0}, "tilts down, with a lot of motion."),
        (
            {"motion_score": 4.0, "camera_pan_y": -9.0, "camera_zoom": -4.0},
            "tilts up and zooms out, with little motion.",
        ),
        (
            {"motion_score": 2.0, "camera_pan_x": 0.1, "camera_pan_y": 0.1, "camera_zoom": 0.0},
            "is static, with little motion.",
        ),
    ],
)
def test_facts_say_what_was_measured_and_no_more(facts, end):
    assert sentence([plain((128, 128, 128))], facts).endswith(end)
