"""Captions as subtitles: the time of each, its lines, and the track of a video that shows them.

Players switch the track on and off: the frames have no letters in them. In MP4 it is 3GPP timed text (ETSI TS 126 245),
of which a sample is the length of a text and the text; in Matroska SubRip, and in WebM WebVTT, both the text alone.
"""

import struct
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from ..story.lettering import clean, wrap

COLUMNS, LINES = 42, 2  # of what is seen at once; a Chinese character takes two columns
TICKS = 1000  # a second
CODECS = {"mp4": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # of the track, by PyAV's name of a container
# What the host's own files have; the second needs a file to go back to, which a buffer is not.
TAGS, AT_ONCE = "use_metadata_tags", "+faststart"
# The encoder that describes the track wants a style in the words of Advanced SubStation Alpha: white, at the bottom.
STYLE = b"""\
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1
"""


@dataclass(frozen=True)
class Cue:
    """A text of at most LINES lines, and its start and end in seconds."""

    start: float
    end: float
    text: str


def spread(captions: Sequence[str], share: float, end: float) -> tuple[Cue, ...]:
    """Every caption for an equal part of the first `share` seconds, the last one until `end`. An empty one leaves its
    part without a text. A caption of many lines is seen LINES by LINES, each for as long as it takes to read."""
    step = share / len(captions)
    borders = [*(number * step for number in range(len(captions))), end]
    cues = (cue for number, text in enumerate(captions) for cue in _turns(text, *borders[number : number + 2]))
    return part_of(cues, 0, end)


def _turns(caption: str, start: float, end: float) -> Iterable[Cue]:
    lines = break_lines(caption)
    texts = ["\n".join(lines[i : i + LINES]) for i in range(0, len(lines), LINES)]
    total, read = sum(map(columns, texts)), 0
    for text in texts:
        begin, read = read, read + columns(text)
        yield Cue(start + (end - start) * begin / total, start + (end - start) * read / total, text)


def break_lines(caption: str) -> list[str]:
    """As few lines of at most COLUMNS as will do, in the narrowest block, so that no word stands alone on the last."""
    text = clean(caption)
    if not text:
        return []
    lines, _ = wrap(text, COLUMNS, columns)
    for width in range(columns(text) // len(lines), COLUMNS):
        attempt, whole = wrap(text, width, columns)
        if whole and len(attempt) == len(lines):
            return attempt
    return lines


def columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))


def part_of(cues: Iterable[Cue], start: float, end: float) -> tuple[Cue, ...]:
    """What is seen of cues from `start` to `end`, counted from `start`."""
    shown = (replace(cue, start=max(cue.start, start) - start, end=min(cue.end, end) - start) for cue in cues)
    return tuple(cue for cue in shown if cue.end > cue.start)


def to_srt(cues: Iterable[Cue]) -> str:
    """The cues as a SubRip file, for sites and programs that want one."""

    def clock(seconds: float) -> str:
        rest, thousandths = divmod(_ticks(seconds), TICKS)
        return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02},{thousandths:03}"

    return "\n".join(
        f"{number}\n{clock(cue.start)} --> {clock(cue.end)}\n{cue.text}\n" for number, cue in enumerate(cues, 1)
    )


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS)


def add_track(source, target, cues: Iterable[Cue], container: str = "mp4") -> None:
    """Copy a video with a track of `cues`; images and sound are copied packet by packet.

    source, target: a path, or an open file. container: of the target, one of CODECS.
    """
    options = {}
    if container == "mp4":
        options["movflags"] = TAGS if hasattr(target, "write") else TAGS + AT_ONCE
    with av.open(source) as video, av.open(target, "w", format=container, options=options) as output:
        output.metadata.update(video.metadata)
        kept = (*video.streams.video, *video.streams.audio, *video.streams.subtitles)
        copies = {stream: output.add_stream_from_template(stream, opaque=True) for stream in kept}
        track = output.add_stream(CODECS[container])
        track.codec_context.subtitle_header = STYLE
        track.codec_context.time_base = Fraction(1, TICKS)
        output.start_encoding()
        for cue in cues:
            output.mux(_sample(cue, track))
        for packet in video.demux(*kept):
            if packet.size:  # else it is the empty one after a stream's last
                packet.stream = copies[packet.stream]
                output.mux(packet)


def _sample(cue: Cue, track) -> av.Packet:
    text = cue.text.encode()
    packet = av.Packet(struct.pack(">H", len(text)) + text if track.codec_context.name == CODECS["mp4"] else text)
    packet.stream, packet.time_base = track, Fraction(1, TICKS)
    packet.pts = packet.dts = _ticks(cue.start)
    packet.duration = _ticks(cue.end) - packet.pts
    return packet
