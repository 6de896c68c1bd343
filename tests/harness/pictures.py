"""A picture for the nodes that load one: the file that a fresh host has in its input folder."""

from pathlib import Path

from PIL import Image, ImageDraw


def write_example(folder: Path) -> Path:
    """example.png, as workflows name it: a drawing of our own in the place of the host's."""
    image = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((120, 90, 400, 370), fill=(230, 120, 60), outline=(40, 20, 10), width=8)
    draw.rectangle((200, 370, 320, 512), fill=(60, 120, 160))
    path = folder / "example.png"
    image.save(path)
    return path
