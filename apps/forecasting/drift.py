"""Whether a long forecast leaves what the network was trained on: it then says little, and looks as smooth as before.

A channel of a standardized field has drifted when

- its mean over the grid is more than 3 from zero, in standard deviations of the training data, or
- its deviation over the grid is more than 3 times the largest, or less than a third of the smallest, of the instants
  that the forecast began from, or
- it is no number.

On 24 days of hourly temperature over the British Isles (`era5_uk_t2m`), none of the 516 true futures of 48 h is called
drift after 12 h of history; a factor of 2 instead of 3 would call 5 % so, since deviations follow the hour of the day.
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

    def look(self, field: np.ndarray) -> str:
        """Say what is wrong with the first channel that drifted; "" when none did.

        Args:
            field: (row, col, channel), standardized.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            means, deviations = field.mean((0, 1)), field.std((0, 1))
        for name, mean, deviation, least, most in zip(
            self.channels, means, deviations, self.least, self.most, strict=True
        ):
            if not (np.isfinite(mean) and np.isfinite(deviation)):
                return f"{name} is no number any more"
            if abs(mean) > FAR:
                return f"the mean of {name} is {mean:+.1f} standard deviations from that of the training data"
            if deviation > FAR * most:
                return f"{name} varies {deviation / most:.1f} times as much over the grid as in the history"
            if deviation * FAR < least:
                return f"{name} varies {least / max(deviation, 1e-9):.1f} times less over the grid than in the history"
        return ""
