"""StreamingSVD in the host: the stock image-to-video model with CAM."""

import pytest
import torch
from harness.sampled.svd import NAME, sample


@pytest.fixture(scope="module")
def files(host):
    from harness import streaming

    streaming.write(host.base / "models" / "checkpoints" / NAME, streaming.tiny_svd())


@pytest.fixture
def model(files):
    from storyreel.host.streaming import loader

    return loader.load(NAME, precision=torch.float32).model


@pytest.fixture
def stock(files, host):
    """The host's own model of the same weights."""
    import comfy.model_base
    import comfy.model_detection
    import comfy.supported_models
    from harness import streaming
    from harness.golden import part
    from storyreel.host.common.loading import patcher_of, set_precision

    weights = {key: t for key, t in streaming.tiny_svd().items() if "merger" not in key}
    prefix = "model.diffusion_model."
    config = comfy.supported_models.SVD_img2vid(comfy.model_detection.detect_unet_config(weights, prefix))
    set_precision(config, 0, torch.float32)
    network = comfy.model_base.SVD_img2vid(config)
    network.load_model_weights(part(weights, prefix))
    return patcher_of(network)


def test_without_frames_and_at_strength_0_it_is_the_hosts_own(model, stock):
    from storyreel.host.streaming import modelscope as names

    plain = sample(stock)
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(model, cam_seed=4, **{names.CAM_STRENGTH: 0.0}), plain)
    shown = sample(model, cam_seed=4)
    assert shown.isfinite().all() and not torch.equal(shown, plain)
    assert not torch.equal(sample(model, cam_seed=5), shown)
    half = sample(model, cam_seed=4, **{names.CAM_STRENGTH: 0.5})
    assert not torch.equal(half, shown) and not torch.equal(half, plain)


def test_cond_and_uncond_together_or_apart(model, monkeypatch):
    together = sample(model, cam_seed=4)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    torch.testing.assert_close(sample(model, cam_seed=4), together, rtol=0, atol=1e-5 * together.abs().max().item())


def test_partial_offload_gives_the_same(model):
    import comfy.model_management

    whole = sample(model, cam_seed=4)
    comfy.model_management.unload_all_models()
    load = model.partially_load
    model.partially_load = lambda device, extra_memory=0, **kwargs: load(device, 1 << 16, **kwargs)
    assert torch.equal(sample(model, cam_seed=4), whole)
    assert model.model.model_lowvram and model.loaded_size() < model.model_size()


def test_it_composes_with_other_patches(model):
    """A patch on the same seam still runs, once a forward pass of the base and never in CAM, and sees what CAM
    brought; a clone without our wrapper has no CAM."""
    import comfy.patcher_extension
    from storyreel.host.streaming.svd import KEY

    shown, plain = sample(model, cam_seed=4), sample(model)
    patched, calls = model.clone(), []
    patched.set_model_output_block_patch(lambda h, skip, options: calls.append(options["block"]) or (h, skip))
    assert torch.equal(sample(patched, cam_seed=4), shown) and set(calls) == {("output", number) for number in range(4)}
    count = len(calls)
    sample(patched)
    assert len(calls) == 2 * count
    cut = model.clone()
    cut.set_model_output_block_patch(lambda h, skip, options: (h, 0 * skip))
    assert not torch.equal(sample(cut, cam_seed=4), sample(cut))  # CAM's features after the middle block
    bare = model.clone()
    bare.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, KEY)
    assert torch.equal(sample(bare, cam_seed=4), plain) and torch.equal(sample(model, cam_seed=4), shown)


def test_frames_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="CAM reads 3 frames of 48 x 32 pixels, .* has 2 frames"):
        sample(model, cam_seed=4, frames=2)
    from harness.windows import windows

    with pytest.raises(ValueError, match="does not work with context windows. Sample StreamingSVD without"):
        sample(windows(model, 5, 2, False), cam_seed=4)
