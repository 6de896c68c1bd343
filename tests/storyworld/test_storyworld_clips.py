"""The training data of Storyworld's video model: clips whose start is independent of the action, and conditioning."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_the_start_of_a_clip_is_independent_of_its_action(lab):
    """Every start comes with every gentle action about equally often, and so does every part of the image."""
    recipe = lab.train.clips.ClipRecipe(seed=1, count=8000, wide=0.0)
    clips = [recipe.sample(index)[0] for index in range(recipe.count)]
    pairs = Counter((clip.figures[0].action, clip.starts[0]) for clip in clips)
    actions, starts = ({pair[i] for pair in pairs} for i in range(2))
    assert len(pairs) == len(actions) * len(starts)
    assert max(pairs.values()) < 2 * min(pairs.values())
    for side in ("left", "right"):
        x = [clip.figures[0].x for clip in clips if clip.figures[0].action == f"stepping {side}"]
        assert abs(np.mean(x) - 0.5) < 0.02


def test_fewer_frames_a_second_are_more_motion(lab):
    recipe = lab.train.clips.ClipRecipe(seed=1, count=64)
    rates = {}
    for index in range(recipe.count):
        clip, rate = recipe.sample(index)
        rates[rate] = clip.tempo
    slow, fast = max(rates), min(rates)
    assert set(rates) == set(lab.train.clips.RATES) and rates[fast] > 1 > rates[slow]


def test_a_training_resumes_and_ends_the_same(lab, tmp_path):
    """To the last bit, with weights that are frozen and weights that no gradient reaches; finished, it is there at
    once."""
    trainer = lab.train.trainer
    config = trainer.TrainConfig(steps=7, batch_size=3, learning_rate=1e-2, ema=0.9, warmup=2)
    steps = []

    def run(folder: Path, stop_after: int | None = None) -> torch.nn.ModuleDict:
        torch.manual_seed(0)
        modules = torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in ("trained", "frozen", "idle")})
        modules["frozen"].requires_grad_(False)

        def loss(generator: torch.Generator):
            steps.append(folder.name)
            output = modules["trained"](modules["frozen"](torch.randn(config.batch_size, 4, generator=generator)))
            return output.square().mean(), {"size": output.abs().mean().item()}

        trainer.train("net", modules, loss, config, folder, stop_after=stop_after)
        return modules

    whole = run(tmp_path / "whole").state_dict()
    for stop in (3, 5):
        with pytest.raises(trainer.Stopped, match=f"net: stopped after step {stop} of 7"):
            run(tmp_path / "broken", stop)
    resumed = run(tmp_path / "broken").state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    torch.manual_seed(0)
    first, frozen = torch.nn.Linear(4, 4).weight, torch.nn.Linear(4, 4).weight
    assert torch.equal(resumed["frozen.weight"], frozen) and not torch.equal(resumed["trained.weight"], first)
    logs = [(tmp_path / name / "net.jsonl").read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1] and json.loads(logs[0].splitlines()[-1]).keys() == {"step", "loss", "size"}
    assert steps.count("whole") == steps.count("broken") == 7
    again = run(tmp_path / "whole").state_dict()
    assert steps.count("whole") == 7 and all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


def test_results_of_other_processes_come_in_order(lab):
    results = lab.train.drawing.in_order(divmod, 20, [7, 3, 6, 9])
    assert list(results) == [divmod(20, start) for start in (7, 3, 6, 9)]


def test_motion_is_where_something_moves(lab):
    frames = np.zeros((1, 4, 128, 128, 3), np.uint8)
    frames[0, 2, 8:16, 24:32, 1] = 200  # one cell, in the third frame only
    motion = lab.train.clips.motion(frames)
    assert motion.shape == (1, 4, 16, 16)
    assert motion[0, :, 1, 3].tolist() == [0, 200, 200, 200]
    motion[:, :, 1, 3] = 0
    assert not motion.any()


def test_each_condition_is_dropped_in_a_share_of_the_clips(lab):
    from storyreel.core.storyworld.attributes import attributes

    video = lab.train.video
    rng = Random(1)
    clip, _ = video.DATA.sample(0)
    inputs = [video.sample_inputs(rng, clip) for _ in range(4000)]
    modes = Counter(one.mode for one in inputs)
    for mode, share in video.MODES.items():
        assert abs(modes[mode] / len(inputs) - share) < 0.03
    usual = [one for one in inputs if one.mode != video.NO_IMAGE]
    without_text, without_image = ([not one.text for one in usual], [one.image is None for one in usual])
    both = np.logical_and(without_text, without_image).mean()
    assert abs(both - video.DROP_BOTH) < 0.02
    assert abs(np.mean(without_text) - video.DROP_BOTH - video.DROP_TEXT) < 0.02
    assert abs(np.mean(without_image) - video.DROP_BOTH - video.DROP_IMAGE) < 0.02
    unseen = [one for one in inputs if one.mode == video.NO_IMAGE]
    assert all(one.text and one.image is not None for one in unseen)
    of_colors = [attributes(clip)[name] for name in ("color", "hat color", "scarf color")]
    named, named_unseen = (np.mean([any(map(one.text.count, of_colors)) for one in some]) for some in (usual, unseen))
    assert named_unseen > 0.6 and 0.1 < named < video.NAME_CHARACTER
    loops = [one.order for one in inputs if one.mode == video.LOOP]
    assert all(len(order) == video.FRAMES and order == order[::-1] for order in loops)


@pytest.mark.parametrize("noisier", [1.0, 4.0])
def test_much_noise_is_drawn_as_often_as_configured(lab, noisier):
    alphas, clean = torch.linspace(1, 0, 1000), torch.randn(8000, 2)
    noisy, times, velocity = lab.train.unet.noised(clean, alphas, torch.Generator().manual_seed(1), noisier)
    late = (times >= 950).float().mean().item() / 0.05
    assert 0.92 * noisier < late < 1.01 * noisier and times.min() >= 0 and times.max() == 999
    signal, sigma = (part.sqrt()[:, None] for part in (alphas[times], 1 - alphas[times]))
    torch.testing.assert_close(signal * noisy - sigma * velocity, clean)


def test_prompts_of_semantic_motion_name_no_motion(lab):
    """The hero's action and place come from the tokens."""
    motion, rng = lab.train.motion, Random(1)
    clips = [motion.DATA.sample(index)[0] for index in range(200)]
    prompts = [motion.sample_prompt(rng, clip) for clip in clips for _ in range(4)]
    texts = " ".join(text for text, _ in prompts)
    assert " in a " in texts and "hat" in texts and len({flag for _, flag in prompts}) == 2
    for word in ("ing left", "ing right", "waving", "sitting", "on the left", "on the right"):
        assert word not in texts


@torch.no_grad()
def test_descriptions_of_a_frame(lab):
    """They hold the caption of the clip, and for the frame the hero's place and facing, interpolated as it moves."""
    work = lab.train.workspace.Workspace(ROOT / "models" / "storyworld")
    vocabulary = work.vocabulary
    read = lab.train.unet.Captions(work.towers, vocabulary)

    def state(text: str) -> torch.Tensor:
        end = (vocabulary.encode([text]) == vocabulary.end).float().argmax().item()
        return read([text])[0, end - 1].float()

    clip = replace(lab.train.motion.DATA.sample(3)[0], pan="", starts=("standing",), tempo=1.0)
    (hero,) = clip.figures
    hero = replace(hero, action="walking right", facing="right", x=0.38)
    clips = [replace(clip, figures=(replace(hero, x=x),)) for x in (0.26, 0.38, 0.74)]
    descriptions = lab.train.init.FrameDescriptions(clips, 16, read)
    tokens = descriptions.of(torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.long))
    assert tokens.shape == (3, 6, lab.train.towers.WIDTH)
    left, middle, right = (state(f"a hero {where}") for where in ("on the left", "in the middle", "on the right"))
    torch.testing.assert_close(tokens[:, -2], torch.stack([left, (left + middle) / 2, right]), atol=0.02, rtol=0.02)
    ahead, looking = (state(f"a hero looking {way}") for way in ("ahead", "right"))
    turned = [(row - ahead).dot(looking - ahead) / (looking - ahead).square().sum() for row in tokens[:, -1]]
    assert min(turned) > 0.8  # a start differs from another a little
    later = descriptions.of(torch.tensor([0, 0]), torch.tensor([0, 15]))
    assert not torch.allclose(*later[:, -2], atol=0.05) and torch.equal(*later[:, :-2])


def test_the_place_is_read_from_queries(lab):
    """With queries that hold the place the error is near 0; without it, about the variance of places."""
    places = lab.train.init.Places(["1"], 2)
    line = torch.linspace(-1, 1, 8)
    known = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(1, 64, 2).expand(3, -1, -1)
    with torch.no_grad():
        places.asked["1"].weight.copy_(torch.eye(2))
        places.asked["1"].bias.zero_()
    places.ask("1", known)
    assert places.answer().item() < 1e-6
    places.ask("1", torch.zeros(3, 64, 2))
    assert places.answer().item() == pytest.approx(line.square().mean().item(), rel=1e-4)


@torch.no_grad()
def test_the_domain_adapter_is_a_lora_to_the_host(lab, host):
    """Put on for training, merged, and loaded by the host: the same UNet. At first it changes nothing."""
    import comfy.sd
    from storyreel.host.storyworld import load_model

    def answer(unet) -> torch.Tensor:
        torch.manual_seed(3)
        noisy, context = torch.randn(2, 12, 16, 16), torch.randn(2, 77, 96)
        options = lab.train.unet.TRAINING_OPTIONS
        return unet(noisy, torch.tensor([10, 900]), context=context, transformer_options=options)

    model = load_model()
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    plain, put, merged = (lab.train.unet.build() for _ in range(3))
    for unet in (plain, put, merged):
        unet.load_state_dict(weights)
    torch.manual_seed(1)
    adapter = lab.train.domain_adapter.DomainAdapter(put)
    adapter.put_on(put)
    assert torch.equal(answer(put), answer(plain))
    for change in adapter.layers.values():
        torch.nn.init.normal_(change.up, std=0.05)
    lab.train.domain_adapter.merge(merged, adapter.weights())
    torch.testing.assert_close(answer(merged), answer(put), atol=1e-5, rtol=1e-4)
    assert (answer(put) - answer(plain)).abs().max() > 0.01

    loaded = comfy.sd.load_lora_for_models(model, None, adapter.weights(), 1.0, 0.0)[0]
    assert len(loaded.patches) == len(adapter.layers)
    loaded.patch_model()
    changed = {name: tensor.float() for name, tensor in loaded.model.diffusion_model.state_dict().items()}
    loaded.unpatch_model()
    plain.load_state_dict(changed)
    torch.testing.assert_close(answer(plain), answer(put), atol=5e-3, rtol=5e-3)


def test_concat_latents_by_mode(lab):
    video = lab.train.video
    clean = torch.randn(5, 2, 3, 3)
    assert torch.equal(video.concat_latents(clean, video.ANIMATE), clean[:1].expand(5, -1, -1, -1))
    both = video.concat_latents(clean, video.INTERPOLATE)
    assert torch.equal(both[0], clean[0]) and torch.equal(both[-1], clean[-1]) and not both[1:-1].any()
    assert not video.concat_latents(clean, video.NO_IMAGE).any()


@torch.no_grad()
def test_the_host_conditions_the_model_as_in_training(lab, tmp_path):
    """Text, image tokens, the gray image of uncond, and latents are equal from the host's nodes and in training, except
    for bfloat16 and float16 in training."""
    from storyreel.core.storyworld import world
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import conditioning
    from storyreel.host.dynamicrafter import model as keys

    from experiments.storyworld.train.unet import Captions

    work = lab.train.workspace.Workspace(ROOT / "models" / "storyworld")
    clip, _ = lab.train.video.DATA.sample(1)
    frames = world.render_clip(clip, 2).image
    text = "a red hero waving in a forest"
    texts = Captions(work.towers, work.vocabulary)([text, ""])
    encoding, pictures = lab.train.encoding, np.concatenate([frames[:1], lab.train.video.gray_picture()])
    tokens = encoding.vision_output(work.towers.vision, pictures, encoding.LAST)
    latents = encoding.encode(work.autoencoder, frames[:1])

    host_clip, vision, vae = storyworld.load_clip(), storyworld.load_clip_vision(), storyworld.load_vae()
    prompts = [host_clip.encode_from_tokens_scheduled(host_clip.tokenize(prompt)) for prompt in (text, "")]
    start = torch.from_numpy(frames[:1]).float() / 255
    positive, _, negative, _ = conditioning.condition(
        *prompts, vision, vae, start, None, "animate", world.SIZE, world.SIZE, 16, None
    )
    pairs = [(positive[0][0], texts[:1]), (negative[0][0], texts[1:])]
    pairs += [
        (conds[0][1][keys.VISION_TOKENS], one[None]) for conds, one in zip((positive, negative), tokens, strict=True)
    ]
    pairs += [(positive[0][1][keys.CONCAT_LATENTS][:1], latents)]
    for output, trained in pairs:
        assert output.shape == trained.shape
        assert (output - trained.float()).std() < 0.03 * output.std()


def untrained(lab) -> tuple:
    """A video model without idle layers, and the conditioning of two clips."""
    video = lab.train.video
    torch.manual_seed(0)
    model = video.VideoModel().eval()
    for weight in model.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    noisy, concat = torch.randn(2, 2, video.FRAMES, video.LATENT_CHANNELS, 8, 8)
    times = torch.tensor([999, 400])
    alphas = video.alpha_bars(zero_snr=True).float()[times]
    conditioning = torch.randn(2, 77, video.WIDTH), torch.randn(2, 65, video.WIDTH), torch.tensor([6, 9])
    return model, noisy, concat, times, alphas, conditioning


@torch.no_grad()
def test_training_and_the_host_give_the_same_clean_latents(lab):
    from storyreel.core.networks.dynamicrafter.resampler import Resampler
    from storyreel.core.networks.dynamicrafter.unet import UNet
    from storyreel.core.storyworld.keeping import keep_still, still_clip

    video = lab.train.video
    model, noisy, concat, times, alphas, conditioning = untrained(lab)
    text, vision_tokens, fs = conditioning
    plain, projection = UNet(video.UNET), Resampler(video.RESAMPLER)
    plain.load_state_dict(model.model["diffusion_model"].state_dict())
    projection.load_state_dict(model.image_proj_model.state_dict())
    velocity = model(noisy, concat, times, alphas, *conditioning)
    signal, noise = (part.sqrt().view(-1, 1, 1, 1, 1) for part in (alphas, 1 - alphas))
    trained = (signal * noisy - noise * velocity).transpose(1, 2)
    noisy, concat = noisy.transpose(1, 2), concat.transpose(1, 2)
    output = plain(torch.cat([noisy, concat], 1), times, torch.cat([text, projection(vision_tokens)], 1), fs)
    predicted, keep = output.tensor_split([video.LATENT_CHANNELS], dim=1)
    assert keep.sigmoid().std() > 0.05
    expected = keep_still(signal * noisy - noise * predicted, still_clip(concat), keep)
    torch.testing.assert_close(trained, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@torch.no_grad()
def test_a_single_frame_has_the_conditioning_of_its_clip(lab):
    """Without layers of time, both ways to train give the same velocities."""
    model, noisy, concat, times, alphas, conds = untrained(lab)
    concat[0, 1:] = 0.0  # one has its first frame alone
    with_time = model(noisy, concat, times, alphas, *conds)
    with lab.train.layers.without_time(model):
        whole = model(noisy, concat, times, alphas, *conds)
        for only in (torch.tensor([0, 15]), torch.tensor([7, 3])):
            single = noisy[torch.arange(2), only][:, None]
            alone = model(single, concat, times, alphas, *conds, only)
            expected = whole[torch.arange(2), only][:, None]
            torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    every = dict(model.named_parameters())
    assert trained and not any("temopral_conv" in name for name in trained) and trained < every.keys()
    assert all(weight.requires_grad for weight in every.values())
    assert torch.equal(model(noisy, concat, times, alphas, *conds), with_time) and not torch.equal(with_time, whole)


def test_the_file_is_small(lab):
    assert 2 * sum(weight.numel() for weight in lab.train.video.VideoModel().parameters()) <= 16e6


def test_every_gentle_action_starts_from_the_same_image(lab):
    measure = lab.evaluate.video
    tasks = measure.make_tasks(measure.PLAIN, 0, 0)
    assert [task.clip.figures[0].action for task in tasks] == list(measure.attributes.GENTLE_ACTIONS)
    assert all(np.array_equal(task.frames[0], tasks[0].frames[0]) for task in tasks)
    assert len({task.caption for task in tasks}) == len(tasks)
    assert len({task.frames[-1].tobytes() for task in tasks}) > 5


def test_no_two_rows_of_a_table_are_the_same(lab):
    """A row's name states the difference from the plain setting."""
    kinds = lab.evaluate.pictures.Pictures, lab.evaluate.video.Video, lab.evaluate.streaming.Streaming
    for kind in (*kinds, lab.evaluate.motion.Motion):
        assert len({setting.key for setting in kind.settings}) == len(kind.settings)
    by_name = {setting.name: setting for setting in lab.evaluate.video.Video.settings}
    assert not by_name["animate-no-text"].text and by_name["animate-no-text"].image
    assert (by_name["animate-scales-4-1"].text_scale, by_name["animate-scales-4-1"].image_scale) == (4.0, 1.0)
    assert by_name["drawn-wide"].drawn and by_name["drawn-wide"].actions == lab.evaluate.video.attributes.WIDE_ACTIONS


def test_intervals_are_of_the_mean(lab):
    """All results of an example, a list by its places; NaN counts for nothing, and a single value has no width."""
    summarize = lab.evaluate.pipeline.summarize
    values = np.random.default_rng(1).normal(5, 2, 40)
    row = summarize(
        [{"a": value, "b": [value, 1.0], "c": float("nan") if index else 3.0} for index, value in enumerate(values)]
    )
    assert row["a"] == pytest.approx(values.mean(), abs=1e-4)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert row["a_high"] - row["a_low"] == pytest.approx(2 * half, rel=0.15)
    assert row["b"] == [[row["a"], row["a_low"], row["a_high"]], [1.0, 1.0, 1.0]]
    assert row["c"] == row["c_low"] == row["c_high"] == 3.0
    assert summarize([{"a": float("nan")}] * 2) == {"a": None, "a_low": None, "a_high": None}


def test_likeness_is_of_each_frame_with_the_first_and_with_the_one_before(host, lab):
    """Pictures that repeat: all alike; else as the definitions have it, pair by pair."""
    from storyreel.core.storyworld import world
    from storyreel.host import storyworld

    from experiments.storyworld.evaluate.frames import frame_similarity as likeness

    vision, clip = storyworld.load_clip_vision(), world.sample_clip(1, 2, wide=1.0)
    frames = torch.from_numpy(world.render_clip(clip, 4).image).float() / 255
    same = likeness(vision, frames[:1].expand(3, -1, -1, -1))
    assert same == pytest.approx(dict(clip_first=1, patches_first=0, clip_frames=1, patches_frames=0), abs=1e-5)
    similarity, embeds = likeness(vision, frames), [vision.encode_image(frame[None]) for frame in frames]
    for name, pairs in (("first", [(0, 1), (0, 2), (0, 3)]), ("frames", [(0, 1), (1, 2), (2, 3)])):
        cosines, distances = [], []
        for a, b in pairs:
            cosines.append(torch.cosine_similarity(embeds[a]["image_embeds"], embeds[b]["image_embeds"]).item())
            left, right = (embeds[at]["penultimate_hidden_states"][0, 1:] for at in (a, b))
            apart = [(x / x.norm() - y / y.norm()).norm().item() ** 2 for x, y in zip(left, right, strict=True)]
            distances.append(np.mean(apart))
        assert similarity[f"clip_{name}"] == pytest.approx(np.mean(cosines), abs=1e-4)
        assert similarity[f"patches_{name}"] == pytest.approx(np.mean(distances), rel=1e-3)
    assert (
        similarity["patches_frames"] < similarity["patches_first"]
        and similarity["clip_first"] < similarity["clip_frames"] < 1
    )


def test_missed_targets_are_named(lab):
    video = lab.evaluate.video
    row = dict(video.TARGETS)
    row |= {f"{name}_{end}": value for name, value in video.TARGETS.items() for end in ("low", "high")}
    assert video.missed({video.PLAIN.key: row}) == []
    (message,) = video.missed({video.PLAIN.key: row | {"action": 0.5, "action_low": 0.4, "action_high": 0.6}})
    assert message.startswith("action is 0.50 (0.40 to 0.60)") and "at least 0.9" in message
