"""Text that a terminal shows and does not act on."""


def printable(text: str) -> str:
    r"""Text with an escape, such as `\x1b`, for what is not seen, and for what moves or colours what is."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
