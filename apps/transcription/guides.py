"""What guides a beam beside what it hears: phrases to expect (`boosting`), a language model (`language_model`), both.

A guide is an automaton over tokens: every text has a place in it, and at every place it says what each token adds to
the score of the text.
"""

from typing import Protocol

from torch import Tensor

ROOT = 0
"""The place of the empty text."""


class Guide(Protocol):
    """What a beam asks of a guide. Places are numbered, from ROOT on."""

    def __len__(self) -> int:
        """Count the places."""

    def next(self, place: int, token: int) -> int:
        """Give the place after one more token."""

    def change(self, place: int) -> Tensor:
        """Give what each class adds to a text's score at a place: (classes,), 0 for the blank, the last."""

    def owed(self, place: int) -> float:
        """Give what a text that ends at a place has to give back."""


class Guides:
    """Two guides at once.

    Args:
        first, second: of the same classes.
    """

    def __init__(self, first: Guide, second: Guide) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) * len(self.second)

    def next(self, place: int, token: int) -> int:
        """Give the place after one more token."""
        one, other = divmod(place, len(self.second))
        return self.first.next(one, token) * len(self.second) + self.second.next(other, token)

    def change(self, place: int) -> Tensor:
        """Give what each class adds to a text's score at a place: (classes,)."""
        one, other = divmod(place, len(self.second))
        return self.first.change(one) + self.second.change(other)

    def owed(self, place: int) -> float:
        """Give what a text that ends at a place has to give back."""
        one, other = divmod(place, len(self.second))
        return self.first.owed(one) + self.second.owed(other)
