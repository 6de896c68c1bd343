"""The sound of a clip: read from any file, written beside frames without loss."""

import itertools
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # of more or fewer channels, the first two are kept


@dataclass(frozen=True)
class Sound:
    """samples: [channels, N], float32, -1 to 1. rate: samples a second."""

    samples: np.ndarray
    rate: int

    def until(self, time: Fraction) -> "Sound":
        """Its part up to a time in seconds."""
        return Sound(self.samples[:, : int(time * self.rate)], self.rate)

    def lasting(self, time: Fraction) -> "Sound":
        """As long as a time in seconds: cut off there, or followed by silence."""
        silence = max(0, int(time * self.rate) - self.samples.shape[1])
        return Sound(np.pad(self.until(time).samples, ((0, 0), (0, silence))), self.rate)


def read_sound(source, start: float = 0.0, duration: float = 0.0) -> Sound | None:
    """The sound of a file (a path, or an open file), None where there is none.

    start, duration: in seconds; 0: all from the start on.
    """
    with av.open(source) as container:
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            return None
        layout = LAYOUTS.get(stream.codec_context.channels, "stereo")
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=stream.rate)
        parts, first = [], None
        for frame in itertools.chain(container.decode(stream), [None]):  # None: what the resampler still holds
            for part in resampler.resample(frame):
                first = part.time if first is None else first
                parts.append(part.to_ndarray())
    if not parts:
        return None
    samples = np.concatenate(parts, axis=1)
    skipped = max(0, int((start - (first or 0.0)) * stream.rate))
    end = skipped + int(duration * stream.rate) if duration else None
    return Sound(np.ascontiguousarray(samples[:, skipped:end], dtype=np.float32), stream.rate)


class Track:
    """A sound that is written into a container while its frames are."""

    def __init__(self, container, sound: Sound):
        channels = len(sound.samples) if len(sound.samples) in LAYOUTS else 2
        self.samples, self.container, self.layout = sound.samples[:channels], container, LAYOUTS[channels]
        self.stream = container.add_stream("pcm_f32le", rate=sound.rate, layout=self.layout)
        self.written = 0

    def write_until(self, time: Fraction) -> None:
        """All samples up to a time in seconds."""
        part = self.samples[:, self.written : int(time * self.stream.rate)]
        if part.size:
            packed = np.ascontiguousarray(part.T.reshape(1, -1), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = (
                self.stream.rate,
                self.written,
                Fraction(1, self.stream.rate),
            )
            self.container.mux(self.stream.encode(frame))
            self.written += part.shape[1]
