"""The data, the initial weights and the measurements of Storyworld's small StreamingT2V."""

import numpy as np
import pytest
import torch
from harness.tools import TOOLS


def test_chunks_lie_anywhere_in_clips_that_begin_anywhere(lab):
    data = lab.train.clips
    recipe = data.LongRecipe(seed=1, count=600)
    sampled = [recipe.sample(index) for index in range(recipe.count)]
    assert {start for _, _, start in sampled} == set(range(recipe.frames - data.LENGTH + 1))
    firsts = [first for _, first, _ in sampled]
    assert max(firsts) <= recipe.latest and len(set(firsts)) > recipe.latest * 0.9
    assert firsts.count(0) / recipe.count == pytest.approx(data.BEGINNING, abs=0.06)
    assert {clip.tempo for clip, _, _ in sampled} == {1.0} and any(clip.pan for clip, _, _ in sampled)


@torch.no_grad()
def test_each_part_begins_by_adding_nothing(lab):
    """CAM and APM leave the base's velocity as it is until they have learned; a frame alone is as the picture model has
    it, and no frame of a clip knows of the others."""
    from experiments.storyworld.train import export as shipping
    from experiments.storyworld.train import unet

    streaming = lab.train.streaming
    pictures = shipping.load(TOOLS.parent / "models" / "storyworld" / "unet.safetensors")[0]
    torch.manual_seed(0)
    model = streaming.StreamingModel().eval()
    streaming.begin(model, streaming.BASE, pictures)
    noisy, times, text = torch.randn(1, 4, 12, 16, 16), torch.tensor([400]), torch.randn(1, 77, 96)
    base = model(noisy, times, text, None, None)
    for frame in range(4):
        alone = model(noisy[:, frame : frame + 1], times, text, None, None)
        torch.testing.assert_close(alone, base[:, frame : frame + 1], rtol=0, atol=1e-4)

    original = unet.build()
    original.load_state_dict(pictures)
    for name, weight in original.named_parameters():
        if name.startswith(("input_blocks.3.1.proj_out", "output_blocks.0.1.proj_out", "output_blocks.1.1.proj_out")):
            weight.zero_()  # the transformers that the video model lacks
    expected = original(noisy[:, 0], times, context=text, transformer_options=unet.TRAINING_OPTIONS)
    torch.testing.assert_close(base[:, 0], expected, rtol=0, atol=1e-4)

    streaming.begin(model, streaming.CAM, {})
    before, anchor = torch.rand(1, 2, 3, 128, 128) * 2 - 1, torch.randn(1, 96)
    assert torch.equal(model(noisy, times, text, anchor, before), base)
    for injector in model.network.injectors:
        torch.nn.init.normal_(injector.proj_out.weight)
    assert not torch.equal(model(noisy, times, text, None, before), base)


@torch.no_grad()
def test_cam_begins_with_what_is_alike(lab):
    """With a single source frame every frame receives it; with several, the most similar one."""
    injector = lab.train.streaming.StreamingModel().network.injectors[0]
    lab.train.init.attend_to_similar(injector)
    injector.proj_out.load_state_dict({"weight": torch.eye(96), "bias": torch.zeros(96)})
    x, memory = torch.randn(4, 96, 2, 2), torch.randn(3, 96, 2, 2)
    torch.testing.assert_close(injector(x, memory[:1], 1), x + memory[:1])
    memory = torch.stack([x[2], *(torch.randn(2, 96, 2, 2))]) * 4
    assert (injector(x, memory, 1) - x - memory[0])[2].abs().max() < 1e-2


@torch.no_grad()
def test_apm_begins_after_the_text_tokens(lab):
    """The image's tokens replace the padding unchanged, and the text before them stays."""
    attention = lab.train.streaming.AppearanceAttention(8, 6, 1, text_tokens=5, image_tokens=2)
    lab.train.init.append_text_tokens(attention, torch.tensor(2.0))
    text, away = torch.randn(1, 5, 6), torch.randn(1, 2, 6)
    image = text[:, 3:] + 2 * torch.nn.functional.layer_norm(away, (6,))
    torch.testing.assert_close(attention.mix(text, image), torch.cat([text[:, :3], image], 1), rtol=0, atol=1e-3)


def test_every_weight_belongs_to_one_part(lab):
    model = lab.train.streaming.StreamingModel()
    parts = [model.weights_of(part) for part in lab.train.streaming.CONFIGS]
    assert sum(map(len, parts)) == len(model.state_dict()) and all(parts)
    assert all("alpha" not in name and "conv_ln" not in name for name in [*parts[0], *parts[1]])


def test_a_setting_knows_its_frames_and_borders(lab):
    streaming = lab.evaluate.streaming
    by_name = {setting.name: setting for setting in streaming.Streaming.settings}
    assert (by_name["both"].frames, by_name["both"].borders) == (48, [16, 24, 32, 40])
    short = streaming.chunks(streaming.BASELINE, 2, 1)
    assert (short.name, short.frames, short.borders) == ("dynamicrafter-chunks-2", 46, [16, 31])
    assert (by_name["both-chunks-20-color-1"].chunks, by_name["both-chunks-20-color-1"].color) == (20, 1.0)
    assert (by_name["both-blend-shared"].mode, by_name["both-blend-shared"].blend) == ("both", "shared")


def test_a_hero_that_jumps_at_a_border_is_measured(lab):
    """A drawn clip moves as much at a border as elsewhere. With the hero of another clip after it, it moves more: a
    cut."""
    measure = lab.evaluate.streaming
    first, second = (torch.from_numpy(measure.make_task(0, index).draw(32)).float() / 255 for index in (0, 1))
    whole, drift = lab.evaluate.frames.per_frame_results(first, [16])
    broken, broken_drift = lab.evaluate.frames.per_frame_results(torch.cat([first[:16], second[16:]]), [16])
    assert whole["hero_jump"] < 3 and whole["jump"] < 3 and whole["cuts"] == 0
    assert broken["hero_jump"] > 3 * max(whole["hero_jump"], broken["hero_step"])
    assert broken["jump"] > 10 and broken["cuts"] == 1
    assert drift[0] == 0 and np.mean(broken_drift[16:]) > np.mean(drift[16:])


def test_tables_show_what_was_measured(lab, tmp_path):
    streaming, report = lab.evaluate.streaming, lab.report.rows
    names = {*streaming.COLUMNS, *streaming.OF_BLENDS, *streaming.OF_COLORED}
    row = {name: 0.5 for name in names} | {f"{name}_{end}": 0.5 for name in names for end in ("low", "high")}
    row |= {f"{name}_by_chunk": [[0.5, 0.4, 0.6]] * 11 for name in streaming.BY_CHUNK}
    rows = report.Rows(tmp_path / "rows.jsonl")
    for setting in streaming.Streaming.settings:
        name, count, frames = setting.key
        rows.add(row | {"setting": name, "stories": count, "frames": frames, "seed": 0, "weights": "these"})
    assert report.Rows(rows.path).missing(streaming.Streaming.settings, 0, "these") == []
    assert len(report.Rows(rows.path).missing(streaming.Streaming.settings, 1, "these")) == len(rows.rows)
    tables = streaming.Streaming.tables(rows, "these")
    assert len(tables["streaming"]) == 2 + len(streaming.PARTS) + len(streaming.LONGER)
    assert len(tables["blending"]) == 2 + 4 and len(tables["drift"]) == 2 + 2
    chunks = tables["chunks"]
    assert len(chunks) == 2 + 2 * len(streaming.CHUNKED)
    assert chunks[0].split("|")[3:-1] == [f" {number} " for number in streaming.SHOWN]
    known = sum(number < 11 for number in streaming.SHOWN)
    missing = len(streaming.SHOWN) - known
    assert all((line.count(" 0.50 "), line.count(" - ")) == (known, missing) for line in chunks[2:])
    assert all(f"{name} 0.50 (0.50 to 0.50)" in report.describe(rows.rows[0]) for name in names)
    assert streaming.Streaming.tables(rows, "others")["streaming"] == tables["streaming"][:2]
