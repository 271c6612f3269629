"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """Input at fault: the message is one line that names the file, row or field, and a command exits with 2."""


def first_of(names: object, limit: int = 5) -> str:
    """Lists the first few of some names and says how many more there are.

    Args:
      names: any iterable of things to name.
      limit: how many are written out.

    Returns:
      For example `a, b, c and 4 more`.
    """
    listed = [str(name) for name in names]  # type: ignore[attr-defined]
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
