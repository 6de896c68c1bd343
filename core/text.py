"""Texts from users, programs and files, in a form that messages can hold."""


def encodable(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD: none can be written to a log, a file or a connection.

    Half of an emoji is one, as programs leave it that cut a text by 16-bit units. Two halves in a row become the emoji.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(name, longest: int = 80) -> str:
    """A name from a file in a message: on one line, at most `longest` letters, and encodable, whatever the name is."""
    text = encodable(name) if isinstance(name, str) else repr(name)[: longest + 1]
    if not text.isprintable():
        text = repr(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
