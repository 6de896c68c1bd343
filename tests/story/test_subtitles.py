"""A story's captions as subtitles: their times, their line breaks, the track in the file of Save Video."""

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from storyreel.core.video import files, subtitles
from storyreel.core.video.sound import Sound
from storyreel.core.video.subtitles import Cue, spread

LONG = (
    "On the eighth day Runa went out to see where all that water goes, and she had been told by everybody, the baker "
    "and the ferryman too, that it goes nowhere at all."
)
CHINESE = "第八天，露娜出门去看那些水都流到哪里去了，面包师和摆渡人都对她说过，水哪里也不去。" * 2
SCENES = "[Runa] sits #It had rained.\n[Runa] waits #\n[Runa] looks up #« Größer ! », sagt 露娜."
CAPTIONS = "It had rained.", "«\u00a0Größer\u00a0!\u00a0», sagt 露娜."  # marks keep to their words


def test_every_caption_has_an_equal_part_of_the_shots_and_the_last_one_stays():
    cues = spread(["one", "two", "", "four"], 8.0, 11.0)
    assert cues == (Cue(0, 2, "one"), Cue(2, 4, "two"), Cue(6, 11, "four"))
    assert spread(["one", "two"], 8.0, 3.0) == (Cue(0, 3, "one"),)


@pytest.mark.parametrize("caption", [LONG, CHINESE, "Donaudampfschifffahrtsgesellschaftskapitänswitwe " * 2])
def test_a_long_caption_is_shown_two_lines_at_a_time(caption):
    cues = spread([caption], 12.0, 12.0)
    lines = [line for cue in cues for line in cue.text.split("\n")]
    assert len(cues) > 1 and all(cue.text.count("\n") < subtitles.LINES for cue in cues)
    assert all(0 < subtitles.columns(line) <= subtitles.COLUMNS for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", caption)
    assert cues[0].start == 0 and cues[-1].end == 12
    assert all(before.end == after.start for before, after in zip(cues, cues[1:], strict=False))
    speeds = [subtitles.columns(cue.text) / (cue.end - cue.start) for cue in cues]
    assert max(speeds) == pytest.approx(min(speeds))  # all of it is read at one pace


def test_no_word_stands_alone_on_the_last_line():
    (cue,) = spread(["Today it had left a boat. And in the boat, a fox."], 2, 2)
    first, last = cue.text.split("\n")
    assert abs(len(first) - len(last)) < 10


def test_the_same_as_a_file_of_subrip():
    text = subtitles.to_srt([Cue(0.0, 1.5, "one\ntwo"), Cue(3661.25, 3662, "三")])
    assert text == "1\n00:00:00,000 --> 00:00:01,500\none\ntwo\n\n2\n01:01:01,250 --> 01:01:02,000\n三\n"


def packets(file, kind: str) -> list[tuple]:
    """All there is to the packets of the only stream of a kind."""
    with av.open(file) as container:
        (stream,) = getattr(container.streams, kind)
        selected = [p for p in container.demux(stream) if p.size]
        return [(bytes(p), p.pts, p.dts, p.duration, p.time_base, p.is_keyframe) for p in selected]


def track(file) -> list[Cue]:
    """The subtitles of a file, as a player reads them; empty entries are left out."""
    samples = ((bytes(packet)[2:].decode(), float(pts * base), float(length * base))
               for packet, pts, _, length, base, _ in packets(file, "subtitles"))  # fmt: skip
    return [Cue(start, start + length, text) for text, start, length in samples if text]


@pytest.fixture(scope="module")
def saved(host):
    """A video of 2.5 seconds from Save Video with subtitles, the same without, and the SRT text.

    The story's own part of it is 1.5 seconds long.
    """
    prompt = {
        "story": ("StoryReelScript", dict(characters="[Runa] a girl", scenes=SCENES, style="(No style)", negative="")),
        "frames": ("EmptyImage", dict(width=64, height=48, batch_size=20, color=0x204060)),
        "first": ("EmptyImage", dict(width=64, height=48, batch_size=12, color=0x204060)),
        "sound": ("EmptyAudio", dict(duration=2.5, sample_rate=22050, channels=1)),
        "video": ("CreateVideo", dict(images=["frames", 0], audio=["sound", 0], fps=8.0)),
        "shots": ("CreateVideo", dict(images=["first", 0], fps=8.0)),
        "subtitled": ("StoryReelSubtitles", dict(video=["video", 0], story=["story", 0], timing=["shots", 0])),
        "with": ("SaveVideo", dict(video=["subtitled", 0], filename_prefix="with", format="auto", codec="auto")),
        "without": ("SaveVideo", dict(video=["video", 0], filename_prefix="without", format="auto", codec="auto")),
    }
    run = host.run({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in prompt.items()})

    def path(node: str) -> str:
        (file,) = run.outputs[node]["images"]
        return str(host.base / "output" / file["subfolder"] / file["filename"])

    return path("with"), path("without"), run.values["subtitled"][1]


def test_a_saved_video_has_the_captions_as_a_track(saved):
    video, plain, srt = saved
    assert track(video) == [Cue(0.0, 0.5, CAPTIONS[0]), Cue(1.0, 2.5, CAPTIONS[1])]
    assert [line for line in srt.splitlines() if "-->" in line] == [
        "00:00:00,000 --> 00:00:00,500",
        "00:00:01,000 --> 00:00:02,500",
    ]
    with av.open(video) as container:
        assert [stream.codec.name for stream in container.streams] == ["h264", "aac", "mov_text"]
        assert container.duration == 2_500_000
        metadata = container.metadata
    with av.open(plain) as container:
        assert "prompt" in metadata and metadata == container.metadata and not container.streams.subtitles


def test_image_and_sound_are_those_of_the_video_without_subtitles(saved):
    video, plain, _ = saved
    for kind in ("video", "audio"):
        assert packets(video, kind) == packets(plain, kind) != []


@pytest.fixture
def streamed(host, tmp_path):
    """A video file with sound; it must not be read as a whole."""
    from storyreel.host.video.file import ExactVideo

    class Streamed(ExactVideo):
        def get_components(self):
            raise AssertionError("the whole video was read into memory")

    frames = np.random.default_rng(1).integers(0, 256, (16, 32, 48, 3), dtype=np.uint8)
    tone = np.sin(np.arange(44_100, dtype=np.float32) / 20)[None]
    files.write_frames(tmp_path / "video.avi", frames, Fraction(8), Sound(tone, 22_050))
    return Streamed(str(tmp_path / "video.avi")), frames


def test_a_video_file_is_never_in_memory(streamed, tmp_path):
    from storyreel.host.video.file import open_video
    from storyreel.host.video.frames import frames_of
    from storyreel.host.video.subtitles import SubtitledVideo

    plain, frames = streamed
    video = SubtitledVideo(plain, (Cue(0.25, 1.75, "露娜"),))
    video.save_to(str(tmp_path / "video.mp4"))
    plain.save_to(str(tmp_path / "plain.mp4"))
    for kind in ("video", "audio"):
        assert packets(str(tmp_path / "video.mp4"), kind) == packets(str(tmp_path / "plain.mp4"), kind)
    assert track(str(tmp_path / "video.mp4")) == [Cue(0.25, 1.75, "露娜")]
    assert (video.get_dimensions(), video.get_frame_count(), video.get_frame_rate()) == ((48, 32), 16, 8)
    # frames and extensions are those of a video without subtitles
    assert np.array_equal(np.stack(list(open_video(video, 8.0).frames())), frames)
    assert len(list(frames_of(video)[1])) == 16


def test_a_part_of_a_video_keeps_its_part_of_the_subtitles(streamed):
    from storyreel.host.video.subtitles import SubtitledVideo

    video = SubtitledVideo(streamed[0], (Cue(0, 0.5, "a"), Cue(0.5, 1.25, "b"), Cue(1.25, 2, "c")))
    buffer = io.BytesIO()
    video.as_trimmed(0.75, 1.0).save_to(buffer)
    buffer.seek(0)
    assert track(buffer) == [Cue(0, 0.5, "b"), Cue(0.5, 1, "c")]
    assert video.as_trimmed(-0.5, 0.5).cues == (Cue(0, 0.5, "c"),)
    assert video.as_trimmed(1.5, 9.0) is None


def test_a_story_without_captions_has_no_subtitles(host, streamed):
    from storyreel.core.story.script import read_script
    from storyreel.host.story.styles import load_styles
    from storyreel.host.video.subtitles import subtitle

    story, _ = read_script("[Runa] a girl", "[Runa] sits #\n[Runa] waits #", "(No style)", "", load_styles()[0])
    with pytest.raises(ValueError, match="the STORY has no captions. Write them in Captions, or after"):
        subtitle(streamed[0], story)


def test_a_pyav_that_cannot_write_the_track_is_refused_before_anything_is_saved(streamed, monkeypatch):
    from storyreel.core.story.script import read_script
    from storyreel.host.story.styles import load_styles
    from storyreel.host.video.subtitles import subtitle

    story, _ = read_script(
        "[Runa] a girl", "[Runa] sits #It rains.\n[Runa] waits #", "(No style)", "", load_styles()[0]
    )
    monkeypatch.setattr(av, "__version__", "16.0.1")
    with pytest.raises(ValueError, match="PyAV 16.0.1 cannot write subtitles; 16.1 or newer is expected: pip install"):
        subtitle(streamed[0], story)
    monkeypatch.setattr(av, "__version__", "16.1rc1")
    assert "It rains." in subtitle(streamed[0], story)[1]


@pytest.mark.parametrize(("container", "encoder"), [("matroska", "libx264"), ("webm", "libvpx-vp9")])
def test_other_containers_have_tracks_of_their_own(tmp_path, container, encoder):
    """As the newest Save Video asks for them."""
    cues = [Cue(0.0, 0.5, CAPTIONS[0]), Cue(0.75, 1.0, CAPTIONS[1])]
    plain, target = tmp_path / "plain", tmp_path / "subtitled"
    with av.open(str(plain), "w", format=container) as output:
        stream = output.add_stream(encoder, rate=8, width=64, height=48)
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    subtitles.add_track(str(plain), str(target), cues, container)
    copied, given = ([packet[:2] for packet in packets(str(file), "video")] for file in (target, plain))
    assert copied == given and len(given) == 8  # data and time of each
    found = [
        Cue(float(pts * base), float((pts + length) * base), packet.decode())
        for packet, pts, _, length, base, _ in packets(str(target), "subtitles")
    ]
    assert found == cues
    with av.open(str(target)) as video:
        assert video.streams.subtitles[0].codec_context.name == {"matroska": "srt", "webm": "webvtt"}[container]


def test_a_container_that_holds_no_subtitles_is_refused(streamed, tmp_path, monkeypatch):
    from storyreel.host.video import subtitles as host_subtitles

    monkeypatch.delitem(host_subtitles.CONTAINERS, "mp4")
    video = host_subtitles.SubtitledVideo(streamed[0], ())
    with pytest.raises(ValueError, match="which holds no subtitles; mkv, webm is expected"):
        video.save_to(str(tmp_path / "video.mp4"))
    assert not (tmp_path / "video.mp4").exists()
