"""A VIDEO whose saved file has a track of subtitles; to every other node it is the video that it was."""

import io
import os
import re
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import av
import folder_paths
from comfy_api.latest import Input, Types

from ...core.story.story import Story
from ...core.video import subtitles
from ...core.video.subtitles import Cue

PYAV = 16, 1  # the first to write a track of subtitles
CONTAINERS = {"mp4": "mp4", "mkv": "matroska", "webm": "webm"}  # PyAV's name by the host's; old hosts know MP4 alone


@dataclass(frozen=True)
class SubtitledVideo(Input.Video):
    """video: what is seen and heard. cues: the track."""

    video: Input.Video
    cues: tuple[Cue, ...]

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, **kwargs):
        """As the video itself is saved, MP4 where nothing else is asked for, and then copied with the track.

        Raises ValueError for a container that holds no track of subtitles.
        """
        if format == Types.VideoContainer.AUTO:
            format = Types.VideoContainer.MP4
        if (container := CONTAINERS.get(str(Types.VideoContainer(format).value))) is None:
            raise ValueError(f"format is {format}, which holds no subtitles; {', '.join(CONTAINERS)} is expected.")
        if isinstance(path, io.BytesIO):
            plain = io.BytesIO()
            self.video.save_to(plain, format, codec, **kwargs)
            plain.seek(0)
            return subtitles.add_track(plain, path, self.cues, container)
        temporary = folder_paths.get_temp_directory()
        os.makedirs(temporary, exist_ok=True)
        with TemporaryDirectory(dir=temporary) as folder:
            plain = os.path.join(folder, f"plain.{Types.VideoContainer.get_extension(format)}")
            self.video.save_to(plain, format, codec, **kwargs)
            subtitles.add_track(plain, str(path), self.cues, container)

    def as_trimmed(self, start_time=0.0, duration=0.0, strict_duration=True):
        trimmed = self.video.as_trimmed(start_time, duration, strict_duration)
        if trimmed is None:
            return None
        length, whole = trimmed.get_duration(), self.get_duration()
        start_time = start_time or 0.0
        first = start_time if start_time >= 0 else max(0.0, whole + start_time)
        return SubtitledVideo(trimmed, subtitles.part_of(self.cues, first, first + length))

    # Everything else is the video's own, which is asked without reading it as a whole.

    def get_components(self):
        return self.video.get_components()

    def get_stream_source(self):
        return self.video.get_stream_source()

    def get_active_trim_window(self):
        return self.video.get_active_trim_window()

    def get_dimensions(self):
        return self.video.get_dimensions()

    def get_bit_depth(self):
        return self.video.get_bit_depth()

    def get_duration(self):
        return self.video.get_duration()

    def get_frame_count(self):
        return self.video.get_frame_count()

    def get_frame_rate(self):
        return self.video.get_frame_rate()


def without_subtitles(video: Input.Video) -> Input.Video:
    """The video itself, for what looks at its kind."""
    return without_subtitles(video.video) if isinstance(video, SubtitledVideo) else video


def subtitle(video: Input.Video, story: Story, shots: Input.Video | None = None) -> tuple[SubtitledVideo, str]:
    """(the video with the story's captions, these as a SubRip file)

    shots: what the captions are shared out over, where the video goes on behind it. Raises ValueError as
    `check_subtitles`.
    """
    check_subtitles(story)
    end = video.get_duration()
    cues = subtitles.spread(story.captions, end if shots is None else shots.get_duration(), end)
    return SubtitledVideo(video, cues), subtitles.to_srt(cues)


def check_subtitles(story: Story) -> None:
    """Raise ValueError for a story without captions, and for a PyAV that cannot write the track."""
    if tuple(map(int, re.findall(r"\d+", av.__version__)[:2])) < PYAV:  # 16.1rc1, too, is 16, 1
        raise ValueError(
            f"PyAV {av.__version__} cannot write subtitles; {'.'.join(map(str, PYAV))} or newer is expected: "
            "pip install -U av, with ComfyUI's Python, or bypass this node (Ctrl+B)."
        )
    if not any(story.captions):
        raise ValueError(
            "the STORY has no captions. Write them in Captions, or after a # in the scenes of Story Script."
        )
