"""Settings of Consistent Self-Attention without effect are reported on the node; runs in parts draw what a whole one
draws. In the real host, with the included demo model."""

import pytest
import torch
from harness.masks import left_half

SIZE = 64
SCENES = "[Pim] waving in a meadow #One\n[Pim] walking right in a town #Two"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def prompt(scenes=SCENES, settings=None, mask=None, sampling=None, denoise=None, ours=True):
    """A story with node "csa" on its model and "k" that samples it. denoise: of a second pass after a plain first."""
    settings = {"preset": "low-vram", "strength": 1.0, "seed": 3} | (settings or {})
    sampling = dict(seed=5, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0) | (sampling or {})
    characters = "[Pim] a blue hero with a yellow pointed hat\n[Mo] a red hero"
    conds = dict(positive=["rows", 0], negative=["rows", 1])
    nodes = {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "story": node("StoryReelScript", characters=characters, scenes=scenes, style="(No style)", negative=""),
        "rows": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "latent": node("StoryReelStoryLatent", story=["story", 0], width=SIZE, height=SIZE, noise="different"),
        "csa": node("StoryReelConsistentAttention", model=["world", 0], story=["story", 0], **settings),
    }
    if mask is not None:
        nodes["solid"] = node("SolidMask", value=mask, width=SIZE, height=SIZE)
        nodes["csa"]["inputs"]["mask"] = ["solid", 0]
    source = ["latent", 0]
    if denoise is not None:
        nodes["first"] = node("KSampler", model=["world", 0], latent_image=source, **conds, **sampling)
        source, sampling = ["first", 0], sampling | {"denoise": denoise, "steps": 3}
    model = ["csa", 0] if ours else ["world", 0]
    nodes["k"] = node("KSampler", model=model, latent_image=source, **conds, **sampling)
    nodes["save"] = node("SaveLatent", samples=["k", 0], filename_prefix="messages")
    if not ours:
        del nodes["csa"]
    return nodes


def messages(run, node="csa"):
    """The messages on a node: those of its outputs and those sent as events."""
    shown = run.outputs.get(node, {}).get("text", ())
    return [
        *shown,
        *(data["text"] for name, data in run.events if name == "storyreel.message" and data["node"] == node),
    ]


APART = "[Pim] waving in a meadow\n[Mo] walking right in a town"


@pytest.mark.parametrize(
    "changed, message",
    [
        # a second pass that starts after the end, as the help recommends
        (dict(denoise=0.2, settings={"preset.end_percent": 0.75}), "0 of 3 steps share tokens: 3 are after"),
        (dict(settings={"strength": 0.0}), "strength is 0, so this node has no effect"),
        (dict(settings={"preset.sampling_rate": 0.0, "preset.sampling_rate_fine": 0.0}), "sampling_rate is 0"),
        (dict(settings={"preset.start_percent": 0.9, "preset.end_percent": 0.4}), "start_percent 0.9 is not less than"),
        (dict(settings={"apply_to": "uncond"}), "apply_to is uncond, but this run did not compute it"),
        (dict(mask=0.0), "the mask is black everywhere"),
        (dict(mask=0.3), "the mask covers less than half of every token"),
        (dict(scenes=APART), "no frames share tokens, so this node has no effect: no character is in two frames"),
        (dict(scenes=SCENES.partition("\n")[0]), "the LATENT has 1 image, so no tokens are shared"),
        (dict(settings={"preset": "paper", "preset.tile_size": 1}), "tile_size and anchors separate all frames"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_setting_without_effect_is_reported_once_and_has_none(host, changed, message):
    run = host.run(prompt(**changed))
    assert [message in text for text in messages(run)] == [True]
    changed.pop("settings", None)
    changed.pop("mask", None)
    plain = host.run(prompt(**changed, ours=False))
    assert torch.equal(run.values["k"][0]["samples"], plain.values["k"][0]["samples"])


@pytest.mark.parametrize("preset", ["low-vram", "mask"])
def test_one_step_shares_without_a_message(host, preset):
    sampling = {"steps": 1}
    run = host.run(prompt(settings={"preset": preset}, sampling=sampling))
    plain = host.run(prompt(sampling=sampling, ours=False))
    assert not torch.equal(run.values["k"][0]["samples"], plain.values["k"][0]["samples"]) and messages(run) == []


def test_a_part_of_a_run_before_the_start_is_reported(host):
    """KSampler Advanced ends at step 1 of 6 and hands its noise on: the published program shares from step 1 on."""
    nodes = prompt()
    inputs = nodes["k"]["inputs"]
    inputs |= dict(add_noise="enable", noise_seed=inputs.pop("seed"), start_at_step=0, end_at_step=1, steps=6)
    inputs["return_with_leftover_noise"] = "enable"
    del inputs["denoise"]
    nodes["k"]["class_type"] = "KSamplerAdvanced"
    (message,) = messages(host.run(nodes))
    assert "0 of 1 step share tokens: 1 is before start_percent 0.02, lower it" in message


def test_a_message_goes_to_the_node_of_the_patch_and_to_no_other(host):
    nodes = prompt(denoise=0.2, settings={"preset.end_percent": 0.75})
    nodes["other"] = {**nodes["csa"], "inputs": {**nodes["csa"]["inputs"], "preset.end_percent": 1.0}}
    nodes["k2"] = {**nodes["k"], "inputs": {**nodes["k"]["inputs"], "model": ["other", 0]}}
    nodes["save2"] = node("SaveLatent", samples=["k2", 0], filename_prefix="messages")
    run = host.run(nodes)
    assert len(messages(run)) == 1 and messages(run, "other") == []


def test_unknown_words_are_reported_at_the_encoder_or_the_loader(host):
    nodes = prompt(scenes="[Pim] waving in a helicopter\n[Pim] walking right in a town")
    nodes["text"] = node("CLIPTextEncode", clip=["world", 1], text="a blue zeppelin")
    nodes["k"]["inputs"] |= {"negative": ["text", 0], "cfg": 2.0}
    run = host.run(nodes)
    assert "helicopter" in messages(run, "rows")[0] and "zeppelin" not in "".join(messages(run, "rows"))
    assert "zeppelin" in messages(run, "world")[0] and "helicopter" not in "".join(messages(run, "world"))


def test_a_replaced_patch_is_reported_on_its_node(host):
    """As an event, because it is known only when the model samples."""
    from comfy_api.latest import io

    class TakesOver(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("TakesOver", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

        @classmethod
        def execute(cls, model):
            from comfy.ldm.modules.attention import optimized_attention

            patched = model.clone()
            replacements = patched.model_options["transformer_options"]["patches_replace"]["attn1"]
            block = next(iter(replacements))

            def attend(q, k, v, extra_options):
                return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options)

            patched.set_model_attn1_replace(attend, *block)
            return io.NodeOutput(patched)

    nodes = prompt()
    nodes["foreign"] = node("TakesOver", model=["csa", 0])
    nodes["k"]["inputs"]["model"] = ["foreign", 0]
    with host.node(TakesOver):
        (message,) = messages(host.run(nodes))
    assert "was applied after this node and replaces it" in message


# A run in parts


@pytest.fixture
def exact_model(host, monkeypatch):
    """The demo model whose latents are scaled by a power of two, so that samplers hand them on without rounding."""
    from storyreel.host import storyworld

    storyworld.register()
    model = storyworld.load_model("fp32")
    monkeypatch.setattr(model.model.latent_format, "scale_factor", 0.5)
    return model


@pytest.fixture
def sample(host):
    """KSampler and KSampler Advanced with two images of 64 x 64 pixels."""
    import nodes
    from harness import probe

    conds = probe.conditioning(2, 96, 1), probe.conditioning(1, 96, 2)

    def sample(model, latent=None, sampler="euler", **options):
        latent = latent or {"samples": torch.zeros(2, 12, 8, 8)}
        with torch.no_grad():
            return nodes.common_ksampler(model, 1, 4, 1.0, sampler, "karras", *conds, latent, **options)[0]

    return sample


@pytest.mark.parametrize(
    "preset, sampler", [("low-vram", "euler"), ("low-vram", "heun"), ("low-vram", "dpmpp_2m"), ("paper", "euler")]
)
@pytest.mark.parametrize("split", [1, 2])
def test_a_run_in_two_parts_draws_what_a_whole_one_draws(host, exact_model, sample, sampler, preset, split):
    """Bit by bit where the plain model does; a multistep sampler forgets its history between the parts, so there the
    draws alone are compared."""
    from harness import probe
    from storyreel.core.attention import draws

    def whole_and_parts(model):
        keys = [set(), set()]
        once = draws.generator
        results = []
        for used, parts in zip(keys, ([(0, 10)], [(0, split), (split, 10)]), strict=True):
            draws.generator = lambda *key, used=used: (used.add(key), once(*key))[1]
            latent = None
            try:
                for first, last in parts:
                    ends = dict(start_step=first, last_step=last, force_full_denoise=last == 10)
                    latent = sample(model, latent, sampler, disable_noise=first > 0, **ends)
            finally:
                draws.generator = once
            results.append(latent["samples"])
        return *results, *keys

    plain, plain_parts, *_ = whole_and_parts(exact_model)
    ours, our_parts, drawn, drawn_in_parts = whole_and_parts(probe.node(host, exact_model, preset))
    assert drawn == drawn_in_parts and len(drawn) > 8 and not torch.equal(ours, plain)
    if sampler != "dpmpp_2m":
        assert torch.equal(plain, plain_parts) and torch.equal(ours, our_parts)


def test_masks_of_a_story_serve_some_of_its_frames(host, exact_model, sample):
    """One mask for each frame of the story: two frames drawn by themselves get theirs, not the first two."""
    from harness import probe
    from storyreel.core.story.frames import Frames, mark_frames

    def drawn(*shares):
        story = probe.story_of("A", "A", "A")
        patched = probe.node(host, exact_model, "custom", story=story, mask=left_half(*shares))
        samples = mark_frames(torch.zeros(2, 12, 8, 8), Frames((1, 2), 3))
        return sample(patched, {"samples": samples, "batch_index": [1, 2]})["samples"]

    assert torch.equal(drawn(0.0, 0.5, 1.0), drawn(1.0, 0.5, 1.0)) and torch.equal(
        drawn(0.0, 0.5, 1.0), drawn(0.5, 1.0)
    )
    assert not torch.equal(drawn(0.5, 1.0), drawn(1.0, 0.5))
