"""AnimateDiff's and IP-Adapter's networks against the published ones, and both in the host's own UNet.

Sizes, frames, heads and weights come from each file's metadata.
"""

import json
import re

import pytest
import torch
from harness.golden import Golden, files, to_clips, to_frames
from harness.motion import GoldenUNet, noise, procedural
from safetensors.torch import save_file
from storyreel.core.networks.animatediff.config import read_config
from storyreel.core.networks.animatediff.module import MotionModule, sinusoids
from storyreel.core.networks.attend import attend_plain
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.ip_adapter.layers import ImageLayer
from storyreel.core.networks.ip_adapter.projection import EmbeddingProjection, build_projection, read_projection

SYSTEM = "semantic_motion"
CLOSE = dict(atol=5e-5, rtol=1e-4)  # float32: the data's README


def close(output: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(output, reference, **CLOSE)


def shapes(weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def listed(golden: Golden) -> dict[str, list[int]]:
    return json.loads(golden.path.with_name(f"{golden.path.stem}.keys.json").read_text())


@pytest.mark.parametrize("path", files(SYSTEM, "mm_*.safetensors"))
@torch.no_grad()
def test_motion_module(path):
    golden = Golden(path)
    spec, tag = golden.config, golden.metadata["tag"]
    weights = golden.weights("w.") or procedural(listed(golden), tag)
    x = golden["input"]
    if "input_std" in spec:
        assert torch.equal(x, noise(f"{tag}:input", x.shape, spec["input_std"]))
    module = MotionModule(spec["channels"], spec["max_len"], spec["heads"]).eval()
    tables = {key: t for key, t in module.state_dict().items() if key.endswith("pos_encoder.pe")}
    assert tables and all(torch.equal(table, golden["pe"]) for table in tables.values())
    module.load_state_dict(weights | tables)
    close(to_clips(module(to_frames(x), len(x)), len(x)), golden["output"])


@pytest.mark.parametrize("path", files(SYSTEM, "mm_*.safetensors"))
def test_positions_to_the_bit(path):
    golden = Golden(path)
    table = golden["pe"]
    assert torch.equal(sinusoids(*table.shape[1:]), table)
    assert torch.equal(sinusoids(table.shape[1] + 9, table.shape[2])[:, : table.shape[1]], table)


@pytest.mark.parametrize("path", files(SYSTEM, "resampler_*.safetensors"))
@torch.no_grad()
def test_projection_of_ip_adapter_plus(path):
    golden = Golden(path)
    spec, tag = golden.config, golden.metadata["tag"]
    weights = golden.weights("w.")
    if not weights:
        with torch.device("meta"):
            sizes = {key: value for key, value in spec.items() if key not in ("input", "batch")}
            network = Resampler(read_projection(_shapes_of_resampler(sizes), sizes["dim_head"]))
        weights = procedural(shapes(network.state_dict()), tag)
    x = golden.tensors.get("input")
    if x is None:
        tokens = int(re.search(r"\(batch, (\d+), ", spec["input"])[1])
        x = noise(f"{tag}:input", (spec["batch"], tokens, spec["embedding_dim"]))
    config = read_projection(shapes(weights), spec["dim_head"])
    assert {name: getattr(config, name) for name in spec if hasattr(config, name)} == {
        name: value for name, value in spec.items() if name not in ("input", "batch")
    }
    network = build_projection(config).eval()
    network.load_state_dict(weights)
    close(network(x), golden["output"])


def _shapes_of_resampler(spec: dict) -> dict[str, tuple[int, ...]]:
    """Enough of them for the sizes to be read back."""
    dim, inner = spec["dim"], spec["heads"] * spec["dim_head"]
    layers = {f"layers.{number}.0.to_q.weight": (inner, dim) for number in range(spec["depth"])}
    return layers | {
        "latents": (1, spec["queries"], dim),
        "proj_in.weight": (dim, spec["embedding_dim"]),
        "proj_out.weight": (spec["output_dim"], dim),
        "layers.0.1.1.weight": (spec["ff_mult"] * dim, dim),
    }


@pytest.mark.parametrize("path", files(SYSTEM, "image_proj_*.safetensors"))
@torch.no_grad()
def test_projection_of_the_plain_ip_adapter(path):
    golden = Golden(path)
    weights = golden.weights("w.")
    network = build_projection(read_projection(shapes(weights))).eval()
    assert isinstance(network, EmbeddingProjection)
    network.load_state_dict(weights)
    close(network(golden["input"]), golden["output"])
    close(network(torch.zeros_like(golden["input"])), golden["output_zero"])


@pytest.mark.parametrize("path", files(SYSTEM, "decoupled_attn*.safetensors"))
@torch.no_grad()
def test_decoupled_attention(path):
    golden = Golden(path)
    spec, w = golden.config, golden.weights("w.")
    layer = ImageLayer(spec["context_dim"], spec["dim"]).eval()
    layer.load_state_dict({key: t for key, t in w.items() if "_ip." in key})
    heads, q = spec["heads"], golden["hidden"] @ w["to_q.weight"].T

    def attended(context: torch.Tensor, scale: float) -> torch.Tensor:
        text = attend_plain(q, context @ w["to_k.weight"].T, context @ w["to_v.weight"].T, heads)
        out = text + scale * layer(q, golden["ip"], heads) if scale else text
        return out @ w["to_out.0.weight"].T + w["to_out.0.bias"]

    close(attended(golden["text"], spec["scale"]), golden["output"])
    close(attended(golden["text"], spec["scale"]), golden["output_sdpa"])
    close(attended(golden["text"], 0.0), golden["output_scale0"])
    close(attended(torch.cat([golden["text"], golden["ip"]], 1), 0.0), golden["output_concat"])


@pytest.fixture
def opened(host, tmp_path, monkeypatch):
    """opened(golden) -> (the data's UNet as a MODEL, and its files' names in the folders)"""
    import folder_paths
    from storyreel.host.motion import animatediff, ip_adapter

    def opened(golden: Golden):
        unet = GoldenUNet(golden)
        files = {animatediff.FOLDER: ("motion.ckpt", unet.motion), ip_adapter.FOLDER: ("ip.safetensors", None)}
        for folder, (name, weights) in files.items():
            (tmp_path / folder).mkdir()
            monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], set()))
            if weights is not None:
                torch.save({"state_dict": {f"module.{key}": t for key, t in weights.items()}}, tmp_path / folder / name)
        adapter = {f"ip_adapter.{key}": t for key, t in unet.adapter.items()}
        save_file(adapter | {"image_proj.latents": torch.zeros(1)}, tmp_path / ip_adapter.FOLDER / "ip.safetensors")
        return unet.model(), "motion.ckpt", "ip.safetensors"

    return opened


@torch.no_grad()
def predict(model, golden: Golden) -> torch.Tensor:
    """What the UNet predicts of the data's clips, patches and all: cond after cond, of one conditioning each."""
    import comfy.model_management
    import comfy.sampler_helpers

    clips, frames = golden["sample"].shape[0], golden["sample"].shape[2]
    comfy.model_management.load_models_gpu([model, *model.get_nested_additional_models()])
    options = {"cond_or_uncond": [0] * clips, "uuids": list(range(clips)), "wrappers": model.wrappers}
    options |= model.model_options["transformer_options"]
    text = golden["text"].repeat_interleave(frames, 0)
    times = golden["timestep"].float().expand(clips * frames)
    unet = model.model.diffusion_model
    return to_clips(unet(to_frames(golden["sample"]), times, text, transformer_options=options), clips)


def following(model, golden: Golden, module, adapter):
    """One motion serves every clip of the data; so each clip is a MODEL of its own: [(model, clip)]."""
    from storyreel.core.motion.trajectory import Trajectory
    from storyreel.host.motion.apply import apply_to_sd15

    for clip, tokens in enumerate(golden["frame_tokens"]):
        scale = golden["ip_scale"].item()
        yield apply_to_sd15(model, Trajectory(tokens, "ip-plus"), module, adapter, scale), slice(clip, clip + 1)


class OneClip:
    """The data of one clip."""

    def __init__(self, golden: Golden, clip: slice):
        self.tensors = {name: t[clip] if t.ndim else t for name, t in golden.tensors.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]


@pytest.mark.parametrize("path", files(SYSTEM, "unet_*.io.safetensors"))
def test_the_hosts_unet(path, opened):
    """Without modules, with them, with tokens appended to the text and through IP-Adapter's layers; and plain again."""
    from storyreel.host.motion import animatediff, apply

    golden = Golden(path)
    model, module, adapter = opened(golden)
    config = read_config(shapes(GoldenUNet(golden).motion))
    assert config.version == golden.config["version"] and config.frames == golden.config["max_len"]
    if not config.whole_clip:  # the first version's norms are part of its modules
        close(predict(model, golden), golden["output_no_motion"])

    before = list(model.model.diffusion_model.named_modules())
    plain = predict(model, golden)
    with_modules = model.clone()
    modules = animatediff.load(module)
    with_modules.set_additional_models("modules", [modules])

    def around(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        with animatediff.inserted_modules(executor.class_obj, modules.model, len(x), transformer_options):
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    with_modules.add_wrapper("diffusion_model", around)
    close(predict(with_modules, golden), golden["output"])
    for name, file in (("output_concat", None), ("output_decoupled", adapter)):
        for followed, clip in following(model, golden, module, file):
            close(predict(followed, OneClip(golden, clip)), golden[name][clip])
    if golden["frame_tokens"].shape[0] == 1:
        unmoved = apply.apply_to_sd15(model, next(_motions(golden)), module, adapter, 0.0)
        close(predict(unmoved, golden), golden["output"])
    assert torch.equal(predict(model, golden), plain)
    assert list(model.model.diffusion_model.named_modules()) == before


def _motions(golden: Golden):
    from storyreel.core.motion.trajectory import Trajectory

    for tokens in golden["frame_tokens"]:
        yield Trajectory(tokens, "ip-plus")
