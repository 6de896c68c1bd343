"""Every kind of model that extends a clip, tiny, and a run of some chunks by it without a graph."""

import functools

import torch

from . import extending, streaming, video_models

SIZE = 64
TEXT = 64  # width of the tiny models' text


def words(seed: int, rows: int = 3) -> list:
    return [[torch.randn(rows, 77, TEXT, generator=torch.Generator().manual_seed(seed)), {}]]


def streaming_t2v(host):
    from storyreel.host.streaming import loader

    model = loader.build_streaming(streaming.tiny_streaming(), torch.float32)
    return dict(model=model, chunk_length=6, overlap=3)


def streaming_svd(host):
    from storyreel.host.streaming import svd as streaming_svd

    return dict(model=streaming_svd.build_model(streaming.tiny_svd(), torch.float32), chunk_length=5, overlap=2)


def svd(host):
    """The host's own model."""
    import comfy.model_base

    parts = streaming_svd(host)
    parts["model"].model.__class__ = comfy.model_base.SVD_img2vid
    return parts | dict(overlap=0)


def dynamicrafter(host, kind="512"):
    from storyreel.host.dynamicrafter import loader

    from . import dynamicrafter

    path = dynamicrafter.write(host.base / "models" / "checkpoints" / f"dynamicrafter_{kind}_extended.safetensors")
    return dict(model=loader.load(path.name, kind, torch.float32).model, chunk_length=4)


def interpolation(host):
    return dynamicrafter(host, "512_interp")


def wan(host):
    vae, vision = extending.tiny_wan_vae(), extending.tiny_vision(1280)
    return dict(model=extending.tiny_wan(), vae=vae, clip_vision=vision, chunk_length=9, overlap=5)


def wan22(host):
    model, vae = extending.tiny_wan(image_encoder=False), extending.tiny_wan_vae()
    return dict(model=model, vae=vae, clip_vision=None, chunk_length=5)


def wan22_experts(host):
    return wan22(host) | dict(low_noise_model=extending.tiny_wan(image_encoder=False, seed=1), switch_step=1)


def transformer(name: str, **sizes):
    """A family of the host's video transformers, and prompts that it reads."""
    family = video_models.FAMILIES[name]
    vision = extending.tiny_vision(1152) if name == "hunyuan15" else None
    made = dict(model=video_models.build(name), vae=family.vae(), clip_vision=vision)
    return made | dict(positive=video_models.prompt(name, 3, 1), negative=video_models.prompt(name, 3, 2)) | sizes


def wan_vace(host):
    return transformer("wan21_vace", chunk_length=9, overlap=5)


def ltx(host):
    return transformer("ltxv", chunk_length=17, overlap=9)


def ltx2(host):
    return transformer("ltx2", chunk_length=17, overlap=9)


def hunyuan(host):
    return transformer("hunyuan15", chunk_length=9, overlap=1)


MAKERS = streaming_t2v, streaming_svd, svd, dynamicrafter, interpolation, wan, wan22, wan22_experts
MAKERS += wan_vace, ltx, ltx2, hunyuan
KINDS = {make.__name__: make for make in MAKERS}


@functools.cache
def cached(make, *arguments):
    """make(*arguments), called once until `cached.cache_clear()`."""
    return make(*arguments)


def chunk_inputs(host, kind: str, **changed):
    """The node's inputs to an extender, on tiny models; prompts for the kinds that read them."""
    from storyreel.host.extend.extender import ChunkInputs

    inputs = dict(vae=cached(extending.tiny_vae), clip_vision=cached(extending.tiny_vision), seed=5, cfg=2.0)
    inputs |= dict(positive=words(1), negative=words(2), sampler=sampler_object("euler"))
    if "svd" in kind:
        inputs |= dict(positive=None, negative=None)
    inputs |= cached(KINDS[kind], host)
    inputs["sigmas"] = calculate(inputs["model"], "normal", 3)[1:]
    return ChunkInputs(**inputs | changed)


def sampler_object(name: str):
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


def calculate(model, scheduler: str, steps: int) -> torch.Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def noise_images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(inputs, folder, clip=None, anchor=0, chunks=2, color_match=0.0) -> tuple[list, object]:
    """(the new frames of each chunk that was computed, the folder's store)"""
    from storyreel.host.extend import extend
    from storyreel.host.extend.families import extender_of
    from storyreel.host.video import file

    extender = extender_of(inputs)
    clip = file.open_video(noise_images(max(6, extender.overlap)) if clip is None else clip, 8.0)
    start = extend.read_start(clip, extender.overlap, *((anchor,) if isinstance(anchor, int) else (0, anchor)))
    extender.check_size(start.last.shape[2], start.last.shape[1])
    store = extend.Store(folder, [f"{number:012}" for number in range(chunks)])
    return list(extend.generate_chunks(extender, start, store, color_match)), store
