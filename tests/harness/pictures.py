"""Files in the input folder that workflows name: an image, which a fresh host has, clips, and a folder of clips."""

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

CLIP_FRAMES, CLIP_RATE = 6, 8


def write_example(folder: Path) -> Path:
    """example.png, our own drawing instead of the host's, and example.mp4, a small clip of it with sound."""
    image = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((120, 90, 400, 370), fill=(230, 120, 60), outline=(40, 20, 10), width=8)
    draw.rectangle((200, 370, 320, 512), fill=(60, 120, 160))
    path = folder / "example.png"
    image.save(path)
    write_clip(image, folder / "example.mp4")
    return path


def write_clip(image: Image.Image, path: Path) -> None:
    """The image, panned."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=CLIP_RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(CLIP_FRAMES):
            part = image.crop((20 * number, 100, 20 * number + 384, 356)).resize((96, 64))
            container.mux(stream.encode(av.VideoFrame.from_image(part)))
        container.mux(stream.encode(None))
        samples = np.sin(np.arange(8000 * CLIP_FRAMES // CLIP_RATE, dtype=np.float32) / 3)[None] / 4
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def write_other(folder: Path) -> Path:
    """another.png: the same things elsewhere."""
    with Image.open(folder / "example.png") as image:
        image.rotate(180).save(folder / "another.png")
    return folder / "another.png"


def write_clips(folder: Path, count: int = 2, frames: int = 3) -> Path:
    """clips: a disc that moves along an arc, a different arc in each."""
    path = folder / "clips"
    path.mkdir()
    for number in range(count):
        pictures = [Image.new("RGB", (64, 64), (90, 110, 120)) for _ in range(frames)]
        for place, image in enumerate(pictures):
            x, y = 4 + 12 * place, 8 + 4 * number + 4 * place * (frames - 1 - place)
            ImageDraw.Draw(image).ellipse((x, y, x + 16, y + 16), fill=(240, 180, 40))
        pictures[0].save(path / f"{number}.gif", save_all=True, append_images=pictures[1:], duration=100)
    return path
