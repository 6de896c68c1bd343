"""Texts of unequal length in one batch of Z-Image or Lumina 2, each drawn as alone.

Text tokens of these networks have positions, and the image comes after the text. In a batch, shorter texts move to the
right and end where the longest ends. Rotary positions act by their distances alone, so nothing changes for them.
"""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from ...core.attention.positions import Movement, Rope, angles


class AlignedText:
    """The text of a NextDiT: rows of unequal length, each filled up as the network would alone, end at one place.

    own: [B, T], which tokens are the prompts'. x: the model's input. conds: the model's other conditions.

    length: that the network gets. padding: [B, length], where its own pad token stands. outside: [B, tokens], what no
    row reads, of the `tokens` that stand before the image; the texts of reference images are among these. starts: how
    far the rows have moved. filling: the tokens that fill up an image, the last of a sequence; image: tokens of images.
    """

    def __init__(self, network, own: Tensor, x: Tensor, conds: dict):
        self.network, self.own, self.device = network, own, x.device
        multiple = network.pad_tokens_multiple or 1
        counts = own.sum(1).tolist()
        lengths = [_rounded(count, multiple) for count in counts]
        references, texts = len(conds.get("ref_latents") or ()), conds.get("ref_contexts") or ()
        of_texts = [text.shape[1] for text in texts]
        of_references = [_rounded(count, multiple) for count in of_texts]
        before = sum(of_references[:references]) + multiple * max(0, references - len(texts))
        behind = sum(of_references[references:]) if references else 0
        self.length, images = max(lengths), _image_sequences(network, x, conds)
        while (self.length > min(lengths) and before + self.length + behind in images) or self.length in of_texts:
            self.length += multiple  # so that nothing else is as long
        height, width = _in_patches(network, x)
        self.filling, self.image = (0 if references else -height * width % multiple), images[0]
        self.tokens = before + self.length + behind
        self.starts = [self.length - length for length in lengths]
        self.padding = torch.zeros(len(own), self.length, dtype=torch.bool)
        self.outside = torch.zeros(len(own), self.tokens, dtype=torch.bool)
        for row, (start, count) in enumerate(zip(self.starts, counts, strict=True)):
            self.padding[row, start + count :] = True
            self.outside[row, before : before + start] = True

    def align(self, text: Tensor) -> Tensor:
        """[B, T, C] -> [B, length, C]"""
        aligned = text.new_zeros(len(text), self.length, text.shape[2])
        for row, start in enumerate(self.starts):
            own = text[row, self.own[row]]
            aligned[row, start : start + len(own)] = own
        return aligned

    def moved_padding(self, attention: Callable) -> Callable:
        """The attention override that has the padding of an image where `attention` expects it."""
        return MovedPadding(self, attention) if self.filling else attention

    @contextmanager
    def pad_tokens(self):
        """Inside, the network has its own pad token where a row is padded.

        The module is exchanged, as a hook would not be seen by a network that is already compiled.
        """
        embedder = self.network.cap_embedder
        if self.padding.any():
            self.network.cap_embedder = PadTokens(embedder, self.network.cap_pad_token, self.padding)
        try:
            yield
        finally:
            self.network.cap_embedder = embedder


class PadTokens(torch.nn.Module):
    """The text embedder of a network, with the network's pad token where `padding` [B, T] says."""

    def __init__(self, embedder: torch.nn.Module, token: Tensor, padding: Tensor):
        super().__init__()
        self.embedder, self.token, self.padding = embedder, token, padding

    def forward(self, text: Tensor) -> Tensor:
        embedded = self.embedder(text)
        if embedded.shape[:2] != self.padding.shape:
            return embedded  # the text of a reference image
        return torch.where(self.padding.to(embedded.device)[..., None], self.token.to(embedded), embedded)


class MovedPadding:
    """The attention override that moves the tokens that fill up an image along with their row's text.

    The network has them at position 0, so their distance to the text and the image would change. During a call, their
    queries and keys are turned by the angles of the distance.
    """

    def __init__(self, text: AlignedText, attention: Callable):
        self.text, self.attention = text, attention
        embedder = text.network.rope_embedder
        self.channels = embedder.axes_dim[0]
        rope = Rope((self.channels,), (float(embedder.theta),))
        turned = torch.stack([angles(rope, (start,)) for start in text.starts])[:, None, None]
        cosines, sines = (part.to(text.device, torch.float32) for part in (turned.cos(), turned.sin()))
        self.turn = Movement(cosines, sines, interleaved=True)

    def __call__(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        in_block = "block_type" in (kwargs.get("transformer_options") or {})
        keys = k.shape[2] if kwargs.get("skip_reshape") else 0
        if not (keys > self.text.tokens if in_block else keys == self.text.image) or len(k) != len(self.text.starts):
            return self.attention(func, q, k, v, heads, *args, **kwargs)
        ends = [tensor[:, :, -self.text.filling :, : self.channels] for tensor in (q, k)]
        before = [end.clone() for end in ends]
        try:
            for end in ends:
                end.copy_(self.turn(end))
            return self.attention(func, q, k, v, heads, *args, **kwargs)
        finally:
            for end, values in zip(ends, before, strict=True):
                end.copy_(values)


def _image_sequences(network, x: Tensor, conds: dict) -> list[int]:
    """How long the sequences of images are that a NextDiT refines before its blocks."""
    multiple = network.pad_tokens_multiple or 1
    latents = [*(conds.get("ref_latents") or ()), x]
    sides = [_in_patches(network, latent) for latent in latents]
    features = [feature.shape[1] * feature.shape[2] for feature in conds.get("siglip_feats") or ()]
    images = sum(_rounded(height * width, multiple) for height, width in sides)
    return [images, sum(_rounded(count, multiple) for count in features) + multiple * (len(latents) - len(features))]


def _in_patches(network, latent: Tensor) -> list[int]:
    return [-(-side // network.patch_size) for side in latent.shape[-2:]]


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
