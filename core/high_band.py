"""The band above the model's: what a 16 kHz model cannot hear of a 48 kHz recording.

`follow` lets it rise and fall as the model made the top octave of its own band do: where 4 to 8 kHz were lowered as
noise, the band above is lowered alike. `keep` leaves it as it was, `drop` leaves it out. `share` is for several results
of one sound: each gets the part of the band above that it has of the power in that octave, so that none is lost.
"""

from collections.abc import Callable

import numpy as np
from scipy import signal

from wavecast.core.resample import Resampler

SMOOTHING = 0.02  # seconds of the running power that gains come from
FLOOR = 1e-9  # power below which there is nothing to follow


class HighBand:
    """The high band on its way, sample for sample beside the enhanced one.

    Args:
        channels: of the sound.
        rate: of the sound, in hertz.
        network_rate: of the model.
        policy: "follow", "keep", "drop" or "share".
        outputs: that share the band; rows of the enhanced sound are (outputs x channels).
    """

    def __init__(self, channels: int, rate: int, network_rate: int, policy: str, outputs: int = 1) -> None:
        self.rate, self.network_rate, self.policy, self.outputs = rate, network_rate, policy, outputs
        rows = outputs * channels
        self._up = Resampler(network_rate, rate, channels)
        self._filter = signal.butter(4, network_rate / 4, "high", fs=network_rate, output="sos")
        self._filter_states = np.zeros((2, len(self._filter), rows, 2))
        decay = np.exp(-1 / (SMOOTHING * network_rate))
        self._smooth = (np.array([1 - decay]), np.array([1, -decay]))
        self._smooth_states = np.zeros((2, rows, 1))
        self._gains = np.zeros((rows, 0))
        self._first = self._given = 0

    def push(
        self,
        narrow: np.ndarray,
        enhanced: np.ndarray,
        y: np.ndarray,
        dry: Callable[[int], np.ndarray],
        last: bool,
    ) -> np.ndarray:
        """Add the high band to enhanced sound.

        Args:
            narrow: (channels, n), the input at the network's rate.
            enhanced: (rows, n), what the network made of it.
            y: (rows, m), the enhanced sound at the input's rate.
            dry: gives the first samples of the input that y stands for, (channels, up to m).
            last: whether the sound ends here.

        Returns:
            (rows, m).
        """
        if self.policy == "drop":
            return y
        low = self._up.push(narrow)
        if last:
            low = np.concatenate([low, self._up.flush()], 1)
        heard = dry(y.shape[1])  # at the very end one sample more may be due than came in
        high = heard - low[:, : heard.shape[1]]
        if self.policy in ("follow", "share"):
            high = np.tile(high, (self.outputs, 1)) * self._gain(narrow, enhanced, y.shape[1])[:, : high.shape[1]]
        result = y.copy()
        result[:, : high.shape[1]] += high.astype(np.float32)
        return result

    def _gain(self, narrow: np.ndarray, enhanced: np.ndarray, count: int) -> np.ndarray:
        """Give the gains of the next `count` samples at the input's rate; above 1 nothing is raised."""
        if narrow.shape[1]:
            gains = self._shares(enhanced) if self.policy == "share" else self._followed(narrow, enhanced)
            self._gains = np.concatenate([self._gains, gains], 1)
        index = (self._given + np.arange(count)) * self.network_rate // self.rate
        self._given += count
        local = np.minimum(index - self._first, self._gains.shape[1] - 1)
        result = self._gains[:, local] if self._gains.shape[1] else np.zeros((len(enhanced), count))
        behind = int(index[-1]) - self._first if count else 0
        self._gains, self._first = self._gains[:, behind:], self._first + behind
        return result

    def _followed(self, narrow: np.ndarray, enhanced: np.ndarray) -> np.ndarray:
        """Compare the power of the top octave after and before."""
        after, before = self._power(0, enhanced), self._power(1, narrow)
        return np.minimum(np.sqrt((after + FLOOR / 1e3) / (before + FLOOR)), 1)

    def _shares(self, enhanced: np.ndarray) -> np.ndarray:
        """Compare the power of the top octave between the outputs of each channel; nothing in it is shared equally."""
        power = (self._power(0, enhanced) + FLOOR / 1e3).reshape(self.outputs, -1, enhanced.shape[1])
        return (power / power.sum(0)).reshape(enhanced.shape)

    def _power(self, number: int, x: np.ndarray) -> np.ndarray:
        """Give the running power of the top octave of one of the two sounds."""
        top, self._filter_states[number] = signal.sosfilt(self._filter, x, zi=self._filter_states[number])
        power, self._smooth_states[number] = signal.lfilter(*self._smooth, top**2, zi=self._smooth_states[number])
        return power
