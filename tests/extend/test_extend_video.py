"""A clip extended by each kind of model in the real host: a chunk's conditioning, its output, the refusals."""

from dataclasses import replace
from fractions import Fraction

import av
import pytest
import torch
from harness import extending, streaming
from harness.chunks import KINDS, SIZE, cached, chunk_inputs, noise_images, run, words


@pytest.fixture(scope="module", autouse=True)
def _let_go():
    yield
    cached.cache_clear()


@pytest.fixture(params=KINDS)
def kind(request, host):
    return request.param


def test_each_kind_resumes(kind, host, tmp_path):
    """A run that stops after a chunk resumes with the frames of an unbroken one; a finished one computes nothing."""
    inputs = chunk_inputs(host, kind)
    unbroken, store = run(inputs, tmp_path / "unbroken")
    overlap = inputs.overlap or 1
    assert [new.shape for new in unbroken] == [(inputs.chunk_length - overlap, SIZE, SIZE, 3)] * 2
    assert all(new.isfinite().all() and new.std() > 0.01 for new in unbroken)
    assert not torch.equal(*unbroken)
    tail = torch.cat(unbroken)[-overlap:]
    kept = min(len(unbroken[1]), overlap)
    assert torch.equal(store.last(1)[-kept:], tail[-kept:])

    first, _ = run(inputs, tmp_path / "broken", chunks=1)
    second, again = run(chunk_inputs(host, kind), tmp_path / "broken")
    assert len(first) == len(second) == 1
    assert torch.equal(first[0], unbroken[0]) and torch.equal(second[0], unbroken[1])
    assert torch.equal(again.last(1), store.last(1))
    assert run(inputs, tmp_path / "broken")[0] == []


def test_each_chunk_has_its_own_prompt_and_seed(kind, host, tmp_path):
    inputs = chunk_inputs(host, kind)
    chunks, _ = run(inputs, tmp_path / "1")
    other, _ = run(chunk_inputs(host, kind, seed=6), tmp_path / "2", chunks=1)
    assert not torch.equal(other[0], chunks[0])
    if inputs.positive is not None:
        changed = [[inputs.positive[0][0].clone(), inputs.positive[0][1]]]
        changed[0][0][1] = 0
        changed, _ = run(chunk_inputs(host, kind, positive=changed), tmp_path / "3")
        assert torch.equal(changed[0], chunks[0]) and not torch.equal(changed[1], chunks[1])


def conditions(inputs, number=0, before=None, anchor=None):
    from storyreel.host.extend.families import extender_of

    extender = extender_of(inputs)
    before = noise_images(extender.overlap, 7) if before is None else before
    with torch.no_grad():
        conds = extender.prepare(number, before, noise_images(1, 8) if anchor is None else anchor, 0)[:2]
    return [cond[0][1] for cond in conds], [cond[0][0] for cond in conds]


def test_the_conditioning_of_streamingt2v(host):
    from storyreel.host.common.clip_vision import anchor_embeds
    from storyreel.host.streaming import modelscope as names

    inputs = chunk_inputs(host, "streaming_t2v")
    before, anchor = noise_images(3, 7), noise_images(1, 8)
    for number, row in ((0, 0), (1, 1), (9, 2)):  # the last one holds on
        (positive, negative), texts = conditions(inputs, number, before, anchor)
        assert torch.equal(texts[0], inputs.positive[0][0][row : row + 1])
        assert positive[names.CAM_FRAMES] is before and negative[names.CAM_FRAMES] is before
        with torch.no_grad():
            expected = [anchor_embeds(inputs.clip_vision, image) for image in (anchor, torch.full_like(anchor, 0.5))]
        for cond, embeds in zip((positive, negative), expected, strict=True):
            torch.testing.assert_close(cond[names.ANCHOR_EMBEDS], embeds)


def test_the_conditioning_of_stable_video_diffusion(host):
    """The last frame; frame rate and motion of the host's conditioning."""
    conditioning = [[torch.zeros(1, 1, 8), {"motion_bucket_id": 40, "fps": 12, "augmentation_level": 0.0}]]
    for given, expected in ((None, (127, 6)), (conditioning, (40, 12))):
        inputs = chunk_inputs(host, "svd", positive=given)
        before = noise_images(1, 7)
        (positive, negative), embeds = conditions(inputs, before=before)
        assert (positive["motion_bucket_id"], positive["fps"]) == expected
        with torch.no_grad():
            assert torch.equal(positive["concat_latent_image"], inputs.vae.encode(before))
            assert torch.equal(embeds[0][0], inputs.clip_vision.encode_image(before).image_embeds)
        assert not embeds[1].any() and not negative["concat_latent_image"].any()


def test_the_conditioning_of_streamingsvd(host):
    """The frames before go through CAM; the anchor, slightly noised, is the model's own image; published defaults."""
    from storyreel.host.streaming import modelscope as names

    inputs = chunk_inputs(host, "streaming_svd")
    before, anchor = noise_images(2, 7), noise_images(1, 8)
    (positive, negative), embeds = conditions(inputs, 0, before, anchor)
    other, _ = conditions(inputs, 1, noise_images(2, 9), anchor)[0]
    assert (positive["fps"], positive["motion_bucket_id"], positive["augmentation_level"]) == (7, 127, 0.02)
    assert positive[names.CAM_FRAMES] is before and negative[names.CAM_FRAMES] is before
    with torch.no_grad():
        plain = inputs.vae.encode(anchor)
    difference = (positive["concat_latent_image"] - plain).abs().max()
    assert 0 < difference < 0.2 * plain.abs().max()
    assert torch.equal(positive["concat_latent_image"], other["concat_latent_image"])
    assert not embeds[1].any() and not negative["concat_latent_image"].any()


def test_the_conditioning_of_dynamicrafter(host):
    from storyreel.host.dynamicrafter.model import CONCAT_LATENTS, FS, MODE

    before, ends = noise_images(1, 7), noise_images(2, 8)
    inputs = chunk_inputs(host, "dynamicrafter", positive=[[words(1)[0][0], {FS: 12}]])
    (positive, negative), _ = conditions(inputs, before=before)
    with torch.no_grad():
        latents = [inputs.vae.encode(image[None])[0] for image in (before[0], *ends)]
    assert positive[MODE] == "animate" and positive[FS] == negative[FS] == 12
    assert all(torch.equal(latent, latents[0]) for latent in positive[CONCAT_LATENTS])
    inputs = chunk_inputs(host, "interpolation")
    for number, end in ((0, 1), (1, 2), (5, 2)):
        (positive, _), _ = conditions(inputs, number, before, ends)
        assert positive[MODE] == "interpolate"
        assert torch.equal(positive[CONCAT_LATENTS][0], latents[0])
        assert torch.equal(positive[CONCAT_LATENTS][-1], latents[end]) and not positive[CONCAT_LATENTS][1:-1].any()


def test_without_cam_and_apm_it_is_the_model_without_them(host, tmp_path):
    """Equal to the last bit to the host's own sampling; each of the two ignores the other's input."""
    import comfy.samplers

    inputs = chunk_inputs(host, "streaming_t2v", cam_strength=0.0, apm_strength=0.0, clip_vision=None)
    chunks, _ = run(inputs, tmp_path / "0", chunks=1)
    guider = comfy.samplers.CFGGuider(inputs.model)
    rows = [[[cond[0][0][:1], {}]] for cond in (inputs.positive, inputs.negative)]
    guider.set_conds(*rows)
    guider.set_cfg(inputs.cfg)
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        start, sampling = torch.zeros_like(noise), (inputs.sampler, inputs.sigmas)
        samples = guider.sample(noise, start, *sampling, seed=6, disable_pbar=True)
        assert torch.equal(chunks[0], inputs.vae.decode(samples)[3:])

    def extended(name: str, clip=0, anchor=8, **strengths):
        inputs = chunk_inputs(host, "streaming_t2v", **strengths)
        return run(inputs, tmp_path / name, noise_images(6, clip), noise_images(1, anchor), chunks=1)[0][0]

    both, without_cam, free = extended("both"), extended("no CAM", cam_strength=0.0), extended("free", apm_strength=0.0)
    assert torch.equal(extended("no CAM, another clip", clip=1, cam_strength=0.0), without_cam)
    assert torch.equal(extended("free of another", anchor=9, apm_strength=0.0), free)
    assert not torch.equal(extended("another clip", clip=1), both)
    assert not torch.equal(extended("another anchor", anchor=9), both)
    assert not torch.equal(without_cam, both) and not torch.equal(free, both)


def test_streamingsvd_without_cam_is_the_hosts_own(host, tmp_path):
    import comfy.model_base

    chunks, _ = run(chunk_inputs(host, "streaming_svd", cam_strength=0.0), tmp_path / "1")
    inputs = chunk_inputs(host, "streaming_svd")
    inputs = replace(inputs, model=inputs.model.clone())
    inputs.model.remove_wrappers_with_key("diffusion_model", "storyreel_cam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(inputs.model.model), "extra_conds", comfy.model_base.SVD_img2vid.extra_conds)
        plain, _ = run(inputs, tmp_path / "2")
    assert all(torch.equal(*pair) for pair in zip(chunks, plain, strict=True))


def test_colors_stay_those_of_the_anchor(host, tmp_path):
    from storyreel.core.video.color import match_colors

    frames, anchor = 0.2 * noise_images(5) + 0.1, 0.3 * noise_images(1, 4) + 0.4
    pulled = match_colors(frames, anchor, 1.0).flatten(0, 2)
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(statistic(pulled, 0), statistic(anchor.flatten(0, 2), 0), rtol=1e-3, atol=1e-4)
    half = match_colors(frames, anchor, 0.5).mean((0, 1, 2))
    torch.testing.assert_close(half, (frames.mean((0, 1, 2)) + anchor.mean((0, 1, 2))) / 2, rtol=1e-3, atol=1e-4)
    assert match_colors(frames, anchor, 0.0) is frames
    flat = torch.full((2, 4, 4, 3), 0.25)
    torch.testing.assert_close(match_colors(flat, anchor, 1.0).mean((0, 1, 2)), anchor.mean((0, 1, 2)))

    inputs, blue = chunk_inputs(host, "streaming_t2v"), torch.tensor([0.1, 0.2, 0.8]).expand(1, SIZE, SIZE, 3)
    free, _ = run(inputs, tmp_path / "free", anchor=blue)
    held, store = run(inputs, tmp_path / "held", anchor=blue, color_match=1.0)
    for number, new in enumerate(held):
        assert (new.mean((0, 1, 2)) - blue[0, 0, 0]).abs().max() < 0.1
        assert torch.equal(store.last(number), new[-3:])  # the input of the next chunk is matched, too
    assert (free[1].mean((0, 1, 2)) - blue[0, 0, 0]).abs().max() > 0.1


def test_what_cannot_be_extended_is_refused(host, tmp_path):
    from storyreel.host import storyworld
    from storyreel.host.streaming import loader

    def refused(words: str, kind: str = "streaming_t2v", run_as=None, **changed):
        with pytest.raises(ValueError, match=words):
            run(chunk_inputs(host, kind, **changed), tmp_path, **run_as or {})

    modelscope = loader.build_modelscope(streaming.tiny_modelscope(), precision=torch.float32)
    refused(
        "MODEL is ModelScope text-to-video, which cannot continue a clip. Use StreamingT2V, StreamingSVD",
        model=modelscope,
    )
    refused("MODEL is BaseModel, which cannot", model=cached(storyworld.load_model, "fp32"))
    refused("MODEL is WAN21, which cannot", model=extending.tiny_wan(False, False))
    refused("chunk_length is 6 and overlap 6, so chunks have no new frames", overlap=6)
    refused("overlap is 2, but DynamiCrafter continues from 1 frame. Set overlap to 1", "dynamicrafter", overlap=2)
    refused("overlap is 2, but Stable Video Diffusion continues from 1", "svd", overlap=2)
    refused(
        "chunk_length is 8; Wan image-to-video needs a multiple of 4 plus 1: 5 or 9 is expected", "wan", chunk_length=8
    )
    refused("overlap is 2; Wan image-to-video needs a multiple of 4 plus 1: 1 or 5", "wan", overlap=2)
    refused("chunk_length is 16; LTX-2 needs a multiple of 8 plus 1: 9 or 17", "ltx2", chunk_length=16)
    refused("overlap is 4; Wan VACE needs a multiple of 4 plus 1: 1 or 5", "wan_vace", overlap=4)
    refused(
        "switch_step is 3, and sigmas has 2 steps, so low_noise_model would sample none", "wan22_experts", switch_step=3
    )
    refused(
        "both models need a step above and below 0.9, where low_noise_model takes over", "wan22_experts", switch_step=0
    )
    other = extending.tiny_wan(False, False)
    refused("low_noise_model is WAN21; the low-noise expert of Wan", "wan22_experts", low_noise_model=other)
    refused("positive is empty; StreamingT2V needs a prompt", positive=None)
    refused("negative is empty; DynamiCrafter needs a prompt", "dynamicrafter", negative=None)
    for kind in ("streaming_svd", "svd", "dynamicrafter", "wan", "hunyuan"):
        refused("clip_vision is empty; .* reads an image through its image encoder", kind, clip_vision=None)
    for kind in ("streaming_t2v", "streaming_svd", "svd", "dynamicrafter", "wan"):
        refused("^vae is empty. Load the VAE of", kind, vae=None)
    refused("StreamingT2V encodes APM.s anchor .* set apm_strength to 0", clip_vision=None)
    refused("frames contains 2 frames; overlap 3 needs at least 3", run_as=dict(clip=noise_images(2)))
    refused("anchor is 6, but frames contains 6", run_as=dict(anchor=6))
    refused("anchor is -7, but frames contains 6", run_as=dict(anchor=-7))
    odd = dict(clip=noise_images(6)[:, :60])
    refused("frames are 64 x 60 pixels; StreamingT2V needs sides that are multiples of 8", run_as=odd)
    refused("Wan image-to-video needs sides that are multiples of 16", "wan", run_as=dict(clip=noise_images(6)[:, :56]))
    refused("LTX-Video needs sides that are multiples of 32", "ltx", run_as=dict(clip=noise_images(9)[:, :48]))


def names(inputs, chunks: int = 3) -> list[str]:
    from comfy_execution.graph import DynamicPrompt
    from storyreel.host.extend import extend
    from storyreel.host.extend.families import extender_of

    prompt = {"9": {"class_type": "StoryReelExtendVideo", "inputs": {}}}
    return extend.chunk_names(DynamicPrompt(prompt), "9", extender_of(inputs), chunks)


def test_a_chunk_is_named_by_what_its_model_reads(host):
    """Not by tokens behind those that DynamiCrafter reads, which are there if any prompt of the story is long; nor by
    latents that Stable Video Diffusion's conditioning draws again each time, and that are not used."""
    padded = [[torch.cat([text, text[:, :5]], 1), extras] for text, extras in words(1)]
    plain = names(chunk_inputs(host, "dynamicrafter"))
    assert names(chunk_inputs(host, "dynamicrafter", positive=padded)) == plain
    assert names(chunk_inputs(host, "streaming_t2v", positive=padded)) != names(chunk_inputs(host, "streaming_t2v"))
    assert names(chunk_inputs(host, "dynamicrafter", positive=words(3)))[0] != plain[0]

    def noisy(seed: int, fps: int = 7) -> list:
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        return [[torch.zeros(1, 1, 4), {"concat_latent_image": latent, "fps": fps}]]

    svd = [names(chunk_inputs(host, "svd", positive=conds)) for conds in (noisy(1), noisy(2), noisy(1, fps=8))]
    assert svd[0] == svd[1] != svd[2]


def test_sound_stays_on_the_frames_that_it_came_with(host):
    """A clip of fewer frames than its sound is long, as of GetVideoComponents and the first frames of its images."""
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types
    from storyreel.host.extend import extend
    from storyreel.host.video import file

    audio = {"waveform": torch.rand(1, 2, 9000), "sample_rate": 1000}
    parts = Types.VideoComponents(images=noise_images(16), audio=audio, frame_rate=Fraction(8))
    clip = file.open_video(InputImpl.VideoFromComponents(parts), 0.0)
    sound = extend.read_start(clip, 3, 0).clip.sound
    assert sound.samples.shape == (2, 2000) and torch.equal(
        torch.from_numpy(sound.samples), audio["waveform"][0, :, :2000]
    )


@pytest.mark.parametrize("anchor", [0, 2, -1, -6])
def test_the_anchor_is_a_frame_of_the_clip(host, anchor):
    from storyreel.host.extend import extend
    from storyreel.host.video import file

    start = extend.read_start(file.open_video(noise_images(6), 8.0), 3, anchor)
    assert torch.equal(start.anchor, noise_images(6)[anchor][None]) and torch.equal(start.last, noise_images(6)[3:])


@pytest.fixture(scope="module")
def world(host):
    """The host, with a tiny StreamingT2V between Storyworld's encoders among its files."""
    path = extending.write_model(host.base / "models")
    yield host
    path.unlink()


def clip_with_sound(path, frames: int = 6, rate: int = 12):
    """(a clip with one second of sound, 16000 samples, as a VIDEO of a file; the sound)"""
    from storyreel.core.video import files
    from storyreel.core.video.sound import Sound
    from storyreel.host.video.file import ExactVideo

    samples = torch.rand(2, 16000, generator=torch.Generator().manual_seed(2)) * 2 - 1
    files.write_frames(path, files.to_bytes(noise_images(frames)), rate, Sound(samples.numpy(), 16000))
    return ExactVideo(str(path)), samples


def test_a_video_in_and_out(world, tmp_path):
    """Streamed: the clip's frame rate, frames and sound stay as they are."""
    from comfy_api.latest import io

    video, samples = clip_with_sound(tmp_path / "clip.avi")
    given = [video]

    class Given(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Given", inputs=[], outputs=[io.Video.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput(given[0])

    prompt = extending.extend(frames=["given", 0], output_images=True) | {"given": extending.node("Given")}
    with world.node(Given):
        run = world.run(prompt)
        whole, frames = run.values["extend"]
        given[0] = video.as_trimmed(2 / 12, 3 / 12)
        trimmed = world.run(prompt).values["extend"][0].get_components()
    parts = whole.get_components()
    assert parts.frame_rate == whole.get_frame_rate() == 12
    assert len(frames) == whole.get_frame_count() == 6 + 5 * 3 and torch.equal(parts.images, frames)
    assert torch.equal(frames[:6], (noise_images(6) * 255).round() / 255)
    assert parts.audio["sample_rate"] == 16000 and torch.equal(parts.audio["waveform"][0], samples[:, :8000])
    assert torch.equal(trimmed.images[:3], frames[2:5]) and len(trimmed.images) == 3 + 5 * 3
    begin = 16000 * 2 // 12
    heard = trimmed.audio["waveform"][0]
    assert heard.shape[1] == 4000 and (heard - samples[:, begin : begin + 4000]).abs().max() == 0
    (saved,) = run.outputs["save"]["images"]
    with av.open(str(world.base / "output" / saved["filename"])) as container:
        assert len(list(container.decode(video=0))) == 21 and container.streams.audio[0].codec.name == "aac"


def test_a_video_in_memory_keeps_its_sound(host):
    from comfy_api.latest import InputImpl, Types
    from storyreel.host.video import file

    audio = {"waveform": torch.rand(1, 1, 4000), "sample_rate": 8000}
    parts = Types.VideoComponents(images=noise_images(5), audio=audio, frame_rate=Fraction(25, 2))
    clip = file.open_video(InputImpl.VideoFromComponents(parts), 8.0)
    assert clip.rate == Fraction(25, 2) and clip.sound.rate == 8000
    assert torch.equal(torch.from_numpy(clip.sound.samples), audio["waveform"][0])
    assert torch.equal(torch.stack([file.to_tensor(frame) for frame in clip.frames()]), noise_images(5))


def test_frames_are_read_into_memory_on_request(world):
    """Otherwise a node behind the IMAGE output fails with an error."""
    prompt = extending.extend(chunks=1) | {"preview": extending.node("PreviewImage", images=["extend", 1])}
    run = world.run(prompt)
    (message,) = [data["exception_message"] for name, data in run.events if name == "execution_error"]
    assert "output_images is off. Switch it on to read the frames into memory, or use the VIDEO output." in message
    assert "preview" not in run.outputs and run.outputs["save"]
    prompt["extend"]["inputs"]["output_images"] = True
    run = world.run(prompt)
    assert len(run.outputs["preview"]["images"]) == 6 == len(run.values["extend"][1])


def names_of(world, scenes=extending.SCENES, **changed) -> tuple[str, list[str]]:
    """(the run's folder, the chunks' files) of a prompt, as written to disk."""
    before = set((world.base / "output" / "story" / "long").glob("*/*"))
    world.run(extending.extend(scenes, **changed))
    files = {path for path in (world.base / "output" / "story" / "long").glob("*/chunk_*.avi")} - before
    return sorted(str(path.relative_to(world.base / "output")) for path in files)


def test_only_changed_chunks_are_regenerated(world):
    """Prompt 4 of 5 regenerates chunks 4 and 5. More chunks add only these. A setting of all chunks regenerates all, in
    another folder. A setting of none regenerates none."""
    settings = dict(seed=77)
    assert [path[-21:-17] for path in names_of(world, **settings)] == ["0001", "0002", "0003", "0004", "0005"]
    assert names_of(world, **settings) == []
    scenes = list(extending.SCENES)
    scenes[3] = "sitting on a beach"
    assert [path[-21:-17] for path in names_of(world, scenes, **settings)] == ["0004", "0005"]
    assert [path[-21:-17] for path in names_of(world, chunks=7, **settings)] == ["0006", "0007"]
    assert names_of(world, chunks=2, fps=12.0, images=True, **settings) == []
    for changed in (dict(seed=78), dict(cam_strength=0.5), dict(colors=(0x3070C0, 0x4080D0, 0x5090E1))):
        assert len(names_of(world, chunks=1, **settings | changed)) == 1, changed
