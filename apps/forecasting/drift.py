"""Whether a long forecast leaves what the network was trained on: it then says little, and looks as smooth as before.

A channel of a standardized field has drifted when

- its mean over the grid is more than 3 from zero, in standard deviations of the training data, or
- its deviation over the grid is more than 3 times the largest, or less than a third of the smallest, of the instants
  that the forecast began from, or
- it is no number.

On 24 days of hourly temperature over the British Isles (`era5_uk_t2m`), none of the 517 true futures of 48 h is called
drift after 12 h of history: the largest of these numbers is 2.6. A factor of 2 instead of 3 would call 9.5 % so, since
deviations follow the hour of the day. Rollouts of the shipped models over 120 h reach 1.5 (2019-03, 12 initial times;
`scripts/bench/forecast_drift.py`).
"""

from collections.abc import Sequence

import numpy as np

FAR = 3.0
"""Standard deviations of the training data, and the factor between deviations over the grid."""


class DriftWatch:
    """Looks at the fields of one forecast.

    Args:
        past: (time, row, col, channel), what it began from, standardized.
        channels: names.
    """

    def __init__(self, past: np.ndarray, channels: Sequence[str]) -> None:
        deviation = past.std((1, 2))
        self.least, self.most, self.channels = deviation.min(0), deviation.max(0), channels

    def measure(self, field: np.ndarray) -> np.ndarray:
        """Measure how far a field, (row, col, channel), is from what is known: one above FAR is drift.

        Returns:
            (3, channel): its mean over the grid in standard deviations, signed; its deviation over the grid by the
            largest of the history; the smallest of the history by it. What is no number is one.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = field.mean((0, 1)), field.std((0, 1))
            return np.stack([mean, deviation / np.maximum(self.most, 1e-9), self.least / np.maximum(deviation, 1e-9)])

    def look(self, field: np.ndarray) -> str:
        """Say what is wrong with the first channel that drifted; "" when none did.

        Args:
            field: (row, col, channel), standardized.
        """
        for name, found in zip(self.channels, self.measure(field).T, strict=True):
            mean, growth, loss = found
            if not np.isfinite(found).all():
                return f"{name} is no number any more"
            if abs(mean) > FAR:
                return f"the mean of {name} is {mean:+.1f} standard deviations from that of the training data"
            if growth > FAR:
                return f"{name} varies {growth:.1f} times as much over the grid as in the history"
            if loss > FAR:
                return f"{name} varies {loss:.1f} times less over the grid than in the history"
        return ""
