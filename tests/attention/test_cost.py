"""What Consistent Self-Attention costs: memory that does not grow with the story, and a benchmark that says so."""

import json
import subprocess
import sys

import pytest
import torch
from harness.tools import TOOLS, tools

MB = 1 << 20


@pytest.fixture(scope="module")
def measures():
    with tools("benches", "measures") as modules:
        yield modules.measures


def extra_bytes(measures, images, limit, rules):
    """Peak of shared attention over plain attention, projections left out: 512 tokens of 320 channels, 5 heads."""
    from storyreel.core.attention.consistent import Phase, Settings, draw_shared_tokens
    from storyreel.core.attention.extended import extended_attention
    from storyreel.core.networks.attend import attend_plain

    settings = Settings(rules=rules)
    shared_tokens = draw_shared_tokens(settings, None, range(images), phase=Phase.EARLY, step=0, pixels=32, tokens=512)
    q, k, v = torch.randn(3, images, 512, 320)
    by_head = [tensor.unflatten(-1, (5, 64)) for tensor in (q, k, v)]
    plain = measures.peak_bytes(lambda: attend_plain(q, k, v, 5), "cpu")
    shared = lambda: extended_attention(*by_head, shared_tokens.groups, shared_tokens.samples, limit=limit)  # noqa: E731
    return measures.peak_bytes(shared, "cpu") - plain


@pytest.mark.parametrize("limit", [3 * MB, 8 * MB])
def test_extra_memory_stays_under_the_setting_however_long_the_story(measures, limit):
    """An eighth of SDXL's 4096 tokens, and of the default setting; below, heads go in turns, and 32 pictures' keys."""
    from storyreel.core.attention.sharing import SharingRules

    short, long = (extra_bytes(measures, images, limit, SharingRules()) for images in (8, 32))
    assert short <= limit
    assert long <= 1.1 * short


def test_both_halves_in_the_host_stay_under_the_setting(measures, host, tiny_checkpoint):
    """The patch itself, called with what a real forward pass gave it."""
    from comfy.ldm.modules.attention import optimized_attention
    from harness import probe

    model = host.load_model(tiny_checkpoint("sd15_full"))
    patched = probe.node(host, model, "custom", memory_mb=1)
    replacements = patched.model_options["transformer_options"]["patches_replace"]["attn1"]
    patch = replacements["output", 11]
    caught = []

    def catch(q, k, v, extra_options):
        caught.append((q, k, v, dict(extra_options)))
        return patch(q, k, v, extra_options)

    replacements["output", 11] = catch
    conds = probe.conditioning(8, 768, 1), probe.conditioning(1, 768, 2)
    probe.sample(patched, *conds, probe.latent(8, 16, 16), steps=1)
    q, k, v, options = caught[-1]
    assert len(options["cond_or_uncond"]) == 2
    with torch.no_grad():
        patch(q, k, v, options)  # draws are made once a step
        plain = measures.peak_bytes(lambda: optimized_attention(q, k, v, options["n_heads"]), "cpu")
        ours = measures.peak_bytes(lambda: patch(q, k, v, options), "cpu")
    assert 0 < ours - plain <= 1.1 * MB


@pytest.mark.programs
def test_the_benchmark_prints_one_object_a_line():
    command = [sys.executable, str(TOOLS / "bench.py"), "attention", "--json", "--batch", "2", "3", "--tokens", "1024"]
    done = subprocess.run([*command, "--rounds", "1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["batch"], row["tokens"]) for row in rows] == [(2, 1024), (3, 1024)]
    for row in rows:
        for form in ("plain", "ours", "dense_mask", "gather_first"):
            assert row[f"{form}_seconds"] > 0 and row[f"{form}_peak_bytes"] > 0
        images, tokens, width = row["batch"], row["tokens"], row["channels"]
        projections, keys = 8 * images * tokens * width**2, images * tokens * (1 + 0.5 * (images - 1))
        expected = (projections + 4 * tokens * width * keys) / (projections + 4 * tokens * width * images * tokens)
        assert row["operations_ratio"] == pytest.approx(expected, rel=0.02)
        assert row["ours_peak_bytes"] - row["plain_peak_bytes"] <= 64 * MB


@pytest.mark.programs
@pytest.mark.parametrize("family, positions", [("sd3", "same"), ("anima", "beside")])
def test_a_transformer_layer_stays_under_the_setting(family, positions):
    """At the family's published width, with fewer tokens; texts are as long as theirs."""
    case = ["--family", family, "--side", "12", "--batch", "3", "--positions", positions, "--memory-mb", "2"]
    command = [sys.executable, str(TOOLS / "bench.py"), "attention", "--json", *case]
    done = subprocess.run([*command, "--rounds", "1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert 1 < row["operations_ratio"] < 1.1
    assert row["ours_seconds"] > 0 and (positions != "same" or row["dense_mask_seconds"] > 0)
    extra = row["ours_peak_bytes"] - row["plain_peak_bytes"]
    own_texts = row["text"] * row["channels"] * 4  # a row of texts at least is attended to at once
    assert extra <= max(2.2 * MB, 2.2 * own_texts)


@pytest.mark.programs
def test_dynamicrafters_benchmark_compares_two_forms_of_one_network():
    command = [sys.executable, str(TOOLS / "bench.py"), "dynamicrafter", "--json", "--rounds", "1", "--device", "cpu"]
    small = ["--channels", "64", "--latent", "16", "16", "--frames", "2"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in done.stdout.splitlines())
    assert row["case"] == "64 channels, 16x16, 2 frames, cpu float32"
    assert 0 < row["difference"] <= 2e-5  # two orders of operations
    assert all(row[f"{form}_{what}"] > 0 for form in ("ours", "plain") for what in ("seconds", "peak_bytes"))


@pytest.mark.programs
def test_a_long_videos_benchmark_reads_memory_after_every_chunk():
    command = [sys.executable, str(TOOLS / "bench.py"), "streaming", "--json", "--chunks", "3", "--size", "64"]
    done = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (row["chunks"], row["frames"], len(row["rss_bytes"])) == (3, 16 + 3 * 8, 3)
    assert row["seconds_per_chunk"] > 0 and row["peak_rss_bytes"] >= max(row["rss_bytes"]) > 0


@pytest.mark.programs
def test_the_benchmark_of_banks_counts_bytes_and_times_readers():
    command = [sys.executable, str(TOOLS / "bench.py"), "bank", "--json", "--size", "128", "--steps", "2"]
    done = subprocess.run([*command, "--rounds", "1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    *sizes, reading = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    size = {(row["precision"], row["step_stride"]): row["bytes_per_image"] for row in sizes}
    assert size["fp8", 2] < 1.4e9 < size["fp8", 1] < 5.5e9 / 2  # the published program takes 5.5 GB in fp16
    assert size["fp16", 1] == 2 * size["fp8", 1] and size["fp8", 2] == pytest.approx(size["fp8", 1] / 2, rel=0.05)
    assert reading["plain_seconds"] > 0 and reading["cpu_bank_seconds"] > 0 and reading["reading_ratio"] > 0
    assert (reading["cpu_bank_ratio"] is None) == (reading["device"] == "cpu")


@pytest.mark.programs
def test_the_benchmark_of_long_stories_shows_memory_that_does_not_grow():
    """After the anchors of both characters, 4 frames of 10: a bank or a batch kept for each frame would show."""
    command = [sys.executable, str(TOOLS / "bench.py"), "story", "--json", "--frames", "10", "--size", "64"]
    done = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    held = row["rss_bytes"]
    assert len(held) == row["frames"] == 10 and row["image_bytes"] == 10 * 64 * 64 * 3 * 4
    assert max(held) <= row["peak_rss_bytes"] <= 1.1 * held[3]


def test_the_benchmark_of_banks_knows_the_layers_of_sdxl(host):
    """By the network as the host builds it."""
    import comfy.ops
    from benches import bank
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from harness import tiny
    from storyreel.host.attention.unet_blocks import self_attention_layers

    config = tiny.UNET | tiny.SDXL | dict(
        num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10, transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
    )  # fmt: skip
    unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)

    class Model:
        def get_model_object(self, name):
            return unet

    layers = [layer for layer in self_attention_layers(Model()) if layer.block[0] == "output"]
    assert [(layer.number, 8 << layer.halvings, layer.channels) for layer in layers] == bank.UP_LAYERS
