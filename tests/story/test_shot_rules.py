"""Animate Story on the host's video models: what it refuses and says, lengths of shots, and how a run resumes."""

import shutil

import pytest
from harness import video_models
from harness.shots import STEPS, Stage, kept_shots
from storyreel.core.video.files import read_frames


def messages(run) -> list[str]:
    return run.outputs["shots"]["text"]


def test_what_is_changed_or_without_effect_is_said_once(host, output):
    stage = Stage(host, "wan22_i2v")
    changed = dict(frames=12, clip_vision=stage.link("CLIP_VISION"), fs=8, switch_step=3)
    stage.parts["CLIP_VISION"] = video_models.vit_h()
    assert messages(stage.run(stage.prompt(**changed))) == [
        "clip_vision, fs and switch_step have no effect on Wan image-to-video.",
        "frames asks for shots of 12 frames; Wan image-to-video makes 4k + 1: 13.",
    ]
    assert "text" not in stage.run(stage.prompt(frames=13)).outputs.get("shots", {})
    assert len(kept_shots(output)) == 3, "12 frames are the same run as 13"


def test_ltx_2_without_a_vae_of_sound_says_that_it_is_silent(host, output):
    stage = Stage(host, "ltx2", shots=1)
    changed = dict(frames=12, reference_image=stage.link("images"))
    assert messages(stage.run(stage.prompt(**changed))) == [
        "reference_image has no effect on LTX-2.",
        "frames asks for shots of 12 frames; LTX-2 makes 8k + 1: 9.",
        "audio_vae is empty, so LTX-2 makes no sound.",
    ]


@pytest.mark.parametrize(
    ("name", "frames"), [("wan22_5b", {3: 5, 5: 5, 7: 9, 16: 17, 80: 81}), ("ltx2", {3: 9, 16: 17})]
)
def test_frames_are_rounded_to_the_nearest_that_the_model_makes(host, name, frames):
    from storyreel.host.story.shot_models import shot_model_of

    rules = shot_model_of(video_models.build(name))
    assert {wanted: rules.frames(wanted) for wanted in frames} == frames


def test_a_wan_that_was_not_trained_on_last_frames_says_so(host, output):
    stage = Stage(host, "wan21_i2v", shots=1)
    (message,) = messages(stage.run(stage.prompt(mode="interpolate")))
    assert "was not trained to end at an image" in message


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("wan21_t2v", {}, "MODEL is Wan text-to-video, which cannot animate an image. Use one of DynamiCrafter, Wan"),
        ("wan21_i2v", dict(clip_vision=None), "clip_vision is empty, and Wan 2.1 image-to-video reads it"),
        (
            "wan22_i2v",
            dict(width=72),
            "72 x 64 pixels. Width and height must be multiples of 16 for Wan",
        ),
        ("wan22_i2v", dict(vae="none"), "vae is empty; Wan image-to-video needs wan_2.1_vae.safetensors"),
        ("wan22_i2v", dict(vae="other"), "vae makes latents of 48 channels, and Wan image-to-video reads 16"),
        ("wan22_5b", dict(mode="interpolate"), "Wan 2.2 5B cannot end at an image, so it does not support interpolate"),
        (
            "hunyuan15",
            dict(mode="interpolate"),
            "Choose animate, or use Wan image-to-video, Wan VACE, LTX-Video",
        ),
        ("ltxv", dict(width=80), "80 x 64 pixels. Width and height must be multiples of 32 for LTX-Video"),
        ("ltx2", dict(seconds="5 many"), "seconds holds 'many'; numbers above 0 are expected, for instance 5 3.5 4"),
        (
            "ltx2",
            dict(seconds="600"),
            "seconds asks for a shot of 9600 frames at 16 a second; at most 4096 are possible",
        ),
        ("wan22_i2v", dict(low="low", switch_step=STEPS), f"switch_step is {STEPS}, and sigmas has {STEPS} steps"),
        ("wan22_i2v", dict(low="other"), "low_noise_model: MODEL is Wan text-to-video, which cannot animate"),
    ],
)
def test_what_makes_no_shot_is_refused_before_sampling(host, output, name, changed, message):
    stage = Stage(host, name, shots=1)
    changed = dict(changed)
    if other := changed.pop("vae", None):
        stage.parts["VAE"] = None if other == "none" else video_models.tiny_tae(48)
    if low := changed.pop("low", None):
        changed["low_noise_model"] = stage.link("low")
        if low == "other":
            stage.parts["low"] = video_models.build("wan21_t2v")
    prompt = stage.prompt(**changed)
    if changed.get("clip_vision", "") is None:
        del prompt["shots"]["inputs"]["clip_vision"]
    with pytest.raises(RuntimeError, match="Animate Story: ") as refused:
        stage.run(prompt)
    assert message in str(refused.value) and not kept_shots(output)


def test_inputs_that_count_as_unset_are_those_of_the_node(host):
    from storyreel.nodes.shot_models import UNREAD

    declared = {entry.id: entry for entry in host.nodes["StoryReelAnimateStory"].define_schema().inputs}
    assert {name: getattr(declared[name], "default", None) for name in UNREAD} == UNREAD


FAMILIES_THAT_RESUME = pytest.mark.parametrize(
    ("name", "more"),
    [("wan22_i2v", dict(mode="interpolate", low_noise_model="low")), ("ltx2", dict(mode="animate", audio_vae="audio"))],
)


class Sampled:
    """Counts the shots whose sampler came to its end."""

    def __init__(self, events: list):
        self.count = len([None for kind, data in events if kind == "progress" and data["value"] == data["max"]])


@FAMILIES_THAT_RESUME
def test_interrupted_in_the_third_shot_it_resumes_there(host, output, monkeypatch, name, more):
    """What is finished is not sampled again, and the video is that of an unbroken run. A prompt that changes for shot 3
    of 5 makes that one again and no other."""
    import nodes

    stage = Stage(host, name, shots=4 if more["mode"] == "animate" else 5)
    more = {key: stage.link(value) if key != "mode" else value for key, value in more.items()}
    parts = 2 if "low_noise_model" in more else 1  # samplers a shot

    class Interrupting(list):
        def append(self, event):
            super().append(event)
            if event[0] == "progress" and len(kept_shots(output)) == 2:
                nodes.interrupt_processing()

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(host, "events", Interrupting())
        stage.run(stage.prompt(**more))
    first = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept_shots(output)}
    assert len(first) == 2

    resumed = stage.run(stage.prompt(**more))
    assert len(kept_shots(output)) == 5 and Sampled(resumed.events).count == 3 * parts
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first} == first
    (video,) = output.glob("story/shots/*/all_*.avi")
    broken = {path.name: path.read_bytes() for path in [*kept_shots(output), video]}
    shutil.rmtree(output / "story")
    stage.run(stage.prompt(**more))
    (video,) = output.glob("story/shots/*/all_*.avi")
    assert {path.name: path.read_bytes() for path in [*kept_shots(output), video]} == broken

    text = stage.parts["positive"][0][0].clone()
    text[2] += 1
    stage.parts["positive"] = [[text, stage.parts["positive"][0][1]]]
    changed = stage.run(stage.prompt(**more))
    new = [path for path in kept_shots(output) if path.name not in broken]
    assert [path.name[:8] for path in new] == ["shot_003"] and Sampled(changed.events).count == parts


def test_each_shot_has_a_length_in_seconds(host, output):
    """Rounded to what the model makes; the last one stays; another length makes its own shot again."""
    stage = Stage(host, "wan22_i2v", shots=3)
    run = stage.run(stage.prompt(mode="interpolate", seconds="0.5, 0.3"))
    assert messages(run) == ["seconds asks for shots of 8, 5 frames; Wan image-to-video makes 4k + 1: 9, 5."]
    before = kept_shots(output)
    assert [len(list(read_frames(path))) for path in before] == [9, 5, 5]
    stage.run(stage.prompt(mode="interpolate", seconds="0.5 0.3 0.9", frames=81))
    new = sorted(set(kept_shots(output)) - set(before))
    assert [(path.name[:8], len(list(read_frames(path)))) for path in new] == [("shot_003", 13)]
