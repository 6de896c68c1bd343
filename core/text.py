"""Texts as they come from users and programs."""


def encodable(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD: none can be written to a log, a file or a connection.

    Half of an emoji is one, as programs leave it that cut a text by 16-bit units. Two halves in a row become the emoji.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
