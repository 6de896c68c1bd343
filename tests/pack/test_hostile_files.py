"""Every loader refuses every kind of broken file in one sentence, before the file costs time or memory or runs code.

A file is judged by its header. The error names the file, its content and what was expected.
"""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from harness import banks, broken, dynamicrafter, streaming, tiny
from harness import motion as tiny_motion
from harness.memory import growth
from harness.operators import provide_nms
from safetensors.torch import load_file, save_file
from storyreel.core.networks.semantic_motion.config import METADATA as PREDICTOR
from storyreel.core.networks.semantic_motion.config import TRAINING, PredictorConfig

RAW = ("Error(s) in", "SafetensorError", "Error while", "size mismatch", "npickl", "torch.Size", "unexpected keyword")
RAW += (
    "to unpack",
    "has no attribute",
    "Errno",
    "Traceback",
    "invalid literal",
    "not in list",
    "out of range",
    "weights_only",
)
STORYWORLD = Path(__file__).resolve().parents[2] / "models" / "storyworld"
CONFIG = PredictorConfig(
    tokens=tiny_motion.TOKENS, token_width=tiny_motion.CONTEXT, width=32, depth=1, heads=2, frames=20
)


@dataclass(frozen=True)
class TokenEncoder:
    """The encoder that the predictor's file was trained for."""

    name: str = "IP-Adapter-Plus"
    token_space: str = CONFIG.token_space
    shape: tuple[int, int] = (CONFIG.tokens, CONFIG.token_width)
    frames_per_image: int = 1
    reads_clip_vision: bool = True


@dataclass(frozen=True)
class Loader:
    """folder: of models. write(path): a whole file. load(name). stated: the metadata that it reads. pickles: whether it
    takes others than safetensors; script: whether it takes TorchScript alone."""

    folder: str
    write: Callable
    load: Callable
    stated: str | None = None
    pickles: bool = True
    name: str | None = None
    script: bool = False


def storyworld_part(part: str, load: str) -> Loader:
    def opened(name: str):
        from storyreel.host import storyworld

        return getattr(storyworld, load)()

    def write(path: Path) -> None:
        shutil.copy(STORYWORLD / f"{part}.safetensors", path)

    return Loader("storyworld", write, opened, "config", False, f"{part}.safetensors")


def opens(module: str, function: str, *arguments) -> Callable:
    def opened(name: str):
        import importlib

        return getattr(importlib.import_module(f"storyreel.host.{module}"), function)(name, *arguments)

    return opened


def write_weights(weights: Callable[[], dict]) -> Callable:
    return lambda path: streaming.write(path, weights())


def write_others(path: Path) -> None:
    """Instead of FaceNet's 110 MB."""
    save_file({"last_linear.weight": torch.zeros(4, 4)}, path)


def write_bank(path: Path) -> None:
    from storyreel.core.attention.bank_format import encode

    tensors, metadata = encode(banks.bank(torch.float16))
    save_file(tensors, path, metadata)


def write_script(path: Path) -> None:
    class Network(torch.nn.Module):
        def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
            return x

    torch.jit.script(Network()).save(str(path))


def write_head(path: Path) -> None:
    save_file({key: t.contiguous() for key, t in torch.nn.Linear(768, 1).state_dict().items()}, path)


LOADERS = {
    "dynamicrafter": Loader(
        "checkpoints",
        lambda path: dynamicrafter.write(path, kind={"name": "tiny", "frames": 16, "dim_head": 64}),
        opens("dynamicrafter.loader", "load"),
        "storyreel_dynamicrafter",
    ),
    "streaming_t2v": Loader(
        "checkpoints",
        lambda path: streaming.write(path, streaming.tiny_streaming(), {"head_channels": 16}),
        opens("streaming.loader", "load"),
        "storyreel_streaming",
    ),
    "streaming_svd": Loader("checkpoints", write_weights(streaming.tiny_svd), opens("streaming.loader", "load")),
    "modelscope": Loader("checkpoints", write_weights(streaming.tiny_modelscope), opens("streaming.loader", "load")),
    "predictor": Loader(
        "semantic_motion",
        lambda path: tiny_motion.write_predictor(path, CONFIG),
        opens("motion.predict", "load_predictor", TokenEncoder()),
        PREDICTOR,
    ),
    "ip_adapter": Loader("ipadapter", tiny_motion.write_adapter, opens("motion.ip_adapter", "load_token_encoder")),
    "ip_adapter_layers": Loader("ipadapter", tiny_motion.write_adapter, opens("motion.ip_adapter", "load_layers")),
    "motion_module": Loader("animatediff_models", tiny_motion.write_module, opens("motion.animatediff", "load")),
    "storyworld_unet": storyworld_part("unet", "load_model"),
    "storyworld_text": storyworld_part("clip", "load_clip"),
    "storyworld_vision": storyworld_part("clip", "load_clip_vision"),
    "storyworld_vae": storyworld_part("autoencoder", "load_vae"),
    "aesthetic": Loader("aesthetic", write_head, opens("metrics.models", "aesthetic_head", None)),
    "facenet": Loader("facenet", write_others, opens("metrics.models", "reidentification")),
    "bank": Loader("storyreel_banks", write_bank, opens("attention.bank_files", "load"), pickles=False),
    "i3d": Loader("i3d", write_script, opens("metrics.models", "video_features"), script=True),
}
OF_WEIGHTS = [name for name, loader in LOADERS.items() if not loader.script]
BUILT = [name for name in OF_WEIGHTS if name not in ("aesthetic", "facenet")]  # of sizes that the file states
OF_PICKLES = [name for name, loader in LOADERS.items() if loader.pickles]


@pytest.fixture(scope="module")
def whole(host, tmp_path_factory):
    """whole(loader) -> the bytes of a valid file."""
    known = {}

    def read(name: str) -> bytes:
        if name not in known:
            path = tmp_path_factory.mktemp("whole") / (LOADERS[name].name or "whole.safetensors")
            LOADERS[name].write(path)
            known[name] = path.read_bytes()
        return known[name]

    return read


@pytest.fixture
def put(host, monkeypatch):
    """put(loader, bytes, ending) -> the name of a file in the loader's folder, deleted after the test."""
    import folder_paths
    from storyreel.host import storyworld

    provide_nms(monkeypatch)
    with tempfile.TemporaryDirectory() as folder:
        known = folder_paths.folder_names_and_paths.get(storyworld.FOLDER, ([], set()))
        monkeypatch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([folder], known[1]))
        written = []

        def place(loader: str, ending: str = ".safetensors") -> Path:
            spec = LOADERS[loader]
            inside = Path(folder) if spec.folder == "storyworld" else host.base / "models" / spec.folder
            inside.mkdir(exist_ok=True)
            written.append(inside / (spec.name or f"hostile{ending}"))
            return written[-1]

        def write(loader: str, data: bytes, ending: str = ".safetensors") -> str:
            path = place(loader, ending)
            path.write_bytes(data)
            return path.name

        write.place = place
        yield write
        for path in written:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def refusal(loader: str, name: str, *others: type) -> str:
    """The error with which a loader refuses a file."""
    with pytest.raises((ValueError, *others)) as caught:
        LOADERS[loader].load(name)
    message = str(caught.value)
    assert type(caught.value) in (ValueError, *others)
    assert name in message and message.endswith((".", ".pt")) and message.isprintable() and len(message) < 400, message
    assert not [raw for raw in RAW if raw in message], message
    return message


@pytest.mark.parametrize("loader", [*BUILT, "i3d"])
def test_a_whole_file_is_loaded(put, whole, loader):
    LOADERS[loader].load(put(loader, whole(loader), ".pt" if LOADERS[loader].script else ".safetensors"))


@pytest.mark.parametrize("loader", OF_WEIGHTS)
def test_broken_safetensors(put, whole, loader):
    for kind, breaks in broken.SAFETENSORS.items():
        message = refusal(loader, put(loader, breaks(whole(loader))))
        assert "bytes, is no safetensors file, or not a whole one: " in message, kind


@pytest.mark.parametrize("loader", OF_PICKLES)
def test_broken_pickles(put, loader, tmp_path):
    mark = tmp_path / "ran"
    for kind, build in broken.pickles(mark).items():
        message = refusal(loader, put(loader, build(), ".pt"))
        assert "expected" in message or "is no checkpoint" in message or "is no motion predictor" in message, kind
        assert not mark.exists(), kind


def test_the_error_names_the_content(put, tmp_path):
    """For some kinds, with one loader."""
    messages = {
        kind: refusal("ip_adapter", put("ip_adapter", build(), ".pt"))
        for kind, build in broken.pickles(tmp_path / "ran").items()
    }
    assert "holds a list; a checkpoint's weights were expected" in messages["a list"] == messages["an older list"]
    assert "holds a tensor; a checkpoint's weights were expected" in messages["a tensor"]
    assert "holds weights under 0, which is no name; weights by names were expected" in messages["numbers for names"]
    assert "holds Python objects as well as weights, posix.system among them" in messages["a program"]
    assert "holds Python objects as well as weights, numpy" in messages["numpy inside"]
    assert (
        "is an archive of 1 files, a.npy among them; a checkpoint of torch.save was expected"
        in messages["numpy's archive"]
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("loader", OF_PICKLES)
def test_a_bomb_takes_neither_memory_nor_time(put, bombs, loader):
    for kind, data in bombs.items():
        name, began = put(loader, data, ".pt"), time.process_time()
        grown = growth(lambda name=name: refusal(loader, name))
        assert grown < 2**28, (kind, grown)
        assert time.process_time() - began < 20, kind


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return {kind: build() for kind, build in broken.bombs().items()}


def test_a_small_file_of_full_shapes_is_no_bomb(host, put):
    """What the tests' own tiny checkpoints are: views of one short vector, as many numbers as the machine can hold."""
    for loader, name in (("ip_adapter", "ip_plus"), ("motion_module", "mm_v2")):
        path = put.place(loader, ".ckpt")
        shutil.copy(tiny.write(name, host.base / "tiny"), path)
        assert LOADERS[loader].load(path.name)
        weights = torch.load(path)["state_dict"]
        assert sum(t.numel() * t.element_size() for t in weights.values()) > 4 * path.stat().st_size


@pytest.mark.parametrize("loader", LOADERS)
def test_a_path_that_is_no_file(put, loader):
    """A directory, a link to nothing, and a file that the system will not read."""
    path = put.place(loader, ".pt" if LOADERS[loader].script else ".safetensors")
    path.mkdir()
    refusal(loader, path.name, FileNotFoundError)
    path.rmdir()
    path.symlink_to(path.parent / "nowhere")
    refusal(loader, path.name, FileNotFoundError)
    path.unlink()
    refusal(loader, path.name, FileNotFoundError)
    if Path("/proc/self/mem").exists():
        path.symlink_to("/proc/self/mem")
        refusal(loader, path.name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes another user's rights")
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_file_that_may_not_be_read(host, ending):
    from storyreel.host.common.loading import read_with_metadata

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, f"secret{ending}")
        save_file({"a": torch.zeros(1)}, path)
        path.chmod(0o600)
        try:
            os.seteuid(65534)
            with pytest.raises(
                ValueError, match=f"^secret{ending} cannot be read .* that ComfyUI may read was expected"
            ):
                read_with_metadata(path)
        finally:
            os.seteuid(0)


# Weights whose shapes are those of no network


def rewritten(data: bytes, change: Callable[[dict], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        path.write_bytes(data)
        weights = load_file(path)
        change(weights)
        save_file(
            {key: t.contiguous() for key, t in weights.items()}, path, broken.header_of(data)[0].get("__metadata__")
        )
        return path.read_bytes()


def some(keys: list[str], count: int = 8) -> list[str]:
    """A few of many, spread evenly, the first and last among them."""
    count = min(count, len(keys))
    return [keys[number * (len(keys) - 1) // max(count - 1, 1)] for number in range(count)]


SIZED = (  # that sizes are read from
    "input_blocks.0.0.weight",
    "input_blocks.1.0.in_layers.2.weight",
    "init_attn.0.proj_in.weight",
    "input_blocks.0.1.proj_in.weight",
    "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "attn2.conv.weight",
    "latents",
    "layers.0.0.to_q.weight",
    "layers.0.1.1.weight",
    "context_embedding.0.weight",
    "context_embedding.2.weight",
    "conv_in.weight",
    "conv_out.weight",
    "mid_block.temporal_transformer.norm.weight",
    "temporal_transformer.norm.weight",
    "pos_encoder.pe",
    "1.to_k_ip.weight",
    "token_embedding.weight",
    "position_embedding.weight",
)


def damaged(weights: dict, key: str) -> list[torch.Tensor]:
    """Replacements of a weight: a longer last axis, one more axis, none, an empty tensor, integers."""
    weight = weights[key]
    wider = torch.zeros(*weight.shape[:-1], weight.shape[-1] + 1) if weight.ndim else torch.zeros(3)
    return [
        wider,
        weight[None, None],
        torch.zeros(()) if weight.ndim else torch.zeros(2),
        torch.zeros(0),
        weight.long(),
    ]


@pytest.mark.parametrize("loader", [*BUILT, "aesthetic"])
def test_one_wrong_shape(put, whole, loader):
    """Of keys that sizes are read from, and of some others."""
    data = whole(loader)
    keys = sorted(key for key in broken.header_of(data)[0] if key != "__metadata__")
    if "storyworld_text" in loader or "storyworld_vision" in loader:
        keys = [key for key in keys if key.startswith("text" if loader.endswith("text") else "vis")]
    if loader.startswith("ip_adapter"):
        keys = [key for key in keys if key.startswith("ip_adapter" if loader.endswith("layers") else "image_proj")]
    sized = [next((key for key in keys if key.endswith(end)), None) for end in SIZED]
    weights = {}
    rewritten(data, weights.update)
    for place, key in enumerate(dict.fromkeys([*filter(None, sized), *some(keys, 3)])):
        others = damaged(weights, key)
        other = others[place % len(others)]
        message = refusal(loader, put(loader, rewritten(data, lambda tensors, to=(key, other): tensors.update([to]))))
        assert "expected" in message or "is not whole" in message, (key, other.shape, message)


@pytest.mark.parametrize("loader", ["dynamicrafter", "streaming_t2v", "streaming_svd"])
def test_one_wrong_shape_in_an_encoder(put, whole, loader):
    """Of the parts that the host builds: its own raw errors are not shown."""
    prefix = {"dynamicrafter": "first_stage_model.", "streaming_t2v": "vae.", "streaming_svd": "first_stage_model."}[
        loader
    ]
    vae = {prefix + key: t for key, t in tiny.random_weights(tiny.plain_vae()).items()}
    vae = {key: t.clone() for key, t in vae.items()}
    for end in ("decoder.conv_out.weight", "encoder.down.0.block.0.conv1.weight", "quant_conv.weight"):
        (key,) = (key for key in vae if key.endswith(end) and "post" not in key)
        wrong = vae | {key: torch.zeros(vae[key].shape[0] + 1, *vae[key].shape[1:])}
        data = rewritten(whole(loader), lambda tensors, wrong=wrong: tensors.update(wrong))
        message = refusal(loader, put(loader, data))
        assert "expected" in message


@pytest.mark.parametrize("loader", BUILT)
def test_many_weights_do_not_build_for_long(put, whole, loader):
    """Keys of a large network, in a small file."""
    promised = {
        "dynamicrafter": "model.diffusion_model.input_blocks.{}.0.in_layers.2.weight",
        "streaming_t2v": "base_model.input_blocks.{}.0.in_layers.2.weight",
        "streaming_svd": "model.diffusion_model.input_blocks.{}.0.in_layers.2.weight",
        "modelscope": "input_blocks.{}.0.in_layers.2.weight",
        "predictor": "blocks.{}.norm1.weight",
        "ip_adapter": "image_proj.layers.{}.0.norm1.weight",
        "ip_adapter_layers": "ip_adapter.{}.to_k_ip.weight",
        "motion_module": "down_blocks.{}.motion_modules.0.temporal_transformer.norm.weight",
    }.get(loader, "blocks.{}.weight")
    more = {promised.format(number + 2): torch.zeros(1, 1, 1, 1) for number in range(3000)}
    data = rewritten(whole(loader), lambda tensors: tensors.update({k: t for k, t in more.items() if k not in tensors}))
    began = time.process_time()
    if loader.startswith("storyworld") and loader != "storyworld_vae":
        LOADERS[loader].load(put(loader, data))  # the host ignores unknown keys
    else:
        refusal(loader, put(loader, data))
    assert time.process_time() - began < 10


def test_too_many_weights(put):
    for ending, write in ((".safetensors", save_file), (".ckpt", torch.save)):
        path = put.place("ip_adapter", ending)
        write({f"a{number}": torch.zeros(1) for number in range(2**15 + 1)}, path)
        assert "holds 32,769 weights; 32,768 at most were expected" in refusal("ip_adapter", path.name)


# Metadata of our own files

TEXTS = {
    "no JSON": "{frames}",
    "a list": "[8]",
    "nothing": "null",
    "a number": "3",
    "an empty text": "",
    "nested deeply": "[" * 100_000,
    "a long one": json.dumps({"name": "a" * 2**21}),
    "an unknown field": json.dumps({"layers": 8}),
    "many unknown fields": json.dumps({f"layer {number}": 8 for number in range(5000)}),
    "an unknown field of many lines": json.dumps({"a\nb\ud800" * 300: 8}),
    "no text for a name": '{"name": [["a"]], "space": [["a"]], "unet": [["a"]], "text": 3}',
}
STATED = [name for name, loader in LOADERS.items() if loader.stated]


def stating(data: bytes, name: str, text: str) -> bytes:
    header, rest = broken.header_of(data)
    header.setdefault("__metadata__", {})[name] = text
    return broken.with_header(json.dumps(header), rest)


def stated_by(loader: str, data: bytes) -> dict:
    return json.loads(broken.header_of(data)[0]["__metadata__"][LOADERS[loader].stated])


@pytest.mark.parametrize("loader", STATED)
def test_invalid_metadata(put, whole, loader):
    for kind, text in TEXTS.items():
        if "storyworld_vae" in loader and kind == "nothing":
            continue
        refusal(loader, put(loader, stating(whole(loader), LOADERS[loader].stated, text)))


def places(value, path=()) -> list[tuple]:
    """Paths of every value in nested dictionaries and the first entries of lists."""
    if isinstance(value, dict):
        return [place for key, entry in value.items() for place in places(entry, (*path, key))]
    if isinstance(value, list) and value:
        return [path, *places(value[0], (*path, 0))]
    return [path]


def with_value(stated: dict, path: tuple, value) -> dict:
    changed = json.loads(json.dumps(stated))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


ABSURD = [10**9, 10**30, 10**400, -7, math.nan, math.inf, "8", [1] * 10_000, {"a": 1}, [[1]], 2.5]
FULL = {  # fields that the tiny files leave out, with valid values
    "dynamicrafter": {
        "v_prediction": True,
        "zero_snr": True,
        "base_scale": 0.7,
        "default_fs": 24,
        "fs_is_stride": False,
        "interpolates": False,
        "frames": 16,
        "size": [512, 320],
        "image_tokens": 16,
        "dim_head": 64,
        "head_channels": 16,
        "latents": None,
    },
    "streaming_t2v": {
        "frames": 16,
        "memory": 8,
        "head_channels": 16,
        "latents": None,
        "v_prediction": False,
        "use": "a",
    },
}
REAL = ("base_scale", "spread", "rgb")  # numbers that may be no whole ones
NAMES = ("name", "use", "token_space", "licence")


@pytest.mark.parametrize("loader", STATED)
def test_absurd_numbers(put, whole, loader):
    """In every field: too large, negative, NaN, of another type. No network is built from them."""
    data, key = whole(loader), LOADERS[loader].stated
    stated = stated_by(loader, data) | FULL.get(loader, {})
    if loader == "storyworld_vae":
        stated = {"depth": 3}
    else:
        LOADERS[loader].load(put(loader, stating(data, key, json.dumps(stated))))
    unread = {"storyworld_text": ("vision",), "storyworld_vision": ("text", "token_ids")}.get(loader, ())
    for number, path in enumerate(places(stated)):
        if set(path) & set(unread):
            continue
        for value in ABSURD[number % 2 :: 2]:
            if value == "8" and path[-1] in NAMES or value in (2.5, -7) and set(path) & set(REAL):
                continue
            text, began = json.dumps(with_value(stated, path, value)), time.process_time()
            message = refusal(loader, put(loader, stating(data, key, text)))
            assert time.process_time() - began < 10, (path, value)
            assert "expected" in message or "does not know" in message or "no list of" in message, message


@pytest.mark.parametrize(
    ("loader", "path", "values"),
    [
        ("dynamicrafter", ("dim_head",), (0, -1, 7, 65, 4096)),
        ("dynamicrafter", ("head_channels",), (0, -1, 7, 33, 4096)),
        ("dynamicrafter", ("image_tokens",), (0, 3, 17, 4096)),
        ("dynamicrafter", ("frames",), (0, 1, 15, 17)),
        ("dynamicrafter", ("size",), ([512], [512, 320, 8], [0, 0])),
        ("dynamicrafter", ("latents",), ({}, {"spread": 0}, {"spread": 1, "rgb": [[0, 0, 0]]}, {"spread": 1.0})),
        ("streaming_t2v", ("head_channels",), (0, -1, 7, 33)),
        ("streaming_t2v", ("memory",), (0, 16, 17)),
        ("streaming_t2v", ("latents",), ({"spread": 1.0}, {"spread": math.nan})),
        ("predictor", ("depth",), (0, 2, 200)),
        ("predictor", ("heads",), (0, 3, 33)),
        ("predictor", ("width",), (31, 64)),
        ("predictor", ("frames",), (0, 19, 21)),
        ("storyworld_unet", ("unet", "num_head_channels"), (0, -1, 7, 97)),
        ("storyworld_unet", ("unet", "transformer_depth"), ([1], [16, 16], [])),
        ("storyworld_unet", ("unet", "channel_mult"), ([1], [1, 16], [1] * 8)),
        ("storyworld_text", ("text", "num_attention_heads"), (0, 5, 97)),
        ("storyworld_text", ("text", "num_hidden_layers"), (4, 64)),
        ("storyworld_text", ("token_ids",), ([1], [1, 1], [49408])),
        ("storyworld_vision", ("vision", "patch_size"), (0, 8, 17)),
        ("storyworld_vision", ("vision", "num_attention_heads"), (5,)),
    ],
)
def test_numbers_must_fit_the_shapes(put, whole, loader, path, values):
    data, key = whole(loader), LOADERS[loader].stated
    for value in values:
        text = json.dumps(with_value(stated_by(loader, data) | FULL.get(loader, {}), path, value))
        refusal(loader, put(loader, stating(data, key, text)))


def test_a_predictors_training(put, whole):
    data = whole("predictor")
    for text in ("{", "[]", "3", '{"tokens_of": 3}', '{"tokens_of": "a\\nb"}', '{"beats_interpolation": "no"}'):
        refusal("predictor", put("predictor", stating(data, TRAINING, text)))
    message = (
        LOADERS["predictor"].load(put("predictor", stating(data, TRAINING, '{"tokens_of": "another"}'))).description
    )
    assert "trained on tokens of another" in message


def test_a_predictor_of_other_sizes_is_refused_for_this_space(put, whole):
    other = replace(CONFIG, tokens=5)
    message = refusal("predictor", put("predictor", stating(whole("predictor"), PREDICTOR, json.dumps(other.__dict__))))
    assert "was trained for ip-plus (5 x 48), and IP-Adapter-Plus makes ip-plus (3 x 48)" in message
