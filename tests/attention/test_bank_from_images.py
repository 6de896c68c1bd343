"""Bank From Images in the real host: tokens of images that no run has drawn, by hand and by the node."""

import pytest
import torch
from storyreel.core.attention import draws
from storyreel.core.attention.schedule import step_of
from storyreel.core.rng import generator

SIZE = 64  # pixels
TOLERANCE = 1e-5  # relative
RATE = 0.5
STEPS = 2
EVERYWHERE = {"preset": "custom", "sampling_rate": RATE, "sampling_rate_fine": RATE}  # all layers of "up", all steps


@pytest.fixture(scope="module")
def loaded(host, tiny_checkpoint):
    """(MODEL, VAE) of a tiny checkpoint, by name."""
    import nodes

    found = {}

    def loaded(name="sd15_full"):
        if name not in found:
            model, _, vae = nodes.CheckpointLoaderSimple().load_checkpoint(tiny_checkpoint(name).name)
            found[name] = model, vae
        return found[name]

    yield loaded
    found.clear()


def pictures(count, height=SIZE, width=SIZE, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def schedule(host):
    """SIGMAS as BasicScheduler makes them."""
    import comfy.samplers

    def schedule(model, steps=STEPS):
        return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps).cpu()

    return schedule


@pytest.fixture
def small(narrow, loaded):
    """(MODEL, VAE) of SD1.5's layout, a fifth as wide, for what does not depend on the width."""
    return narrow.clone(), loaded()[1]


@pytest.fixture
def record(host, probe, schedule):
    """record(images, model, vae, name, ...): the bank that the node makes.

    model: without Consistent Self-Attention, whose inputs are `attention`; None: no such node. Others are the node's.
    """
    from storyreel.nodes.bank_images import StoryReelBankFromImages

    def record(images, model, vae, name="A", *, width=768, attention=(), sigmas=None, **options):
        shared = model if attention is None else probe.node(host, model, **EVERYWHERE | dict(attention))
        values = dict(
            positive=probe.conditioning(1, width, 1),
            negative=probe.conditioning(1, width, 2),
            sigmas=schedule(model) if sigmas is None else sigmas,
            seed=3,
            precision="fp32",
            device="cpu",
            max_gb=8.0,
            step_stride=1,
        )
        with torch.no_grad():
            return StoryReelBankFromImages.execute(
                model=shared, vae=vae, images=images, name=name, **values | options
            ).result[0]

    return record


def tokens_by_hand(model, vae, image, number, conds, sigma, seed=3):
    """{number of a layer: tokens [2, N, channels]} of cond and uncond before its projection, of a plain forward pass.

    The network is called directly; a hook on each transformer block's first norm reads them.
    """
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    inner, found, hooks = model.model, {}, []
    blocks = [module for _, module in inner.diffusion_model.named_modules() if hasattr(module, "attn1")]
    for layer, block in enumerate(blocks):
        hooks.append(block.norm1.register_forward_hook(lambda _, __, out, layer=layer: found.update({layer: out})))
    try:
        with torch.no_grad():
            latent = inner.process_latent_in(vae.encode(image[None]))
            noise = torch.randn(latent.shape, generator=generator("bank image", seed, number))
            noised = inner.model_sampling.noise_scaling(torch.tensor(sigma), noise, latent)
            context = {"c_crossattn": torch.cat([tokens for ((tokens, _),) in conds])}
            vectors = [
                inner.encode_adm(device="cpu", noise=noise, width=SIZE, height=SIZE, **extras)
                for ((_, extras),) in conds
            ]
            if vectors[0] is not None:
                context["y"] = torch.cat(vectors)
            inner.apply_model(noised.repeat(2, 1, 1, 1), torch.tensor([sigma, sigma]), **context)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def check_by_hand(recording, model, vae, images, conds, sigmas):
    """Every token of a recording is that of a plain pass, and every drawn one is there. Returns how many were."""
    count, origin = 0, recording.origin
    for number, image in enumerate(images):
        for sigma in sigmas[:-1].tolist():
            step = step_of(sigma, sigmas.tolist())
            by_hand = tokens_by_hand(model, vae, image, number, conds, sigma)
            for (at, pixels), layers in recording.layers.items():
                if at != step:
                    continue
                drawn = draws.sample_each(origin.seed, step, pixels, number, recording.levels[pixels].tokens, RATE)
                assert torch.equal(recording.indices[number, step, pixels], drawn.int())
                for row, layer in enumerate(layers):
                    for cond in (0, 1):
                        expected = by_hand[layer][cond][drawn]
                        ours = recording.tokens[number, step, pixels, cond][row]
                        assert ours.shape == expected.shape
                        if len(drawn):
                            assert (ours - expected).abs().max() <= TOLERANCE * by_hand[layer].abs().max()
                        count += len(drawn)
    return count


@pytest.mark.parametrize(("family", "width"), [("sd15_full", 768), ("sdxl_slim", 2048)])
def test_tokens_are_those_of_a_plain_pass(probe, loaded, record, schedule, family, width):
    """Two images, both conds, against a forward pass by hand at each noise level."""
    model, vae = loaded(family)
    images, conds = pictures(2), (probe.conditioning(1, width, 1), probe.conditioning(1, width, 2))
    (recording,) = record(images, model, vae, width=width).recordings
    assert recording.conds == {0, 1} and len(recording.steps) == STEPS
    assert check_by_hand(recording, model, vae, images, conds, schedule(model)) > 0
    assert [(image.characters, image.number, image.prompt) for image in recording.images] == [
        ({"A"}, 0, ""), ({"A"}, 1, "")
    ]  # fmt: skip


def test_it_records_what_the_settings_say(probe, record, schedule, small):
    """Layers by their probabilities, steps by the percents and step_stride; other steps call no model."""
    model, vae = small
    sigmas, calls = schedule(model, 6), []
    model.set_model_unet_function_wrapper(lambda apply, options: calls.append(1) or apply(
        options["input"], options["timestep"], **options["c"])
    )  # fmt: skip
    attention = {"layer_prob_early": 0.5, "layer_prob_late": 0.5, "blocks": "all", "end_percent": 0.8, "seed": 5}
    (recording,) = record(pictures(1), model, vae, sigmas=sigmas, attention=attention, step_stride=2).recordings
    end = model.get_model_object("model_sampling").percent_to_sigma(0.8)
    steps = [step_of(sigma, sigmas.tolist()) for sigma in sigmas[:-1].tolist() if sigma >= end][::2]
    assert 1 < len(steps) < 4 and set(recording.steps) <= set(steps)
    recorded = {(step, layer) for (step, _), layers in recording.layers.items() for layer in layers}
    assert recorded == {(step, layer) for step in steps for layer in range(16) if draws.coin(5, step, layer) < 0.5}
    assert len(calls) == len(recording.steps)
    assert recording.origin.sigmas == tuple(sigmas.tolist()) and recording.origin.seed == 5


def test_several_images_are_those_recorded_one_by_one(record, small):
    """Nothing is shared: the tokens of an image do not depend on the others, and noise follows the number."""
    model, vae = small
    images = pictures(3)
    (three,), (one,) = record(images, model, vae).recordings, record(images[:1], model, vae).recordings
    slots = [slot for slot in three.tokens if slot[0] == 0]
    assert len(one.tokens) == len(slots) > 0
    for slot in slots:
        assert (three.tokens[slot] - one.tokens[slot]).abs().max() <= TOLERANCE * one.tokens[slot].abs().max()
    (changed,) = record(torch.cat([pictures(2, seed=9), images[2:]]), model, vae).recordings
    same = [torch.equal(changed.tokens[slot], three.tokens[slot]) for slot in three.tokens]
    assert same == [slot[0] == 2 for slot in three.tokens]


def test_each_image_has_its_own_prompt_and_size_is_cropped(probe, record, small):
    model, vae = small
    images = pictures(2, 75, 70)
    rows = probe.conditioning(2, 768, 1)
    (recording,) = record(images, model, vae, positive=rows).recordings
    assert (recording.origin.height, recording.origin.width) == (9, 8)
    second = [[rows[0][0][1:], {}]]
    (alone,) = record(images, model, vae, positive=second).recordings
    for slot, tokens in recording.tokens.items():
        assert torch.equal(tokens, alone.tokens[slot]) == (slot[0] == 1 or slot[3] == 1)


def test_previews_are_the_images(record, small):
    images = pictures(1, 64, 192)
    (image,) = record(images, *small).recordings[0].images
    assert image.preview.shape == (43, 128, 3) and image.preview.dtype == torch.uint8
    assert abs(image.preview.float().mean() / 255 - images.mean()) < 0.02
    (image,) = record(images[:, :, :64], *small).recordings[0].images
    assert torch.equal(image.preview, (images[0, :, :64] * 255).round().byte())


@pytest.mark.parametrize("per_image", [False, True])
def test_only_tokens_inside_the_mask_are_recorded(loaded, record, schedule, per_image):
    """The left half of the first image, the lower half of the second; or the left half of both."""
    model, vae = loaded()
    images = pictures(2)
    left, low = torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE)
    left[:, : SIZE // 2], low[SIZE // 2 :] = 1, 1
    mask = torch.stack([left, low] if per_image else [left])
    (recording,) = record(images, model, vae, mask=mask, sigmas=schedule(model, 1)).recordings
    (plain,) = record(images, model, vae, sigmas=schedule(model, 1)).recordings
    for (number, step, pixels), index in recording.indices.items():
        side = SIZE // pixels
        y, x = index // side, index % side
        inside = y >= side // 2 if per_image and number == 1 else x < side // 2
        assert inside.all()  # a level of 1 x 1 token is half inside
        drawn = plain.indices[number, step, pixels]
        kept = torch.isin(drawn, index)
        y, x = drawn // side, drawn % side
        expected = y >= side // 2 if per_image and number == 1 else x < side // 2
        assert side == 1 or torch.equal(kept, expected)
        for cond in (0, 1):
            slot = number, step, pixels, cond
            assert torch.equal(recording.tokens[slot], plain.tokens[slot][:, kept])


def test_a_mask_is_cropped_as_the_images_are(record, small):
    """Of 79 pixels the VAE cuts 3 and 4. Of the first 5, which are white, 2 remain: not half of a token."""
    mask = torch.zeros(1, 64, 79)
    mask[:, :, :5], mask[:, :, 43:] = 1, 1
    (recording,) = record(pictures(1, 64, 79), *small, mask=mask).recordings
    columns = [set((index % 9).tolist()) for (*_, pixels), index in recording.indices.items() if pixels == 8]
    assert columns and all(found == {5, 6, 7, 8} for found in columns)


def test_a_mask_too_small_for_any_token_is_reported(record, small, caplog):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[0, 0, 0] = 1
    record(pictures(1), *small, mask=mask)
    assert "mask covers less than half of every token of image 1" in caplog.text


@pytest.mark.parametrize(("apply_to", "conds"), [("cond", {0}), ("uncond", {1}), ("both", {0, 1})])
def test_conds_are_those_of_the_settings(record, small, apply_to, conds):
    (recording,) = record(pictures(1), *small, attention={"apply_to": apply_to}).recordings
    assert recording.conds == conds


def test_a_lora_is_in_the_tokens(probe, loaded, record, schedule):
    """As in a forward pass with the LoRA by hand."""
    import comfy.sd

    model, vae = loaded()
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v"
    weight = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_v.weight
    ones = torch.randn(2, *weight.shape, generator=torch.Generator().manual_seed(0))
    lora = {f"{key}.lora_up.weight": ones[0, :, :4], f"{key}.lora_down.weight": ones[1, :4] * 0.05}
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    images, conds = pictures(1), (probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2))
    (recording,) = record(images, with_lora, vae).recordings
    (plain,) = record(images, model, vae).recordings
    assert not any(torch.equal(recording.tokens[slot], plain.tokens[slot]) for slot in plain.tokens)
    assert check_by_hand(recording, with_lora, vae, images, conds, schedule(model)) > 0
    assert recording.origin.model == plain.origin.model


def test_a_model_that_shares_and_records_gives_the_same(host, probe, record, small):
    """Tokens are the plain model's, whatever the story, mask, bank or recorder of MODEL."""
    from storyreel.nodes.record import StoryReelRecordCharacters

    model, vae = small
    images = pictures(2)
    plain = record(images, model, vae)
    story = probe.story_of("A", "B", "A")
    options = EVERYWHERE | dict(story=story, mask=torch.ones(3, 8, 8), bank=plain)
    shared = probe.node(host, model, **options)
    recorder, other = StoryReelRecordCharacters.execute(
        model=shared, precision="fp32", device="cpu", max_gb=8.0, step_stride=1
    ).result
    for each in (shared, recorder):
        again = record(images, each, vae, attention=None)
        tokens = again.recordings[0].tokens
        assert all(torch.equal(tokens[slot], plain.recordings[0].tokens[slot]) for slot in plain.recordings[0].tokens)
    assert not other.finished and not other.recordings


def test_a_frame_reads_it_and_so_it_does_from_a_file(host, probe, record, small, tmp_path):
    """Other than the plain frame, and the same after saving and loading. Other characters read nothing."""
    from safetensors.torch import save_file
    from storyreel.core.attention.bank_format import decode, encode

    model, vae = small
    bank = record(pictures(2), model, vae)
    tensors, metadata = encode(bank)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "bank", metadata)
    conds = probe.conditioning(1, 768, 4), probe.conditioning(1, 768, 5)

    def draw(of, name="A"):
        reader = model if of is None else probe.node(host, model, **EVERYWHERE, story=probe.story_of(name), bank=of)
        return probe.sample(reader, *conds, probe.latent(1))

    plain, drawn = draw(None), draw(bank)
    assert (drawn - plain).abs().max() > 1e-3 * plain.abs().max()
    assert torch.equal(draw(decode(tensors, metadata)), drawn)
    assert torch.equal(draw(bank, "B"), plain)


def test_a_bank_without_a_name_is_read_without_a_story(host, probe, record, small):
    model, vae = small
    bank = record(pictures(1), model, vae, name="")
    conds = probe.conditioning(1, 768, 4), probe.conditioning(1, 768, 5)
    drawn = probe.sample(probe.node(host, model, **EVERYWHERE, bank=bank), *conds, probe.latent(1))
    assert not torch.equal(drawn, probe.sample(model, *conds, probe.latent(1)))
    assert record(pictures(1), model, vae, name=" [A] ").characters == {"A"}


def test_an_interrupt_leaves_nothing(record, small, schedule):
    """It ends in the second image, and the same MODEL records the same as before afterwards."""
    import comfy.model_management

    model, vae = small
    before, calls = record(pictures(2), model, vae), []

    def interrupt(apply, options):
        calls.append(1)
        comfy.model_management.interrupt_current_processing(len(calls) == STEPS + 1)
        return apply(options["input"], options["timestep"], **options["c"])

    interrupted = model.clone()
    interrupted.set_model_unet_function_wrapper(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        record(pictures(2), interrupted, vae)
    assert len(calls) == STEPS + 1
    after = record(pictures(2), model, vae)
    tokens = before.recordings[0].tokens
    assert all(torch.equal(after.recordings[0].tokens[slot], tokens[slot]) for slot in tokens)


def conditioning_of(count):
    return [[torch.zeros(count, 77, 768), {}]]


REFUSED = {
    "no attention": ({"attention": None}, "MODEL has no Consistent Self-Attention, or its strength is 0; connect"),
    "strength 0": ({"attention": {"strength": 0.0}}, "MODEL has no Consistent Self-Attention, or its strength is 0"),
    "positive": (
        {"positive": conditioning_of(3)},
        "positive holds 3 prompts and images holds 2 images; one prompt for all or one per image is expected.",
    ),
    "negative": ({"negative": conditioning_of(4)}, "negative holds 4 prompts and images holds 2 images"),
    "masks": (
        {"mask": torch.ones(3, 8, 8)},
        "mask holds 3 masks and images holds 2 images; one mask for all or one per image is expected.",
    ),
    "black mask": (
        {"mask": torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])},
        "mask 2 of 2 is black everywhere; paint the character white.",
    ),
    "no vae": ({"vae": None}, "The vae input is empty: the checkpoint holds no VAE. Load one with Load VAE."),
    "tiny": ({"images": pictures(2, 64, 40)}, "images are 40 x 64 pixels; at least 64 x 64 are expected."),
    "no step": (
        {"attention": {"start_percent": 0.9, "end_percent": 0.9}},
        "settings of Consistent Self-Attention: start_percent 0.9 is not less than end_percent 0.9",
    ),
    "too late": (
        {"attention": {"end_percent": 0.1}, "sigmas": torch.tensor([0.5, 0.1, 0.0])},
        "settings of Consistent Self-Attention: 0 of 2 steps share tokens: 2 are after end_percent 0.1",
    ),
    "too large": (
        {"max_gb": 0.001, "sigmas": torch.linspace(14, 0, 40)},
        "GB), the number of images, sampling_rate of Consistent Self-Attention.",
    ),
    "one sigma": ({"sigmas": torch.tensor([1.0])}, "sigmas holds 1 noise levels, which make no step"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_a_sentence_before_the_model_runs(record, small, case):
    options, sentence = REFUSED[case]
    model, vae = small
    model.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model runs"))
    options = {"images": pictures(2), "model": model, "vae": vae} | options
    with pytest.raises(ValueError, match="Bank From Images: ") as refused:
        record(**options)
    assert sentence in str(refused.value)


def test_a_transformer_and_the_vae_of_another_family_are_refused(host, probe, record, small, models, loaded):
    model, vae = small
    with pytest.raises(ValueError, match="MODEL is .*; a UNet .SD1.5, SD2.x or SDXL. is expected"):
        record(pictures(1), models("flux"), vae, sigmas=torch.tensor([1.0, 0.0]), attention={"preset": "low-vram"})
    sixteen = Encoder()
    with pytest.raises(ValueError, match="vae makes latents of the shape .1, 16, 8, 8., and MODEL takes 4 channels"):
        record(pictures(1), model, sixteen)


class Encoder:
    """A VAE of 16 channels, as Flux has."""

    def encode(self, images):
        return torch.zeros(1, 16, images.shape[1] // 8, images.shape[2] // 8)
