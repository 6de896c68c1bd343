"""A chunk by the host's own video transformers is that of the host's nodes wired by hand, bit for bit."""

from dataclasses import replace

import pytest
import torch
from harness.chunks import SIZE, cached, calculate, chunk_inputs, noise_images, run, sampler_object


@pytest.fixture(scope="module", autouse=True)
def _let_go():
    yield
    cached.cache_clear()


@pytest.mark.parametrize("switch", [1, 2])
def test_two_experts_are_the_hosts_graph(host, tmp_path, switch):
    """WanImageToVideo, two KSamplerAdvanced, VAEDecode: equal to the last bit, by a sampler that adds noise, too."""
    import nodes
    from comfy_extras.nodes_wan import WanImageToVideo

    for name in ("euler", "euler_ancestral"):
        steps = 3
        sampler = dict(
            sampler=sampler_object(name), sigmas=calculate(chunk_inputs(host, "wan22").model, "simple", steps)
        )
        inputs = chunk_inputs(host, "wan22_experts", switch_step=switch, **sampler)
        clip = noise_images(6)
        (chunk,), _ = run(inputs, tmp_path / name, clip, chunks=1)
        with torch.no_grad():
            rows = [[[cond[0][0][:1], {}]] for cond in (inputs.positive, inputs.negative)]
            positive, negative, latent = WanImageToVideo.execute(*rows, inputs.vae, SIZE, SIZE, 5, 1, clip[-1:]).result
            settings = (inputs.seed + 1, steps, inputs.cfg, name, "simple", positive, negative)
            advanced = nodes.KSamplerAdvanced()
            (latent,) = advanced.sample(inputs.model, "enable", *settings, latent, 0, switch, "enable")
            low = inputs.low_noise_model
            (latent,) = advanced.sample(low, "disable", *settings, latent, switch, 10000, "disable")
            (expected,) = nodes.VAEDecode().decode(inputs.vae, latent)
        assert torch.equal(chunk, expected[1:])
        one, _ = run(replace(inputs, low_noise_model=None), tmp_path / f"{name} one", clip, chunks=1)
        assert not torch.equal(chunk, one[0])


def test_the_published_switch(host):
    """At the first sigma below 0.9; the steps of both experts are counted through."""
    from storyreel.host.extend.families import extender_of

    sigmas = torch.tensor([1.0, 0.95, 0.9, 0.89, 0.5, 0.0])
    inputs = chunk_inputs(host, "wan22_experts", switch_step=0, sigmas=sigmas)
    (_, high), (_, low) = extender_of(inputs).experts()
    assert high.tolist() == sigmas[:4].tolist() and low.tolist() == sigmas[3:].tolist()
    counted = []
    with torch.no_grad():
        before = noise_images(1)
        extender_of(inputs).generate(
            0, before, before, lambda step, _denoised, _x, steps: counted.append((step, steps))
        )
    assert counted == [(step, 5) for step in range(5)]


@torch.no_grad()
def by_hand(inputs, positive, negative, latent, crop=lambda positive, negative, latent: latent):
    """The frames of a chunk by the host's SamplerCustomAdvanced and VAEDecode."""
    import nodes
    from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise, SamplerCustomAdvanced

    (noise,) = RandomNoise.execute(inputs.seed + 1).result
    (guider,) = CFGGuider.execute(inputs.model, positive, negative, inputs.cfg).result
    latent = SamplerCustomAdvanced.execute(noise, guider, inputs.sampler, inputs.sigmas, latent).result[0]
    return nodes.VAEDecode().decode(inputs.vae, crop(positive, negative, latent))[0]


def first_rows(inputs) -> tuple[list, list]:
    """The prompts of the first chunk, as the host's CLIPTextEncode gives them."""
    from storyreel.host.common.conditioning import pick_row

    return pick_row(inputs.positive, 0), pick_row(inputs.negative, 0)


@torch.no_grad()
@pytest.mark.parametrize("overlap", [1, 5])
def test_wan_is_the_hosts_graph(host, tmp_path, overlap):
    from comfy_extras.nodes_wan import WanImageToVideo

    inputs, clip = chunk_inputs(host, "wan", overlap=overlap), noise_images(6)
    (chunk,), _ = run(inputs, tmp_path, clip, chunks=1)
    before = clip[-overlap:]
    vision = inputs.clip_vision.encode_image(before[:1])
    conditioned = WanImageToVideo.execute(*first_rows(inputs), inputs.vae, SIZE, SIZE, 9, 1, before, vision).result
    assert torch.equal(chunk, by_hand(inputs, *conditioned)[overlap:])


@torch.no_grad()
@pytest.mark.parametrize("reference", [False, True])
def test_wan_vace_is_the_hosts_graph(host, tmp_path, reference):
    """Given frames before gray ones, masks that are 0 at them, and a reference image if one is connected."""
    from comfy_extras.nodes_wan import TrimVideoLatent, WanVaceToVideo

    image = noise_images(1, 8)[:, :48] if reference else None
    inputs, clip = chunk_inputs(host, "wan_vace", reference_image=image), noise_images(6)
    (chunk,), _ = run(inputs, tmp_path, clip, 0 if image is None else image, chunks=1)
    video, masks = torch.full((9, SIZE, SIZE, 3), 0.5), torch.ones(9, SIZE, SIZE)
    video[:5], masks[:5] = clip[1:], 0
    conditioned = WanVaceToVideo.execute(
        *first_rows(inputs), inputs.vae, SIZE, SIZE, 9, 1, 1.0, video, masks, image
    ).result
    trim = conditioned[3]
    assert trim == int(reference)
    frames = by_hand(inputs, *conditioned[:3], lambda _p, _n, latent: TrimVideoLatent.execute(latent, trim).result[0])
    assert torch.equal(chunk, frames[5:])
    assert not torch.equal(chunk, run(inputs, tmp_path / "other", clip.flip(0), chunks=1)[0][0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ltx", "ltx2"])
def test_ltx_is_the_hosts_graph(host, tmp_path, kind):
    """The last frames as a guide at 0, which is cropped; the clip's frame rate, if the prompts have none."""
    from comfy_extras import nodes_lt

    inputs, clip = chunk_inputs(host, kind, frame_rate=12.0), noise_images(9)
    (chunk,), _ = run(inputs, tmp_path, clip, chunks=1)

    def graph(rate: float):
        rows = nodes_lt.LTXVConditioning.execute(*first_rows(inputs), rate).result
        (latent,) = nodes_lt.EmptyLTXVLatentVideo.execute(SIZE, SIZE, 17, 1).result
        conditioned = nodes_lt.LTXVAddGuide.execute(*rows, inputs.vae, latent, clip, 0, 1.0).result
        return by_hand(inputs, *conditioned, lambda *row: nodes_lt.LTXVCropGuides.execute(*row).result[2])

    assert torch.equal(chunk, graph(12.0)[9:])
    rated = [
        [[cond, {**extras, "frame_rate": 50.0}] for cond, extras in row] for row in (inputs.positive, inputs.negative)
    ]
    other, _ = run(replace(inputs, positive=rated[0], negative=rated[1]), tmp_path / "rated", clip, chunks=1)
    assert torch.equal(other[0], graph(50.0)[9:]) and not torch.equal(other[0], chunk)


@torch.no_grad()
@pytest.mark.parametrize("overlap", [1, 5])
def test_hunyuan_is_the_hosts_graph(host, tmp_path, overlap):
    from comfy_extras.nodes_hunyuan import HunyuanVideo15ImageToVideo

    inputs, clip = chunk_inputs(host, "hunyuan", overlap=overlap), noise_images(6)
    (chunk,), _ = run(inputs, tmp_path, clip, chunks=1)
    before = clip[-overlap:]
    vision = inputs.clip_vision.encode_image(before[:1])
    conditioned = HunyuanVideo15ImageToVideo.execute(
        *first_rows(inputs), inputs.vae, SIZE, SIZE, 9, 1, before, vision
    ).result
    assert torch.equal(chunk, by_hand(inputs, *conditioned)[overlap:])


@pytest.mark.parametrize("kind, latent_frames", [("wan_vace", 3), ("ltx", 3)])
def test_a_preview_shows_frames_of_the_chunk(host, kind, latent_frames):
    """And neither a reference nor a guide, which have latent frames of their own."""
    from storyreel.host.extend.families import extender_of

    image, shown = noise_images(1), []
    extender = extender_of(chunk_inputs(host, kind, reference_image=image))
    with torch.no_grad():
        before = noise_images(extender.overlap)
        extender.generate(0, before, image, lambda step, denoised, x, steps: shown.append(denoised.shape[2]))
    assert shown == [latent_frames] * 2
