"""Where a user keeps styles of their own: `default/storyreel/styles.json` in the host's user folder."""

from pathlib import Path

import folder_paths

from ..core.story.styles import PUBLISHED_STYLES, Style, StyleFileError, read_styles


def user_styles_file() -> Path:
    return Path(folder_paths.get_user_directory(), "default", "storyreel", "styles.json")


def load_styles() -> tuple[dict[str, Style], str]:
    """All styles by name; a user's takes the place of a published one of the same name.

    Also returns what is wrong with the user's file, in one sentence, or "". A wrong file leaves the published nine.
    """
    styles = {style.name: style for style in PUBLISHED_STYLES}
    file = user_styles_file()
    if not file.is_file():
        return styles, ""
    try:
        # utf-8-sig: Windows editors put a byte order mark before JSON, which json refuses.
        own = read_styles(file.read_text(encoding="utf-8-sig"), str(file))
    except StyleFileError as error:
        return styles, str(error)
    except (OSError, UnicodeDecodeError) as error:
        return styles, f"{file} cannot be read as UTF-8 text: {error}."
    return styles | {style.name: style for style in own}, ""
