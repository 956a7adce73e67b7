"""Config sections become adapters, and the stages of one worker share what they can."""

import pytest

from curate.parts import Parts
from pipelines.annotation.models import ModelCache, check_weights, uses, weights
from pipelines.config import load

STAGES = list(Parts().stages)


@pytest.mark.parametrize("name", ["quickstart", "svd"])
def test_every_model_of_a_shipped_config_has_an_adapter_that_knows_its_weights(name):
    config = load(name)
    found = list(uses(config, STAGES))
    assert {use.column for use in found} >= {"shots", "text_area", "image_embedding", "caption_merged", "similarity"}
    assert all(item.model and item.source for use in found for item in use.weights)
    assert all(item.path for _, item in weights(load("quickstart"), STAGES))


def test_no_network_is_loaded_twice():
    config = load("quickstart")
    cache = ModelCache(config)
    embedder, tags, merger = (cache.get(s) for s in (config.embedder, config.captions.frame, config.captions.merge))
    assert cache.get(config.embedder) is embedder
    assert embedder._imagenet is tags._imagenet and embedder._sentences is merger._sentences


def test_what_is_recorded_of_the_models():
    recorded = check_weights(load("quickstart"), STAGES)
    text = recorded["text_area"]["weights"][0]
    assert recorded["text_area"]["pack"] == "embedded" and len(text["sha256"]) == 16
    assert "aesthetic_score" not in recorded  # the embedded pack has no such model
