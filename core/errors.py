"""The one exception of the suite: what failed, and what to do about it; and lists that fit into a line of it."""


class WavecastError(Exception):
    """Say what failed in one line, and the cure in a hint.

    Args:
        message: what failed, why, and what was found; one line.
        hint: what the user can do or type; empty when there is nothing to suggest.

    `str(error)` is the message, followed by a line `hint: ...` when there is one.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def listed(items: list[str], most: int = 5) -> str:
    """Join the first few items of a list, and say how many more there are."""
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
