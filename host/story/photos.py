"""Photos of a story's characters in its prompts, by the host's PhotoMaker."""

from collections.abc import Mapping, Sequence

import comfy.clip_vision
import node_helpers
import torch
from torch import Tensor

from ...core.story.story import Character, Story
from ...core.story.trigger_words import Place, mark_photos, place_photos
from ..common import messages
from ..common.conditioning import check_text_encoder, encode_rows

PARTS = {"vision_model", "visual_projection", "visual_projection_2", "fuse_module"}  # of the host's PhotoMaker
ENCODERS = {"l", "g"}  # SDXL's text encoders, by the host's names


def encode_photos(
    clip, photomaker, story: Story, photos: Mapping[str, Tensor], trigger: str, start_percent: float
) -> tuple[list, list]:
    """Positive and negative of a story, as `encode_story` makes them, with photos in the frames of their characters.

    photos: IMAGE [n, H, W, 3] of each character, by name; its description holds the word `trigger` behind a class word.
    start_percent: up to this point of the sampling, the prompts count without photos. Above 0 there are two entries,
    one for the time before it, one for the time after it.
    Raises ValueError for a CLIP that is not SDXL's, or a PhotoMaker that is not of version 1.
    """
    check_text_encoder(clip)
    check_photomaker(photomaker)
    if (empty := clip.tokenize("")).keys() != ENCODERS:
        raise ValueError(
            f"clip has the text encoders {', '.join(sorted(empty))}; PhotoMaker is for SDXL, whose clip has g and l."
        )
    embeddings = {name: embed(photomaker, images) for name, images in photos.items()}
    counts = {name: len(images) for name, images in photos.items()}
    described = {character.name: character for character in story.characters}
    rows, places = [], []
    for frame in story.frames:
        shown = [described[name] for name in frame.characters]
        tokens, found = _tokenize(clip, frame.prompt, shown, counts, trigger)
        rows.append(tokens)
        places.append(found)
    if unused := [name for name in photos if not any(place.owner == name for found in places for place in found)]:
        messages.warn(
            f"no frame shows {', '.join(name or 'the character' for name in unused)}, so the photos have no effect."
        )

    def with_photos(number: int, entries: list) -> list:
        fused = [[_fuse(photomaker, cond, places[number], embeddings), dict(extras)] for cond, extras in entries]
        if not start_percent:
            return fused
        set_range = node_helpers.conditioning_set_values
        before = set_range(entries, {"start_percent": 0.0, "end_percent": start_percent})
        return before + set_range(fused, {"start_percent": start_percent, "end_percent": 1.0})

    return encode_rows(clip, rows, clip.tokenize(story.negative), with_photos)


def check_photomaker(photomaker) -> None:
    """Raise ValueError for anything but the first version of PhotoMaker."""
    if not isinstance(photomaker, torch.nn.Module) or {name for name, _ in photomaker.named_children()} != PARTS:
        raise ValueError(
            f"photomaker is a {type(photomaker).__name__}; a model of PhotoMaker version 1 from Load PhotoMaker Model "
            "is expected."
        )


def embed(photomaker, images: Tensor) -> Tensor:
    """The embedding [n, 2048] of each photo [n, H, W, 3], as the host's PhotoMaker makes it."""
    pixels = comfy.clip_vision.clip_preprocess(images.to(photomaker.load_device)).float()
    seen = photomaker.vision_model(pixels)[2]
    return torch.cat((photomaker.visual_projection(seen), photomaker.visual_projection_2(seen)), dim=-1)


def _tokenize(
    clip, prompt: str, shown: Sequence[Character], counts: Mapping[str, int], trigger: str
) -> tuple[dict, list[Place]]:
    """The tokens of a prompt by encoder, and where photos of those who are shown go."""
    if not any(character.name in counts for character in shown):
        return clip.tokenize(prompt), []
    text, words = mark_photos(prompt, shown, counts, trigger)
    sought = clip.tokenize(trigger, return_word_ids=True)
    tokens, places = {}, []
    for encoder, chunks in clip.tokenize(text, return_word_ids=True).items():
        ids = [token for chunk in sought[encoder] for token, _, word in chunk if word]
        tokens[encoder], places = place_photos(chunks, ids, words, counts)
    return tokens, places


def _fuse(photomaker, cond: Tensor, places: Sequence[Place], embeddings: Mapping[str, Tensor]) -> Tensor:
    """An encoded prompt [1, T, 2048] with the photos in their places."""
    if not places:
        return cond
    device = photomaker.load_device
    mask = torch.zeros(1, cond.shape[1], dtype=torch.bool, device=device)
    mask[0, [place.position for place in places]] = True
    chosen = torch.stack([embeddings[place.owner][place.photo] for place in places])[None, :, None]
    # the host's module writes into the prompt that it gets
    return photomaker.fuse_module(cond.to(device, copy=True), chosen, mask).to(cond.device)
