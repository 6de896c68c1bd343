"""The metrics of Measure Story. To add one, add an entry to METRICS."""

from dataclasses import dataclass

from torch import Tensor

from ...core.metrics.registry import Entry, compute_available
from ...core.metrics.similarity import StoryScore, character_similarity, check_one_each, text_similarity
from ...core.story.story import Story
from .encoders import Encoder


@dataclass(frozen=True)
class StoryInputs:
    """What the metrics of a story may read. images: embeddings [F, d] by the encoder, one row a frame."""

    story: Story
    images: Tensor
    encoder: Encoder


def _text_encoder(inputs: StoryInputs) -> str | None:
    return inputs.encoder.no_text()


def _text_similarity(inputs: StoryInputs) -> StoryScore:
    return text_similarity(inputs.story, inputs.images, inputs.encoder.embed_prompts(inputs.story.prompts))


METRICS: tuple[Entry[StoryInputs, StoryScore], ...] = (
    Entry("character similarity", lambda inputs: character_similarity(inputs.story, inputs.images)),
    Entry("text-image similarity", _text_similarity, (_text_encoder,)),
)


def measure(story: Story, images: Tensor, encoder: Encoder) -> tuple[dict[str, StoryScore], dict[str, str]]:
    """({name: results}, {name: why it was not computed}) of images [F, H, W, 3], one a frame.

    Raises ValueError for another number of images.
    """
    check_one_each(story, images, "images")  # before they are embedded
    return compute_available(METRICS, StoryInputs(story, encoder.embed_images(images), encoder))
