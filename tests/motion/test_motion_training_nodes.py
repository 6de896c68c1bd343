"""The training node in the host: videos in a folder become a predictor with its validation result."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from harness import dynamicrafter
from harness import motion as tiny
from harness.clips import write_turned
from harness.motion import swing, write_video
from safetensors.torch import load_file, safe_open
from storyreel.core.networks.semantic_motion.config import METADATA, TRAINING, PredictorConfig
from storyreel.core.training import TrainConfig

FRAMES, CLIPS, HELD_OUT = 6, 16, 5
ADAPTER = "training_plus.safetensors"
CONFIG = PredictorConfig(tokens=tiny.TOKENS, token_width=tiny.CONTEXT, width=64, depth=1, heads=1, frames=FRAMES)
PLAN = TrainConfig(steps=200, batch_size=8, learning_rate=1e-3, ema=0.98, warmup=10)


@pytest.fixture(scope="module")
def clips(host):
    folder = host.base / "input" / "swings"
    for number in range(CLIPS):
        write_video(folder / f"{number:02}.gif", swing(number, FRAMES))
    write_video(folder / "longer" / "twice.gif", swing(0, FRAMES) + swing(1, FRAMES))
    (folder / "notes.txt").write_text("no clip")
    tiny.write_adapter(host.base / "models" / "ipadapter" / ADAPTER)
    return folder


@pytest.fixture(scope="module")
def encoder(clips):
    from storyreel.host.motion.ip_adapter import load_token_encoder

    return load_token_encoder(ADAPTER)


@pytest.fixture
def learn(encoder, clip_vision, clips, tmp_path):
    """learn(...) -> the trained predictor, in its own folder except for the clips' tokens."""
    from storyreel.host.motion.clips import clips_in
    from storyreel.host.motion.job import DataConfig, TokenSpec, TrainingJob
    from storyreel.host.motion.training import run

    def learn(target="a.safetensors", work="work", folder=clips, plan=PLAN, data=None, config=CONFIG, report=None):
        job = TrainingJob(config, plan, data or DataConfig(frames=FRAMES, validation_split=0.3))
        files = clips_in(folder), tmp_path / target, tmp_path / work
        return run(job, TokenSpec(encoder, clip_vision), *files, report or (lambda *_: None))

    return learn


def metadata_of(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[TRAINING])


def test_a_predictor_is_saved_with_its_validation_result(learn, encoder, clip_vision, host):
    from storyreel.core.motion.training_plot import draw
    from storyreel.host.motion import predict

    name = "swings.safetensors"
    trained = learn(target=host.base / "models" / predict.FOLDER / name)
    result, metadata = trained.result, metadata_of(trained.path)
    assert result.beats_interpolation and result.clips == HELD_OUT and result.gain > 0.2, result
    assert metadata["verdict"] == result.summary and metadata["beats_interpolation"] and metadata["clips"] == CLIPS + 1
    assert metadata["tokens_of"] == ADAPTER and metadata["figures"]["mse"] == result.mse
    assert metadata["train"]["steps"] == PLAN.steps
    loaded = predict.load_predictor(name, encoder)
    assert loaded.network.model.config == CONFIG and loaded.description == f"predicted by {name}"
    other = predict.load_predictor(name, replace(encoder, name="face.safetensors")).description
    assert other == f"predicted by {name}, which was trained on tokens of {ADAPTER}; these are of face.safetensors"
    plot = draw(trained.log, result.mse_interpolation, result.summary)
    assert plot.shape[0] == 1 and plot.std() > 0.01


def test_a_predictor_without_gain_is_saved_and_reported(learn, encoder, host):
    from storyreel.host.motion import predict

    name = "rash.safetensors"
    trained = learn(
        target=host.base / "models" / predict.FOLDER / name, plan=replace(PLAN, steps=3, learning_rate=0.5, warmup=1)
    )
    metadata = metadata_of(trained.path)
    assert not trained.result.beats_interpolation and not metadata["beats_interpolation"]
    assert f"does NOT beat interpolation on {HELD_OUT} held-out clips" in metadata["verdict"]
    description = predict.load_predictor(name, encoder).description
    assert description == "predicted by rash.safetensors, which is not known to beat interpolation"


def test_an_interrupted_training_resumes_with_the_same_result(learn, tmp_path):
    """During the tokens and during the steps."""
    plan = replace(PLAN, steps=30)
    whole = learn("whole.safetensors", "whole", plan=plan)
    for stop in (("clip", 4), ("step", 0), ("step", 17)):
        reported = []

        def report(kind, done, total, stop=stop, reported=reported):
            reported.append((kind, done))
            if (kind, done) == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            learn("broken.safetensors", "broken", plan=plan, report=report)
        assert not (tmp_path / "broken.safetensors").exists()
    assert len(list((tmp_path / "broken" / "tokens").iterdir())) == CLIPS + 1
    reported = []
    again = learn("broken.safetensors", "broken", plan=plan, report=lambda *progress: reported.append(progress[:2]))
    assert [done for kind, done in reported if kind == "step"] == list(range(17, 31))
    assert again.log == whole.log and again.result == whole.result
    one, other = load_file(whole.path), load_file(again.path)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert list((tmp_path / "broken").rglob("state*")) == []


def test_a_finished_training_is_neither_repeated_nor_overwritten(learn):
    plan = replace(PLAN, steps=2)
    first = learn(plan=plan)
    stamp, reported = first.path.stat().st_mtime_ns, []
    again = learn(plan=plan, report=lambda *progress: reported.append(progress))
    assert again.result == first.result and again.log == first.log and reported == []
    with pytest.raises(ValueError, match="a.safetensors exists and is of another training; choose another name"):
        learn(plan=replace(plan, seed=1))
    assert first.path.stat().st_mtime_ns == stamp


def test_tokens_are_those_of_the_frames(learn, encoder, clip_vision, clips, tmp_path):
    """One file for each clip, stride and encoder; a changed clip is encoded again."""
    from storyreel.core.video import files
    from storyreel.host.motion.clips import token_paths
    from storyreel.host.motion.job import DataConfig, TokenSpec

    learn(plan=replace(PLAN, steps=1), data=DataConfig(frames=3, stride=2), config=replace(CONFIG, frames=3))
    clip = clips / "00.gif"
    (path,) = token_paths(TokenSpec(encoder, clip_vision), [clip], 2, tmp_path / "work" / "tokens")
    tokens = load_file(path)["tokens"]
    images = files.to_images(list(files.read_frames(clip))[::2])
    torch.testing.assert_close(tokens.float(), encoder.encode(clip_vision, images, 1), rtol=2e-3, atol=2e-3)
    assert tokens.shape == (FRAMES // 2, *encoder.shape)
    assert token_paths(TokenSpec(encoder, clip_vision), [clip], 3, path.parent) != [path]
    write_video(clip, swing(0, FRAMES))
    assert token_paths(TokenSpec(encoder, clip_vision), [clip], 2, path.parent) != [path]


def test_tokens_of_dynamicrafter(clip_vision, host, tmp_path):
    """They differ for each of 16 frames: every image is stored in all of its slots."""
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.motion import predict
    from storyreel.host.motion.clips import clips_in
    from storyreel.host.motion.job import DataConfig, TokenSpec, TrainingJob
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder
    from storyreel.host.motion.training import run

    dynamicrafter.write(host.base / "models" / "checkpoints" / "dynamicrafter_512_interp_trained.safetensors")
    model = loader.load("dynamicrafter_512_interp_trained.safetensors", precision=torch.float32).model
    encoder = DynamiCrafterTokenEncoder(model)
    for number in range(2):
        write_video(tmp_path / "clips" / f"{number}.gif", swing(number, 4))
    config = PredictorConfig("dynamicrafter", *encoder.shape, width=32, depth=1, heads=1, frames=4)
    target, work = host.base / "models" / predict.FOLDER / "crafted.safetensors", tmp_path / "work"
    job = TrainingJob(config, replace(PLAN, steps=2), DataConfig(frames=4))
    tokens = TokenSpec(encoder, clip_vision)
    trained = run(job, tokens, clips_in(tmp_path / "clips"), target, work, lambda *_: None)
    assert trained.result.clips == 1 and trained.result.mse_interpolation > 0
    for path in (work / "tokens").iterdir():
        assert load_file(path)["tokens"].shape == (4, 16, *encoder.shape)
    assert predict.load_predictor("crafted.safetensors", encoder).network is not None


# Refusals


def test_files_that_are_no_clips_are_refused_by_name(learn, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    with pytest.raises(ValueError, match="the folder has no clips; video files are expected"):
        learn(folder=folder)
    write_video(folder / "short.gif", swing(0, 2))
    with pytest.raises(ValueError, match="the folder holds 1 file, and none can be used for training: short.gif is"):
        learn(folder=folder)
    write_video(folder / "one.gif", swing(0, FRAMES))
    with pytest.raises(ValueError, match="There is 1 clip; at least 2 are expected"):
        learn(folder=folder)
    with pytest.raises(ValueError, match="windows have 9 frames, and the predictor's position table has 6 rows"):
        from storyreel.host.motion.job import DataConfig

        learn(data=DataConfig(frames=9))


def write_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_unusable_files_are_skipped_with_one_warning_each(learn, tmp_path, caplog):
    """The other clips are used, and the run's key is the same with and without the unusable files."""
    plan, folder = replace(PLAN, steps=2), tmp_path / "clips"
    for number in range(3):
        write_video(folder / f"{number}.gif", swing(number, FRAMES))
    alone = learn("alone.safetensors", folder=folder, plan=plan)

    (folder / "folder.mp4").mkdir()
    write_video(folder / "folder.mp4" / "inside.gif", swing(0, 2)[:1])
    (folder / "._2.gif").write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    (folder / "empty.mkv").write_bytes(b"")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "garbage.avi").write_bytes(bytes(range(256)) * 20)
    write_sound(folder / "sound.mp4")
    write_turned(folder / "still.mp4", 0, frames=1)
    lines = {
        "._2.gif": "cannot be read as a video",
        "empty.mkv": "cannot be read as a video",
        "folder.mp4": "is a folder",
        "garbage.avi": "cannot be read as a video",
        "gone.mp4": "cannot be read as a video",
        "inside.gif": "has 1 frame at a stride of 1; at least 3 are expected",
        "sound.mp4": "has no frames",
        "still.mp4": "has 1 frame at a stride of 1; at least 3 are expected",
    }
    learned = learn("learned.safetensors", folder=folder, plan=plan)
    warnings = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(warnings) == len(lines)
    for name, reason in lines.items():
        named = [line for line in warnings if f"{name} is skipped" in line and reason in line]
        assert len(named) == 1, (name, warnings)
    metadata = metadata_of(learned.path)
    assert metadata["run"] == metadata_of(alone.path)["run"] and metadata["clips"] == 3

    for number in range(3):
        (folder / f"{number}.gif").unlink()
    with pytest.raises(ValueError, match="the folder holds 8 files, and none can be used for training: "):
        learn("none.safetensors", folder=folder, plan=plan)


def test_a_broken_clip_is_used_up_to_its_break(learn, encoder, clip_vision, tmp_path, caplog):
    """As in the host's Load Video: its tokens are those of the frames before."""
    from storyreel.core.video import files
    from storyreel.host.motion.clips import token_paths
    from storyreel.host.motion.job import TokenSpec

    folder, rng = tmp_path / "clips", np.random.default_rng(0)
    write_video(folder / "whole.gif", swing(0, FRAMES))
    frames = rng.integers(0, 255, (8, 48, 64, 3), np.uint8)
    files.write_frames(folder / "broken.avi", frames, Fraction(8))
    whole = (folder / "broken.avi").read_bytes()
    (folder / "broken.avi").write_bytes(whole[: len(whole) * 3 // 5])
    learn(folder=folder, plan=replace(PLAN, steps=1))
    (path,) = token_paths(TokenSpec(encoder, clip_vision), [folder / "broken.avi"], 1, tmp_path / "work" / "tokens")
    count = len(load_file(path)["tokens"])
    assert 3 <= count < 8
    expected = encoder.encode(clip_vision, files.to_images(frames[:count]), 1)
    torch.testing.assert_close(load_file(path)["tokens"].float(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_clip_is_used_upright(encoder, clip_vision, tmp_path, degrees):
    from storyreel.core.video import files
    from storyreel.host.motion.clips import make_tokens, token_paths
    from storyreel.host.motion.job import TokenSpec

    clips = [write_turned(tmp_path / "phone.mp4", degrees)]
    paths = token_paths(TokenSpec(encoder, clip_vision), clips, 1, tmp_path / "tokens")
    make_tokens(TokenSpec(encoder, clip_vision), clips, 1, paths, lambda *_: None)
    coded = files.to_images(files.read_frames(write_turned(tmp_path / "coded.mp4", 0)))
    upright = encoder.encode(clip_vision, coded.rot90(-degrees // 90, (1, 2)), 1)
    torch.testing.assert_close(load_file(paths[0])["tokens"].float(), upright, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["..", "../elsewhere", "/etc", "not there"])
def test_clips_lie_in_the_input_folder(host, name):
    from storyreel.host.motion.training import input_folder

    with pytest.raises(ValueError, match="there is no folder .* in ComfyUI's input folder|clips is .* expected"):
        input_folder(name)


def test_predictors_lie_in_their_folder(host):
    from storyreel.host.motion.training import output_file

    folder = host.base / "models" / "semantic_motion"
    assert output_file("mine") == output_file(" mine.safetensors") == folder / "mine.safetensors"
    assert output_file("people/walking") == folder / "people" / "walking.safetensors"
    for name in ("", "  ", "../mine", "/mine", ".safetensors"):
        with pytest.raises(ValueError, match="name is .*; a name .*is expected"):
            output_file(name)


def test_links_in_the_hosts_folders_are_the_users_own(host, tmp_path, monkeypatch):
    import folder_paths
    from storyreel.host.motion.training import input_folder, output_file

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    assert input_folder("models") == tmp_path / "models"
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "semantic_motion", ([], set()))
    assert output_file("mine") == tmp_path / "models" / "semantic_motion" / "mine.safetensors"


# The node


def graph(name: str, **changed) -> dict:
    training = dict(
        clips="swings", name=name, frames=FRAMES, stride=1, conditioning_mode="start and end", steps=4, batch_size=4
    )
    training |= (
        dict(learning_rate=1e-3, seed=0, validation_split=0.3, width=64, depth=1, cosine_loss_weight=1.0) | changed
    )
    nodes = {
        "world": ("StoryReelLoadStoryworld", dict(precision="auto")),
        "load": (
            "StoryReelMotionPredictorLoader",
            {"predictor": "none", "token_space": "IP-Adapter", "token_space.ip_adapter": ADAPTER},
        ),
        "train": ("StoryReelTrainMotionPredictor", dict(predictor=["load", 0], clip_vision=["world", 3], **training)),
        "preview": ("PreviewImage", dict(images=["train", 2])),
    }
    return {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}


def test_the_node(host, clips):
    """In the host's inference mode; its progress bars reach their ends; the loader lists the file."""
    done = host.run(graph("by_the_node"))
    predictor, report, curve = done.values["train"]
    assert predictor.description.startswith("predicted by by_the_node.safetensors") and curve.shape[-1] == 3
    assert f"interpolation on {HELD_OUT} held-out clips" in report and done.outputs["train"]["text"] == [report]
    bars = [data for kind, data in done.events if kind == "progress"]
    assert {CLIPS + 1, 4} <= {data["max"] for data in bars if data["value"] == data["max"]}
    path = host.base / "models" / "semantic_motion" / "by_the_node.safetensors"
    with safe_open(path, "pt") as file:
        assert METADATA in file.metadata()
    with pytest.raises(RuntimeError, match="is already trained; set predictor to none in Load Motion Predictor"):
        trained = graph("more")
        trained["load"]["inputs"]["predictor"] = "by_the_node.safetensors"
        host.run(trained)


def test_the_node_shows_what_it_skipped(host, clips):
    folder = host.base / "input" / "mixed"
    for number in range(2):
        write_video(folder / f"{number}.gif", swing(number, FRAMES))
    (folder / "._0.gif").write_bytes(bytes(100))
    done = host.run(graph("mixed", clips="mixed", steps=1))
    report, line = done.outputs["train"]["text"]
    assert report == done.values["train"][1] and "._0.gif is skipped: it cannot be read as a video" in line


def test_the_cancel_button(host, clips):
    """It stops between two steps; the next run resumes there."""
    prompt, events, stopped = graph("cancelled", steps=60), host.events, []

    def steps(data: dict) -> bool:
        return data.get("max") == 60

    class Cancelling(list):
        def append(self, event):
            super().append(event)
            kind, data = event
            if kind == "progress" and steps(data) and data["value"] and not stopped:
                stopped.append(data["value"])
                host.interrupt()

    host.events = Cancelling(events)
    try:
        with pytest.raises(InterruptedError):
            host.run(prompt)
        first = len(host.events)
        host.run(prompt)
        resumed = [data["value"] for kind, data in host.events[first:] if kind == "progress" and steps(data)]
    finally:
        host.events = events
    assert stopped[0] < 60 and resumed[0] == stopped[0] + 1 and resumed[-1] == 60


# Tokens of an image encoder in a local Hugging Face folder


@pytest.fixture
def encoder_folder(host):
    """dinov2_tiny in models/clip_vision, with 5 tokens of width 32, and its network."""
    from harness.huggingface import SIDE, write_folder

    folder = host.base / "models" / "clip_vision" / "dinov2_tiny"
    yield folder.name, write_folder(folder, "dinov2", {"crop_size": SIDE, "size": SIDE})
    shutil.rmtree(folder)


def folder_graph(folder: str) -> dict:
    """The graph without a CLIP_VISION."""
    nodes = graph("dino", width=64)
    nodes["load"]["inputs"] = {
        "predictor": "none", "token_space": "image encoder", "token_space.encoder_folder": folder
    }  # fmt: skip
    del nodes["train"]["inputs"]["clip_vision"]
    nodes["picture"] = {"class_type": "EmptyImage", "inputs": dict(width=64, height=48, batch_size=1, color=0xFF8000)}
    nodes["predict"] = {
        "class_type": "StoryReelPredictMotion",
        "inputs": dict(
            predictor=["train", 0], start_image=["picture", 0], end_image=["picture", 0], frames=FRAMES,
            easing="linear", hold_start=0, hold_end=0, strength=1.0,
        ),
    }  # fmt: skip
    nodes["plot"] = {"class_type": "StoryReelMotionPlot", "inputs": dict(motion=["predict", 0])}
    nodes["shown too"] = {"class_type": "PreviewImage", "inputs": dict(images=["plot", 0])}
    return nodes


def test_a_predictor_of_a_folders_tokens(host, clips, encoder_folder):
    """It is trained and used without a CLIP_VISION; ends of the motion are the network's own tokens."""
    name, network = encoder_folder
    done = host.run(folder_graph(name))
    (motion,) = done.values["predict"]
    assert motion.token_space == "dinov2" and motion.tokens.shape == (FRAMES, 5, 32)
    assert motion.description.startswith("predicted by dino.safetensors")
    (image,) = done.values["picture"]
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    with torch.no_grad():
        tokens = network(((image[:, :28, :28] - mean) / std).movedim(-1, 1)).last_hidden_state[0]
    torch.testing.assert_close(motion.tokens[0], tokens, rtol=0, atol=1e-4)
    with safe_open(host.base / "models" / "semantic_motion" / "dino.safetensors", "pt") as file:
        assert json.loads(file.metadata()[METADATA])["token_space"] == "dinov2"


def test_a_folders_tokens_fit_no_other_space(host, clips, encoder, encoder_folder, clip_vision, tiny_checkpoint):
    from storyreel.host.common import messages
    from storyreel.host.common.huggingface import load_image_encoder
    from storyreel.host.motion.apply import apply_to_sd15
    from storyreel.host.motion.predict import Predictor, predict
    from storyreel.host.motion.token_encoders import FolderTokenEncoder

    tokens = FolderTokenEncoder(load_image_encoder(encoder_folder[0]))
    image = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=f"clip_vision is empty, and {ADAPTER} reads its features; connect CLIP ViT-H"):
        predict(Predictor(encoder), None, [image, image], [0, 5], FRAMES)
    with messages.collecting("Predict Motion") as texts:
        motion = predict(Predictor(tokens), clip_vision, [image, image.flip(1)], [0, 5], FRAMES)
    assert texts == ["clip_vision has no effect, since the tokens come from the image encoder dinov2_tiny."]
    sd15 = host.load_model(tiny_checkpoint("sd15"))
    with pytest.raises(
        ValueError, match=f"{ADAPTER} is IP-Adapter-Plus, and the STORYREEL_MOTION has tokens of DINOv2"
    ):
        apply_to_sd15(sd15, motion, None, ADAPTER)
    with pytest.raises(ValueError, match="tokens of width 32, and this MODEL expects width"):
        apply_to_sd15(sd15, motion, None, None)
