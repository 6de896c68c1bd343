"""Files of StreamingT2V, StreamingSVD, ModelScope and MS-Vid2Vid, opened by the loader and by its node."""

import ctypes
import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.golden import part

MANIFESTS = Path(__file__).parents[1] / "manifests"
TOOLS = Path(__file__).resolve().parents[2] / "tools"


def manifest(name: str) -> dict[str, torch.Tensor]:
    listed = json.loads((MANIFESTS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in listed.items()}


def diffusers_unet() -> dict[str, torch.Tensor]:
    """ModelScope's own keys in diffusers' layout."""
    own = (".attn2.alpha", ".attn2.conv.", ".attn2.conv_ln.")
    base = part(manifest("streaming_t2v"), "base_model.")
    return {key: t for key, t in base.items() if "merger" not in key and not any(name in key for name in own)}


@pytest.fixture
def loader(host):
    from storyreel.host.streaming import loader as streaming_loader

    return streaming_loader


@pytest.fixture
def put(host):
    """put(name, weights) -> the name of a file in the host's folder, deleted after the test."""
    from harness import streaming

    written = []

    def put(name: str, weights: dict, folder: str = "checkpoints") -> str:
        written.append(streaming.write(host.base / "models" / folder / name, weights))
        return name

    yield put
    for path in written:
        path.unlink(missing_ok=True)


def weights_of(loaded) -> dict:
    return {name: tensor.float() for name, tensor in loaded.model.model.state_dict().items()}


def same(loaded, expected) -> bool:
    loaded, expected = weights_of(loaded), weights_of(expected)
    return loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in loaded)


@pytest.mark.parametrize(
    ("file", "name", "kind"),
    [
        ("streaming_t2v", "streaming_t2v.ckpt", "StreamingT2V"),
        ("streaming_t2v", "vid2vid.safetensors", "StreamingT2V"),
        ("streaming_svd", "model.safetensors", "StreamingSVD"),
        ("vid2vid_unet", "non_ema_0035000.pth", "MS-Vid2Vid"),
        ("vid2vid_unet", "ms-vid2vid-xl.safetensors", "MS-Vid2Vid"),
        ("vid2vid_unet", "Video-to-Video/model.pth", "MS-Vid2Vid"),
        ("vid2vid_unet", "text2video_pytorch_model.pth", "ModelScope text-to-video"),
        ("vid2vid_unet", "model.pth", "ModelScope text-to-video"),
        (
            "diffusers",
            "text-to-video-ms-1.7b/unet/diffusion_pytorch_model.fp16.safetensors",
            "ModelScope text-to-video",
        ),
    ],
)
def test_the_type_of_a_file_is_detected(loader, file, name, kind):
    weights = diffusers_unet() if file == "diffusers" else manifest(file)
    detected, why = loader.detect(name, weights)
    assert detected.name == kind and why.startswith("its keys")
    assert ("name" in why) == (kind in ("MS-Vid2Vid", "ModelScope text-to-video"))


def test_a_choice_overrides_the_name_and_nothing_else(loader):
    weights = manifest("vid2vid_unet")
    assert loader.detect("non_ema_0035000.pth", weights, "text-to-video") == (loader.TEXT_TO_VIDEO, "model_type")
    assert loader.detect("renamed.pth", weights, "vid2vid") == (loader.VID2VID, "model_type")
    with pytest.raises(ValueError, match="x.ckpt is StreamingT2V, but model_type is vid2vid. Set it to auto"):
        loader.detect("x.ckpt", manifest("streaming_t2v"), "vid2vid")


def test_another_file_is_refused_by_its_type(loader, put, tiny_checkpoint):
    expected = "a checkpoint of StreamingT2V, StreamingSVD, ModelScope text-to-video or MS-Vid2Vid was expected"
    tiny_checkpoint("sd15")
    with pytest.raises(ValueError, match=f"sd15.ckpt is a checkpoint of another model; {expected}"):
        loader.load("sd15.ckpt")
    with pytest.raises(ValueError, match="x is a DynamiCrafter checkpoint"):
        loader.detect("x", manifest("dynamicrafter_512"))
    with pytest.raises(ValueError, match="x is a LoRA"):
        loader.detect("x", {"lora_unet_a.lora_down.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="text.safetensors is a file of 1 tensors, a.weight among them"):
        loader.load(put("text.safetensors", {"a.weight": torch.zeros(3)}))
    svd = {key: t for key, t in manifest("streaming_svd").items() if "merger" not in key and "controlnet" not in key}
    with pytest.raises(ValueError, match="x is a checkpoint of another model"):
        loader.detect("x", svd)


def test_a_file_that_is_not_whole_is_refused(loader, put):
    from harness import streaming

    for name, tiny_weights, lacking in (
        ("StreamingT2V", streaming.tiny_streaming, "unet.middle_block.3."),
        ("StreamingSVD", streaming.tiny_svd, "controlnet.middle_block.2."),
        ("StreamingT2V", streaming.tiny_streaming, "base_model.middle_block.1."),
    ):
        weights = {key: t for key, t in tiny_weights().items() if not key.startswith(lacking)}
        with pytest.raises(
            ValueError, match=rf"half.safetensors is not whole: it lacks \S*middle_block\S+ of {name}\."
        ):
            loader.load(put("half.safetensors", weights))


def test_a_file_with_a_programs_objects_is_refused(loader, host):
    path = host.base / "models" / "checkpoints" / "objects.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "config": Path("x")}, path)
    with pytest.raises(ValueError, match=r"objects.ckpt holds Python objects as well as weights, \S+Path among them"):
        loader.load(path.name)
    path.unlink()


def test_a_broken_download_is_refused_as_one(loader, host):
    """Half a file, an empty file, a page with error 404, a pointer to the file."""
    path = host.base / "models" / "checkpoints" / "broken.ckpt"
    torch.save({"a": torch.zeros(2000)}, path)
    whole = path.read_bytes()
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="broken.ckpt holds a list; a checkpoint's weights were expected"):
        loader.load(path.name)
    for data in (
        whole[: len(whole) // 2],
        b"",
        b"<!doctype html><title>404</title>",
        b"version https://git-lfs.github",
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"broken.ckpt, of {len(data):,} bytes, is no checkpoint, or not a whole"):
            loader.load(path.name)
    path.unlink()


SHORT_OF_MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import environment, pack
pack.load_host(environment.find_host())
pack.load_pack()
from pathlib import Path
from storyreel.host.common.loading import read_with_metadata
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**26, resource.RLIM_INFINITY))
read_with_metadata(sys.argv[2])
"""


@pytest.mark.programs
@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory are Linux's")
def test_too_little_memory_is_not_reported_as_a_broken_file(tmp_path):
    """In a process of its own: this one may hold free memory from other tests."""
    path = tmp_path / "whole.ckpt"
    torch.save({"a": torch.zeros(2**28, dtype=torch.uint8)}, path, _use_new_zipfile_serialization=False)
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(TOOLS), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "allocate memory" in done.stderr.splitlines()[-1], done.stderr
    assert "whole one" not in done.stderr


def test_a_pickle_and_half_precision_are_the_same_weights(loader, put):
    from harness import streaming
    from harness.sampled.modelscope import cam_apm, sample

    weights = streaming.tiny_streaming()
    plain = loader.load(put("a.safetensors", weights), precision=torch.float32)
    assert same(loader.load(put("a.ckpt", weights), precision=torch.float32), plain)
    half = {key: t.half() for key, t in weights.items()}
    small = loader.load(put("half.safetensors", half), precision=torch.float16)
    assert small.model.model.get_dtype() == torch.float16
    assert same(small, loader.load(put("cast.safetensors", {k: t.float() for k, t in half.items()}), "auto"))
    whole, cast = sample(plain.model, more=cam_apm()), sample(small.model, more=cam_apm())
    assert (cast - whole).abs().max() < 0.1 * whole.abs().max()


def test_both_layouts_of_modelscope_are_the_same_model(loader, put):
    """A narrow network of the published structure."""
    from dataclasses import replace

    from harness.dynamicrafter import random
    from storyreel.core.networks.modelscope import keys
    from storyreel.core.networks.modelscope.config import UNetConfig
    from storyreel.core.networks.modelscope.unet import UNet

    ours = random(UNet(replace(UNetConfig(), model_channels=32, head_channels=16, context_dim=64)))
    convolutions = {key for key, t in manifest("vid2vid_unet").items() if t.ndim == 3}
    original = {key: t[..., None] if key in convolutions else t for key, t in ours.items()}
    diffusers = {key: ours[name] for key, name in keys.our_names(diffusers_unet()).items()}
    first = loader.load(put("text2video_pytorch_model.pth", original), precision=torch.float32)
    second = loader.load(put("unet.safetensors", diffusers, "diffusion_models"), precision=torch.float32)
    refiner = loader.load(put("vid2vid.pth", original), precision=torch.float32)
    assert same(first, second) and same(first, loader.load("vid2vid.pth", "text-to-video", precision=torch.float32))
    assert (first.model.model.sizes.extra_rows, refiner.model.model.sizes.extra_rows) == (0, 1)


def growth_of(call) -> tuple[int, int]:
    """(bytes that the process's memory grew by at most while it ran, bytes of its own that it has more behind it)

    The first counts pages of files that were read, which the system takes back when it needs them.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def read(name: str) -> int:
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory must not hide new allocations
    reset.write_text("5")  # resets the peak
    before, own = read("VmRSS"), read("RssAnon")
    call()
    return read("VmHWM") - before, read("RssAnon") - own


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc")
def test_the_optimizers_state_is_never_read(loader, host):
    """It is four times the weights, as training programs save it. The model takes the weights' own size, and the file
    temporarily no more than that."""
    from dataclasses import replace

    from harness import streaming

    wide = replace(streaming.STREAMING, unet=replace(streaming.SIZES, model_channels=192))
    weights = streaming.tiny_streaming(wide)
    size = sum(4 * t.numel() for t in weights.values())
    state = {number: {"exp_avg": torch.ones(size // 8), "exp_avg_sq": torch.ones(size // 8)} for number in range(4)}
    path = host.base / "models" / "checkpoints" / "trained.ckpt"
    saved = {"epoch": 7, "global_step": 9, "optimizer_states": [{"state": state, "param_groups": [{"lr": 1e-5}]}]}
    torch.save(saved | {"state_dict": weights}, path)
    del state, saved
    assert size > 50e6 and path.stat().st_size > 4.9 * size
    plain = streaming.write(host.base / "models" / "checkpoints" / "plain.safetensors", weights)
    del weights
    loaded = []
    peak, own = growth_of(lambda: loaded.append(loader.load(path.name, precision=torch.float32)))
    assert own < 1.1 * size, f"{own / size:.2f} times the weights"
    assert peak < 2.1 * size, f"{peak / size:.2f} times the weights"
    assert same(loaded[0], loader.load(plain.name, precision=torch.float32))
    path.unlink()
    plain.unlink()


@pytest.fixture(scope="module")
def whole(host):
    """StreamingT2V with its encoders under their published names, at full size, around a tiny network."""
    from harness import streaming, tiny
    from storyreel.host.streaming import loader as streaming_loader

    own = ("base_model.", "unet.", "resampler.")
    published = ((key, tuple(t.shape)) for key, t in manifest("streaming_t2v").items() if not key.startswith(own))
    path = host.base / "models" / "checkpoints" / "streaming_t2v_whole.ckpt"
    torch.save({"state_dict": streaming.tiny_streaming() | tiny.random_weights(published), "epoch": 3}, path)
    yield streaming_loader.load(path.name)
    path.unlink()


@torch.no_grad()  # as in the host; a graph would hold on to encoders of gigabytes
def test_a_whole_checkpoint_brings_its_encoders(loader, whole):
    from storyreel.host.common.text_encoder import has_projection

    loaded = whole
    assert loaded.kind is loader.STREAMING_T2V
    tokens = loaded.clip.tokenize("a hero walks")
    text = loaded.clip.encode_from_tokens_scheduled(tokens)[0]
    assert text[0].shape == (1, 77, 1024) and text[0].isfinite().all() and text[1]["pooled_output"].isfinite().all()
    last = loaded.clip.clone()
    last.clip_layer(-1)  # the layer that the file lacks is an identity
    torch.testing.assert_close(last.encode_from_tokens_scheduled(tokens)[0][0], text[0], rtol=0, atol=1e-5)
    assert has_projection(loaded.clip, "clip_h") is False, "an identity is no projection"
    embeds = loaded.clip_vision.encode_image(torch.rand(1, 40, 60, 3))
    assert embeds.image_embeds.shape == (1, 1024) and embeds.image_embeds.isfinite().all()
    assert loaded.vae.decode(loaded.vae.encode(torch.rand(1, 64, 64, 3))).shape == (1, 64, 64, 3)
    assert loader.describe_checkpoint(loaded).endswith("License: its base is ModelScope's, CC-BY-NC 4.0.")


def test_the_text_encoder_reads_as_published(whole):
    """23 layers and the last norm, by a plain implementation of the same weights."""
    network = whole.clip.cond_stage_model.clip_h.transformer
    ids = torch.tensor([[49406, 320, 1125, 49407] + [0] * 73])
    stored = dict(network.text_model.named_parameters())

    def weight(name):
        return stored[name].float()

    def linear(x, name):
        return torch.nn.functional.linear(x, weight(f"{name}.weight"), weight(f"{name}.bias"))

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight(f"{name}.weight"), weight(f"{name}.bias"))

    with torch.no_grad():
        x = stored["embeddings.token_embedding.weight"][ids].float() + weight("embeddings.position_embedding.weight")
        for number in range(23):
            layer = f"encoder.layers.{number}"
            h = norm(x, f"{layer}.layer_norm1")
            q, k, v = (
                linear(h, f"{layer}.self_attn.{name}_proj").unflatten(-1, (16, 64)).transpose(1, 2) for name in "qkv"
            )
            h = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(h.transpose(1, 2).flatten(2), f"{layer}.self_attn.out_proj")
            h = torch.nn.functional.gelu(linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1"))
            x = x + linear(h, f"{layer}.mlp.fc2")
        expected = norm(x, "final_layer_norm")
        output = network(ids, intermediate_output=-2, final_layer_norm_intermediate=True)[1]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)


def test_the_node(host, put):
    """In a prompt: its text is on the node and on its last output, after a cached run too."""
    from comfy_api.latest import io
    from harness import streaming

    class Show(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [io.Model.Input("model"), io.String.Input("text")]
            return io.Schema(node_id="Show", inputs=inputs, outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, model, text):
            return io.NodeOutput(ui={"text": [type(model.model).__name__, text]})

    put("streaming_svd.safetensors", streaming.tiny_svd())
    put("ms_vid2vid.safetensors", streaming.tiny_modelscope())
    with host.node(Show):

        def prompt(file: str, kind: str = "auto") -> dict:
            inputs = {"checkpoint": file, "model_type": kind, "precision": "fp32"}
            shown = {"class_type": "Show", "inputs": {"model": ["1", 0], "text": ["1", 4]}}
            return {"1": {"class_type": "StoryReelStreamingLoader", "inputs": inputs}, "2": shown}

        svd = host.run(prompt("streaming_svd.safetensors"))
        assert svd.values["1"][1:4] == (None, None, None)
        expected = "StreamingSVD, by its keys: extends a clip at 1024 x 576 in chunks of 25 frames, which overlap by 7"
        kind, text = svd.outputs["2"]["text"]
        assert kind == "StreamingSVD" and text.startswith(expected) and svd.outputs["1"]["text"] == [text]
        assert text.endswith("The file contains no VAE, CLIP_VISION: load them separately.")
        for kind, title in (("auto", "MS-Vid2Vid, by its keys and its file's name"), ("text-to-video", "ModelScope")):
            for _ in range(2):
                run = host.run(prompt("ms_vid2vid.safetensors", kind), cached=True)
                assert run.outputs["1"]["text"][0].startswith(title)
        assert "CC-BY-NC" in run.outputs["1"]["text"][0]
        with pytest.raises(RuntimeError, match="is StreamingSVD, but model_type is vid2vid. Set it to auto"):
            host.run(prompt("streaming_svd.safetensors", "vid2vid"))


def test_every_input_and_output_has_a_tooltip(host):
    from storyreel.nodes.extend import NODES, StoryReelStreamingLoader

    for node in NODES:
        schema = node.GET_SCHEMA()
        assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    checkpoint = StoryReelStreamingLoader.GET_SCHEMA().inputs[0].tooltip
    assert "CC-BY-NC" in checkpoint and "research" in checkpoint


@torch.no_grad()
def test_the_anchor_is_projected_by_the_files_own_encoder(whole):
    """At 224 pixels, where nothing is resized, it equals the host's own node; the model accepts the result."""
    from storyreel.core.networks.streaming.appearance import TokenExpander
    from storyreel.host.common.clip_vision import GRAY, anchor_embeds
    from storyreel.host.streaming import modelscope as names
    from storyreel.host.streaming.conditioning import set_cam_apm

    picture = torch.randint(0, 256, (1, 224, 224, 3), generator=torch.Generator().manual_seed(0)) / 255
    picture = torch.cat([picture, torch.full_like(picture, GRAY)])
    embeds = anchor_embeds(whole.clip_vision, picture)
    assert embeds.shape == (1, 2, 1024) and embeds.dtype == torch.float32
    expected = whole.clip_vision.encode_image(picture).image_embeds
    torch.testing.assert_close(embeds[0], expected.float(), rtol=0, atol=2e-2 * expected.abs().max().item())
    assert not torch.equal(embeds[:, 0], embeds[:, 1])
    assert TokenExpander()(embeds).shape == (1, 16, 1024)
    given = [[torch.zeros(1, 77, 1024), {"pooled_output": None}]]
    conditioning = set_cam_apm(given, picture, embeds, 0.5, 0.0)
    assert conditioning[0][1][names.CAM_FRAMES] is picture and conditioning[0][1][names.CAM_STRENGTH] == 0.5
    assert conditioning[0][1][names.ANCHOR_EMBEDS] is embeds and conditioning[0][1][names.APM_STRENGTH] == 0
    assert given[0][1] == {"pooled_output": None} == set_cam_apm(given, None)[0][1]


def test_metadata_gives_what_shapes_do_not(loader, put, host):
    """Width of heads, latents, the prediction type; without metadata all is as published."""
    import comfy.latent_formats
    import comfy.model_sampling
    from harness import streaming
    from safetensors.torch import load_file, save_file

    name = put("plain.safetensors", streaming.tiny_streaming(streaming.STORYWORLD))
    path = host.base / "models" / "checkpoints" / name
    plain = loader.load(name).model.model
    assert isinstance(plain.latent_format, comfy.latent_formats.SD15)
    assert isinstance(plain.model_sampling, comfy.model_sampling.EPS)
    assert plain.diffusion_model.config.head_channels == streaming.SIZES.head_channels
    rgb = [[0.1, 0.2, 0.3]] * 13
    metadata = {
        "head_channels": 32,
        "v_prediction": True,
        "latents": {"spread": 0.5, "rgb": rgb},
        "use": "tries things out",
    }
    save_file(load_file(path), path, {"storyreel_streaming": json.dumps(metadata)})
    loaded = loader.load(name)
    model = loaded.model.model
    assert loaded.kind.name == "StreamingT2V" and "tries things out" in loader.describe_checkpoint(loaded)
    assert model.diffusion_model.config.head_channels == 32
    assert model.diffusion_model.config.init_head_channels == streaming.SIZES.head_channels
    assert isinstance(model.model_sampling, comfy.model_sampling.V_PREDICTION)
    assert model.process_latent_in(torch.tensor(0.5)) == pytest.approx(1.0)
    assert torch.equal(model.model_sampling.sigmas, plain.model_sampling.sigmas)
