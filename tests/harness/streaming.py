"""StreamingT2V's networks in the tests, from the published keys, and the linear network of its blending data."""

import torch
from storyreel.core.diffusion import blending, guidance, prediction, refinement
from storyreel.core.networks.streaming import keys
from storyreel.core.networks.streaming.config import read_config
from storyreel.core.networks.streaming.model import StreamingT2V

from .golden import Golden, part, procedural


def shapes(weights: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict(weights)
    return network.eval()


def streaming_model(listed: dict, seed: int) -> StreamingT2V:
    weights = procedural(listed, seed)
    unet = keys.read_unet(part(weights, keys.UNET))
    extractor = keys.read_extractor(part(weights, keys.EXTRACTOR))
    model = StreamingT2V(read_config(shapes(unet), shapes(extractor)))
    load(model.unet, unet)
    load(model.extractor, extractor)
    return model.eval()


class Toy:
    """The data's linear network, which predicts velocity, and the starts of its chunks."""

    def __init__(self, golden: Golden):
        self.golden = golden
        self.length, self.overlap, self.frames = (golden.said(name) for name in ("chunk", "ov", "total_frames"))
        self.starts = blending.chunk_starts(self.frames, self.length, self.overlap)
        assert len(self.starts) == golden.said("n")

    def parts(self, clip: torch.Tensor) -> list[torch.Tensor]:
        return [clip[:, :, start : start + self.length] for start in self.starts]

    def net(self, x: torch.Tensor, timestep: float, y: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("fg,bcghw->bcfhw", self.golden["toy.M"], x)
        return mixed * (1 - 0.5 * timestep / 1000) + y[:, None, None, None] * self.golden["toy.bias"]

    def guided(self, x: torch.Tensor, timestep: float, scale: float, added=0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """(guided, conditional). added: to what the network is told."""
        cond, uncond = (self.net(x, timestep, self.golden[name] + added) for name in ("toy.y", "toy.y_neg"))
        return uncond + scale * (cond - uncond), cond


class Refiner(Toy):
    """MS-Vid2Vid's denoised clip, blended."""

    def __init__(self, golden: Golden):
        super().__init__(golden)
        self.signal, self.noise = refinement.signal_and_noise()

    def noised(self) -> torch.Tensor:
        start = self.golden.said("tnl") - 1
        return (self.signal[start] * self.golden["in.x0"] + self.noise[start] * self.golden["in.noise"]).float()

    def denoised(self, x: torch.Tensor, timestep: int, offsets: list[int]) -> torch.Tensor:
        chunks = []
        for chunk in self.parts(x):
            v, cond = self.guided(chunk, timestep, self.golden.said("cfg"))
            v = guidance.rescale_guidance(v, cond, self.golden.said("resc"))
            chunks.append(prediction.x0_of_v(chunk, v, self.signal[timestep], self.noise[timestep]).float())
        return blending.blend(chunks, self.starts, [0, *offsets])
