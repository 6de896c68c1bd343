"""A small DynamiCrafter among Storyworld's own weights: loaded by the same node, conditioned by Storyworld's encoders,
sampled by stock nodes and by the pack's own. The weights are random: the test is that all parts fit."""

import pytest
import torch

FRAMES, WIDTH, CHANNELS = 6, 96, 12
METADATA = {"base_scale": 0.9, "default_fs": 7, "image_tokens": 3, "dim_head": 16, "head_channels": 32}


@pytest.fixture(scope="module")
def checkpoint(host, tmp_path_factory):
    """(the loaded file, the loader's list of files)"""
    import folder_paths
    from harness import dynamicrafter
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import loader

    folder = tmp_path_factory.mktemp("storyworld")
    dynamicrafter.write_storyworld(folder / "storyworld_video.safetensors", FRAMES, **METADATA)
    with pytest.MonkeyPatch.context() as patch:
        known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
        patch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(folder), *known[0]], known[1]))
        names = loader.checkpoint_names()
        yield loader.load("storyworld_video.safetensors", precision=torch.float32), names


@pytest.fixture(scope="module")
def condition(checkpoint):
    """condition(mode) -> positive, image only, negative, LATENT, by Storyworld's own models."""
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import conditioning

    vae, clip, vision = storyworld.load_vae(), storyworld.load_clip(), storyworld.load_clip_vision()
    pictures = torch.rand(2, 1, 128, 128, 3, generator=torch.Generator().manual_seed(1))

    def build(mode: str = "animate", frames: int = FRAMES) -> tuple:
        prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red hero waving", "")]
        end = pictures[1] if mode == "interpolate" else None
        return conditioning.condition(*prompts, vision, vae, pictures[0], end, mode, 128, 128, frames, None)

    return build


def test_the_loader_lists_it_and_reads_its_metadata(checkpoint):
    loaded, names = checkpoint
    assert "storyworld_video.safetensors" in names
    model = loaded.model.model
    assert model.image_proj_model.config.heads == 3 and model.image_proj_model.config.dim_head == 16
    assert model.sizes.default_fs == 7 and model.sizes.image_tokens == 3 and model.sizes.head_channels == 32
    assert model.sizes.init_head_channels == 8
    assert float(model.model_sampling.scales[-1]) == pytest.approx(0.9)
    assert model.latent_format.latent_channels == CHANNELS
    assert model.process_latent_in(torch.tensor(0.8)) == pytest.approx(1.0)
    assert (loaded.clip, loaded.clip_vision, loaded.vae) == (None, None, None)


def test_published_files_keep_the_published_values(host):
    from storyreel.host.dynamicrafter.loader import TYPES

    assert {kind.image_tokens for kind in TYPES.values()} == {16}
    assert {kind.dim_head for kind in TYPES.values()} == {64}
    assert {kind.latents for kind in TYPES.values()} == {None}


@pytest.mark.parametrize("mode", ["animate", "interpolate", "loop"])
@torch.no_grad()
def test_the_stock_sampler_and_the_autoencoder_of_storyworld(checkpoint, condition, mode):
    import nodes
    from storyreel.host import storyworld

    positive, _, negative, latent = condition(mode)
    assert latent["samples"].shape == (FRAMES, CHANNELS, 16, 16)
    args = checkpoint[0].model, 5, 3, 3.0, "euler", "normal", positive, negative, latent
    samples = nodes.common_ksampler(*args)[0]
    assert samples["samples"].shape == (FRAMES, CHANNELS, 16, 16) and samples["samples"].isfinite().all()
    (decoded,) = nodes.VAEDecode().decode(storyworld.load_vae(), samples)
    assert decoded.shape == (FRAMES, 128, 128, 3)


def test_the_guider_and_ddim(checkpoint, condition):
    """From a script without torch.no_grad."""
    from storyreel.host.dynamicrafter import sampling

    positive, image_only, negative, latent = condition()
    guider = sampling.TextImageGuider(checkpoint[0].model)
    guider.set_conds(positive, image_only, negative)
    guider.set_scales(3.0, 2.0, 0.7)
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(3))
    sigmas = sampling.sigmas_of(checkpoint[0].model, "uniform_trailing", 4)
    samples = guider.sample(noise, latent["samples"], sampling.DDIM(1.0), sigmas, seed=0, disable_pbar=True)
    assert samples.grad_fn is None
    assert samples.shape == noise.shape and samples.isfinite().all()


@torch.no_grad()
def test_concat_latents_are_in_the_models_own_units(checkpoint, condition):
    """The image's latents reach the network divided by the spread, as in its training."""
    from storyreel.host.dynamicrafter import model as keys

    model = checkpoint[0].model.model
    positive, _, _, latent = condition()
    options = positive[0][1]
    conds = model.extra_conds(noise=latent["samples"], device="cpu", cross_attn=positive[0][0], **options)
    torch.testing.assert_close(conds["c_concat"].cond, options[keys.CONCAT_LATENTS] / 0.8)
    assert conds["fs"].cond.tolist() == [7]
    assert conds["c_crossattn"].cond.shape == (1, 77 + 3 * FRAMES, WIDTH)
