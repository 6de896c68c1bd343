"""Whether a CLIP's text projection was loaded, of the files that users have: SD1.5, SDXL, SD2 and clip_l alone."""

import pytest
import torch
from harness import tiny

PREFIX = "text_model."


def has_projection(clip, encoder):
    from storyreel.host.common.text_encoder import has_projection

    return has_projection(clip, encoder)


@pytest.fixture
def load_clip(tmp_path):
    """load_clip(weights) -> the CLIP of a file, as Load CLIP loads it."""
    import comfy.sd

    def load(weights):
        path = tmp_path / "clip_l.ckpt"
        torch.save(weights, path)
        return comfy.sd.load_clip([str(path)])

    return load


@pytest.mark.parametrize("name", ["text_projection.weight", "text_projection"], ids=["transformers", "CLIPSave"])
def test_a_file_with_the_projection_is_measured_with_it(host, load_clip, name):
    from storyreel.host.metrics.features import embed_prompts

    shapes = [*tiny.clip_l(PREFIX), (name, (768, 768))]
    weights = tiny.random_weights(shapes)
    clip = load_clip(weights)
    other = clip.clone()
    other.clip_layer(-2)
    assert has_projection(clip, "clip_l") and has_projection(other, "clip_l")
    (embedded,) = embed_prompts(clip, ("a castle",), 768)
    clip.cond_stage_model.set_clip_options({"projected_pooled": False})
    unprojected = clip.cond_stage_model.clip_l.encode_token_weights(clip.tokenize("a castle")["l"])[1][0]
    projection = weights[name].float()
    expected = unprojected.cpu() @ (projection.T if name.endswith("weight") else projection)
    torch.testing.assert_close(embedded, expected, rtol=1e-3, atol=1e-3)


def test_a_file_of_its_own_may_lack_it_as_well(host, load_clip):
    """The text_encoder folder of SD1.5 in the form of diffusers."""
    assert has_projection(load_clip(tiny.random_weights(tiny.clip_l(PREFIX))), "clip_l") is False


@pytest.mark.parametrize("kept", [False, True], ids=["as published", "saved by an early ComfyUI"])
def test_of_an_sdxl_checkpoint_clip_g_alone_has_it(host, tmp_path, kept):
    """Early versions of the host saved a projection of clip_l under a name that it does not load."""
    import comfy.sd
    from storyreel.host.common.text_encoder import OF_A_CHECKPOINT

    shapes = [*tiny.CHECKPOINTS["sdxl"]()] + [("conditioner.embedders.0.text_projection", (768, 768))] * kept
    torch.save({"state_dict": tiny.random_weights(shapes)}, tmp_path / "sdxl.ckpt")
    clip = tiny.sdxl_clip()
    clip.patcher.attachments.clear()
    assert has_projection(clip, "clip_g") is None
    load = next(getattr(comfy.sd, name) for name in OF_A_CHECKPOINT if hasattr(comfy.sd, name))
    clip.patcher.cached_patcher_init = (load, (str(tmp_path / "sdxl.ckpt"),))
    assert has_projection(clip, "clip_g") is True
    assert has_projection(clip, "clip_l") is False


def test_sd2_checkpoints_have_it(host, tiny_checkpoint):
    clip = host.load_checkpoint(tiny_checkpoint("sd2"))[1]
    assert has_projection(clip, "clip_h") is True
