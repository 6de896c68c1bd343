"""What the shipped files of semantic motion are worth, on the real host: between two pictures of the toy world the
predictor beats interpolation, and the frames go where their tokens say."""

import hashlib
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "storyworld"
FILES = {
    "ip_adapter": WEIGHTS / "ipadapter" / "storyworld_ip_adapter.safetensors",
    "domain_adapter": WEIGHTS / "loras" / "storyworld_domain_adapter.safetensors",
    "motion_module": WEIGHTS / "animatediff_models" / "storyworld_motion_module.safetensors",
    "predictor": WEIGHTS / "semantic_motion" / "storyworld_predictor.safetensors",
}
VIDEO = WEIGHTS / "storyworld_video.safetensors"


@pytest.fixture(scope="module")
def pipeline(host, lab):
    return lab.evaluate.motion.Motion(steps=8)


def test_their_cards_tell_of_the_very_files():
    for file in FILES.values():
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card and "license" in card
    sizes = {part: file.stat().st_size for part, file in FILES.items()}
    assert sizes.pop("domain_adapter") <= 1e6 and sum(sizes.values()) <= 8e6


def test_the_predictor_beat_interpolation_and_says_so():
    from safetensors import safe_open
    from storyreel.core.networks.semantic_motion.config import read_training

    with safe_open(FILES["predictor"], "pt") as file:
        training = read_training(file.metadata())
    assert training["beats_interpolation"] and training["figures"]["gain_low"] > 0, training


def test_it_beats_interpolation_on_other_clips(pipeline, lab):
    row = pipeline.measure(lab.evaluate.motion.TOKENS[0], 60, seed=50)
    assert row["gain_low"] > 0 and row["cosine"] > row["cosine_interpolation"], row


def test_frames_go_where_their_tokens_say(pipeline, lab):
    """Where a hero crosses the picture in an arc, true tokens lead it nearer to its path than a line between the ends
    does, in a clip that nothing saw."""
    measure = lab.evaluate.motion
    tasks = (measure.make_task(50, index) for index in itertools.count())
    arcs = (task for task in tasks if task.clip.figures[0].action.startswith("leaping"))
    task, paths = next(arcs), {}
    for name in ("true", "interpolated"):
        judged = pipeline.compare(task, pipeline.make(measure.MotionSetting(name=name, tokens=name), task))
        assert judged["seen"] >= 0.9
        paths[name] = judged["path"]
    assert paths["true"] < 0.7 * paths["interpolated"], paths


def test_documents_show_the_rows_that_were_measured(lab):
    """All rows of these very weights, in docs/benchmarks.md."""
    weights = hashlib.sha256(b"".join(file.read_bytes() for file in (VIDEO, *FILES.values()))).hexdigest()[:16]
    rows, pipeline = lab.report.rows.Rows(WEIGHTS / "measured_motion.jsonl"), lab.evaluate.motion.Motion
    assert rows.missing(pipeline.settings, 0, weights) == []
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name, lines in pipeline.tables(rows, weights).items():
        assert "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"]) in page


def test_a_users_graph_follows_the_toys_motion(host):
    """From files that the lists of this pack's nodes name."""
    names = {part: file.name for part, file in FILES.items()}
    adapter, empty = names["ip_adapter"], dict(width=128, height=128, batch_size=1)
    line = dict(frames=4, easing="linear", hold_start=0, hold_end=0, strength=1.0)
    decoder = {"motion_module": names["motion_module"], "ip_adapter": adapter, "strength": 1.0}
    decoder["noise_schedule"] = "the model's"
    sampler = dict(steps=2, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0, seed=1)
    graph = {
        "toy": ("StoryReelLoadStoryworld", dict(precision="auto")),
        "adapted": ("StoryReelLoadStoryworld", dict(precision="auto", domain_adapter=True)),
        "predictor": (
            "StoryReelMotionPredictorLoader",
            {"predictor": names["predictor"], "token_space": "IP-Adapter", "token_space.ip_adapter": adapter},
        ),
        "start": ("EmptyImage", dict(color=0x80C0FF, **empty)),
        "end": ("EmptyImage", dict(color=0x40A040, **empty)),
        "motion": (
            "StoryReelPredictMotion",
            dict(
                predictor=["predictor", 0],
                clip_vision=["toy", 3],
                start_image=["start", 0],
                end_image=["end", 0],
                **line,
            ),
        ),
        "apply": (
            "StoryReelApplyMotion",
            {"model": ["adapted", 0], "motion": ["motion", 0], "decoder": "IP-Adapter"}
            | {f"decoder.{name}": value for name, value in decoder.items()},
        ),
        "prompt": ("CLIPTextEncode", dict(clip=["toy", 1], text="a hero in a meadow")),
        "latent": ("EmptyLatentImage", dict(width=128, height=128, batch_size=4)),
        "sampled": (
            "KSampler",
            dict(model=["apply", 0], positive=["prompt", 0], negative=["prompt", 0], latent_image=["latent", 0])
            | sampler,
        ),
        "frames": ("VAEDecode", dict(samples=["sampled", 0], vae=["toy", 2])),
        "shown": ("PreviewImage", dict(images=["frames", 0])),
    }
    run = host.run({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in graph.items()})
    (text,) = run.outputs["predictor"]["text"]
    assert names["predictor"] in text and "untrained" not in text
    (frames,) = run.values["frames"]
    assert frames.shape == (4, 128, 128, 3) and frames.isfinite().all() and frames.std() > 0.05


def test_the_domain_adapter_is_the_shipped_lora(host):
    """As the host's own LoRA loader puts it on."""
    import comfy.sd
    import comfy.utils

    load = host.nodes["StoryReelLoadStoryworld"].execute
    plain, adapted = (load(precision="auto", domain_adapter=on).result[0] for on in (False, True))
    lora = comfy.utils.load_torch_file(str(FILES["domain_adapter"]), safe_load=True)
    expected = comfy.sd.load_lora_for_models(plain, None, lora, 1.0, 0.0)[0]
    assert not plain.patches and adapted.patches.keys() == expected.patches.keys()
    for name, [change] in expected.patches.items():
        pairs = zip(adapted.patches[name][0][1].weights, change[1].weights, strict=True)
        assert all(mine is None if theirs is None else (mine == theirs).all() for mine, theirs in pairs), name
