"""Where a user keeps styles of their own: `default/storyreel/styles.json` in the host's user folder."""

import os
from pathlib import Path

import folder_paths

from ...core.story.styles import PUBLISHED_STYLES, Style, StyleFileError, read_styles

MOST_BYTES = 2_000_000  # of a file of styles; the large collections for SDXL take a tenth
MOST_FAULTS = 5  # entries that a message names


def user_styles_file() -> Path:
    return Path(folder_paths.get_user_directory(), "default", "storyreel", "styles.json")


def load_styles() -> tuple[dict[str, Style], str]:
    """All styles by name; a user's takes the place of a published one of the same name.

    Also returns what is wrong with the user's file, or "". Whatever that is, the published nine and the entries that
    can be read are there: a node's schema asks for them, and no node of the pack loads without it.
    """
    styles = {style.name: style for style in PUBLISHED_STYLES}
    file = user_styles_file()
    try:
        own, faults = read_styles(_read(file), str(file)) if os.path.lexists(file) else ((), ())
    except StyleFileError as error:
        return styles, str(error)
    except (OSError, UnicodeDecodeError) as error:
        return styles, f"{file} cannot be read as UTF-8 text: {error}."
    more = f" {len(faults) - MOST_FAULTS} more entries cannot be used." if len(faults) > MOST_FAULTS else ""
    return styles | {style.name: style for style in own}, " ".join(faults[:MOST_FAULTS]) + more


def _read(file: Path) -> str:
    if file.exists() and not file.is_file():  # a pipe would never end
        raise StyleFileError(f"{file} is not a file; a file of styles is expected.")
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise StyleFileError(f"{file} is larger than {MOST_BYTES} bytes, the most that is read.")
    # utf-8-sig: Windows editors put a byte order mark before JSON, which json refuses.
    return content.decode("utf-8-sig")
