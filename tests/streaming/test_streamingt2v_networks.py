"""StreamingT2V's networks beyond their published outputs: strengths, cond and uncond, number formats, sizes."""

import pytest
import torch
from harness.dynamicrafter import random
from harness.streaming import load
from storyreel.core.networks.modelscope.config import UNetConfig
from storyreel.core.networks.modelscope.unet import UNet
from storyreel.core.networks.streaming.config import StreamingConfig
from storyreel.core.networks.streaming.model import StreamingT2V

UNET = UNetConfig(
    model_channels=64, channel_mult=(1, 2), num_res_blocks=1, attention=(True, False), head_channels=16, context_dim=24
)
SIZES = StreamingConfig(UNET, frame_widths=(8, 8, 8, 8), text_tokens=7, image_tokens=3)
TIMES = torch.tensor([700, 20])
STRENGTHS = [{"cam_strength": 0.0}, {"apm_strength": 0.0}, {"cam_strength": 0.5}, {"apm_strength": 0.5}]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    network = StreamingT2V(SIZES)
    return load(network, random(network))


@pytest.fixture(scope="module")
def inputs(model):
    """(clip, text, image tokens, features of CAM's frames)"""
    with torch.no_grad():
        features = model.encode_frames(draw(2, 4, 3, 64, 96, seed=4).clamp(-1, 1))
    return draw(2, 4, 6, 8, 12, seed=1), draw(2, 7, 24, seed=2), draw(2, 3, 24, seed=3), features


@torch.no_grad()
def test_strength_0_is_the_model_without(model, inputs):
    x, text, image, features = inputs
    assert torch.equal(model(x, TIMES, text, image, features, cam_strength=0.0), model(x, TIMES, text, image))
    assert torch.equal(model(x, TIMES, text, image, features, apm_strength=0.0), model(x, TIMES, text, None, features))
    plain = UNet(UNET)
    load(plain, {name: t for name, t in model.state_dict().items() if name in plain.state_dict()})
    assert torch.equal(model(x, TIMES, text), plain(x, TIMES, text))
    assert torch.equal(model(x, TIMES, text, image, features, 0.0, 0.0), plain(x, TIMES, text))


@torch.no_grad()
def test_every_strength_matters(model, inputs):
    x, *conditions = inputs
    whole = model(x, TIMES, *conditions)
    assert torch.equal(model(x, TIMES, *conditions, cam_strength=1.0, apm_strength=1.0), whole)
    others = [model(x, TIMES, *conditions, **strengths) for strengths in STRENGTHS]
    outputs = [whole, *others]
    for number, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-2 for other in outputs[:number])


@torch.no_grad()
def test_clips_together_are_as_one_by_one(model, inputs):
    x, text, image, features = inputs
    together = model(x, TIMES, text, image, features)
    for number, frames_of_one in enumerate(features.chunk(2)):
        one = slice(number, number + 1)
        alone = model(x[one], TIMES[one], text[one], image[one], frames_of_one)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-4 * together.abs().max().item())


@torch.no_grad()
def test_memory_is_of_the_frames_before_and_of_the_chunks_first_frames(model, inputs):
    """A change after those that replace the frames before has no effect, a change among them has."""
    x, text, _, features = inputs
    frames = len(features) // len(x)

    def remembered(place: int) -> torch.Tensor:
        changed = x.clone()
        changed[:, :, place] += 1
        return model.extractor(changed[:, :, :frames], TIMES, text, features)[-1]

    before = model.extractor(x[:, :, :frames], TIMES, text, features)[-1]
    assert torch.equal(remembered(frames), before) and not torch.equal(remembered(frames - 1), before)
    assert not torch.equal(model.extractor(x[:, :, :frames], TIMES, text, features.flip(0))[-1], before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
@torch.no_grad()
def test_half_precision(model, inputs, dtype, tolerance):
    whole = model(inputs[0], TIMES, *inputs[1:])
    half = load(StreamingT2V(SIZES), model.state_dict()).to(dtype)
    x, *conditions = (tensor.to(dtype) for tensor in inputs)
    output = half(x, TIMES, *conditions)
    assert output.dtype == dtype
    assert (output - whole).abs().max() <= tolerance * whole.abs().max()


@torch.no_grad()
def test_the_hosts_layers(model, inputs, host):
    """With the host's operations, which keep weights in one number format and work in another."""
    from storyreel.host.common.ops import host_ops

    whole = model(inputs[0], TIMES, *inputs[1:])
    stored = StreamingT2V(SIZES, host_ops(dtype=torch.float16))
    load(stored, model.state_dict())
    output = stored(inputs[0], TIMES, *inputs[1:])
    assert output.dtype == torch.float32
    assert (output - whole).abs().max() <= 1e-2 * whole.abs().max()


@pytest.mark.parametrize(("text", "image"), [(8, 3), (7, 2), (14, 3)])
@torch.no_grad()
def test_another_number_of_tokens_is_refused(model, inputs, text, image):
    with pytest.raises(
        ValueError, match=f"APM was given {text} text and {image} image tokens; this model mixes 7 and 3"
    ):
        model(inputs[0], TIMES, draw(2, text, 24), draw(2, image, 24))
    assert model(inputs[0], TIMES, draw(2, text, 24)).isfinite().all()  # text alone may have any length


@pytest.mark.parametrize("size", [(8, 8), (11, 13), (9, 16), (17, 10)])
@pytest.mark.parametrize("extra_rows", [0, 1])
@torch.no_grad()
def test_images_of_any_size(size, extra_rows):
    """The published refiner supports 90 rows only: others do not fit their skips in the decoder."""
    sizes = dict(model_channels=32, head_channels=16, context_dim=24, num_res_blocks=1, channel_mult=(1, 1, 1, 1))
    network = UNet(UNetConfig(**sizes, extra_rows=extra_rows)).eval()
    assert network(draw(1, 4, 3, *size), TIMES[:1], draw(1, 7, 24)).shape == (1, 4, 3, *size)


@torch.no_grad()
def test_a_single_frame_bypasses_the_first_temporal_layer(model, inputs):
    network, picture = UNet(UNET), inputs[0][:1, :, :1]
    load(network, random(network))
    conditions = TIMES[:1], inputs[1][:1]
    alone, twice = network(picture, *conditions), network(picture.expand(-1, -1, 2, -1, -1), *conditions)
    for parameter in network.input_blocks[0][1].parameters():
        parameter.zero_()
    assert torch.equal(network(picture, *conditions), alone)
    assert not torch.equal(network(picture.expand(-1, -1, 2, -1, -1), *conditions), twice)
