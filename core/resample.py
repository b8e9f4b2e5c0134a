"""Resampling in a stream, by soxr: pieces of any size give the bytes that the whole signal gives."""

import numpy as np
import soxr


class Resampler:
    """Channels on their way from one sample rate to another.

    Output sample k lies at the time of input sample k * from / to: the filter's delay is taken out, output only comes
    later. A sequence of n samples gives round(n * to / from).

    Args:
        source: sample rate in, in hertz.
        target: sample rate out.
        channels: processed alike.
    """

    def __init__(self, source: int, target: int, channels: int) -> None:
        self.source, self.target, self.channels = source, target, channels
        self._restart()

    def _restart(self) -> None:
        same = self.source == self.target
        self._stream = None if same else soxr.ResampleStream(self.source, self.target, self.channels, "float32", "HQ")
        self._taken = self._given = 0

    def out_length(self, samples: int) -> int:
        """Count the samples that come out of a whole sequence: round(samples * to / from), halves up."""
        return (2 * samples * self.target + self.source) // (2 * self.source)

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take float32 (channels, n), n of any size; give what is finished."""
        return self._resample(x, last=False)

    def flush(self) -> np.ndarray:
        """End the sequence and give the rest; afterwards the next one can begin."""
        y = self._resample(np.zeros((self.channels, 0), np.float32), last=True)
        missing = self.out_length(self._taken) - self._given
        y = y[:, : y.shape[1] + missing] if missing < 0 else np.pad(y, ((0, 0), (0, missing)))
        self._restart()
        return y

    def _resample(self, x: np.ndarray, last: bool) -> np.ndarray:
        self._taken += x.shape[1]
        if self._stream is None:
            y = x
        elif x.shape[1] or (last and self._taken):
            y = np.ascontiguousarray(self._stream.resample_chunk(np.ascontiguousarray(x.T), last=last).T)
        else:
            y = x[:, :0]
        y = y.reshape(self.channels, -1)
        self._given += y.shape[1]
        return y
