"""Log-mel features of speech that stream exactly: every frame is that of the whole file, however the samples come.

The front end of NeMo's speech models: pre-emphasis, a centred window every 10 ms, power on Slaney's mel scale, its
logarithm. Axes: batch time; then batch frame mel.
"""

from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.block import Block, Window, mask_beyond
from wavecast.core.state import State, Tail, own, state

FLOOR = 2.0**-24
"""Added to the power before the logarithm."""
EPSILON = 1e-5
"""Added to the deviation of a normalized band."""


@state
class Heard:
    """What later frames still need.

    sample: (batch, 1), the last sample, for the pre-emphasis of the next one.
    emphasized: the pre-emphasized samples of frames that are not finished.
    """

    sample: Tensor
    emphasized: Tail


class LogMel(Window):
    """Log-mel features: (batch, samples) in [-1, 1] to (batch, samples // hop, mel).

    Frame k reads the samples [hop k - window / 2, hop k + window / 2), zeros where there are none. It is computed in
    float32 (float64 for float64) under autocast too, because the logarithm of a small power needs the precision.

    Args:
        sample_rate: in hertz.
        mels: bands.
        window: samples of a frame, even.
        hop: samples between frames.
        length: of the Fourier transform, at least the window.
        emphasis: of high frequencies: y_n = x_n - emphasis x_(n-1).
        dither: deviation of Gaussian noise that training adds to the samples; 0: none.

    Raises:
        ValueError: the window is odd, shorter than the hop, or longer than the transform.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16_000,
        mels: int = 80,
        window: int = 400,
        hop: int = 160,
        length: int = 512,
        emphasis: float = 0.97,
        dither: float = 0.0,
    ) -> None:
        if window % 2 or not hop <= window <= length:
            raise ValueError(
                f"window {window}, hop {hop}, length {length}\nhint: take an even window from hop to length samples"
            )
        # So much padding on the right gives samples // hop frames, of which the last one still has its whole hop.
        super().__init__(window, hop, left=window // 2, right=window // 2 - hop)
        self.length, self.emphasis, self.dither = length, emphasis, dither
        self.register_buffer("window", torch.hann_window(window, periodic=False))
        self.register_buffer("filters", mel_filters(sample_rate, mels, length))

    def operator(self, x: Tensor) -> Tensor:
        """Compute the features of all whole frames of pre-emphasized samples."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(x.unfold(1, self.span, self.hop) * self.window, self.length)
            power = torch.view_as_real(spectrum).square().sum(-1)
            return torch.log(power @ self.filters + FLOOR)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Emphasize the new samples, and compute the frames that they complete."""
        x = self.dithered(x)
        sample = x.new_zeros(x.shape[0], 1) if state is None else state.sample
        joined = torch.cat([sample, x], 1)
        y, tail = super().step(self.emphasize(joined), None if state is None else state.emphasized, last)
        return y, Heard(own(joined[:, -1:]), tail)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Compute the features of padded signals: nothing of a row's last sample leaks into the silence behind it."""
        emphasized = self.emphasize(functional.pad(self.dithered(x), (1, 0)))
        return super().step(mask_beyond(emphasized, lengths), None, True)

    def emphasize(self, x: Tensor) -> Tensor:
        """Subtract from each sample but the first the one before it."""
        return x[:, 1:] - self.emphasis * x[:, :-1]

    def dithered(self, x: Tensor) -> Tensor:
        """Give the samples in the precision of the features, with noise in training."""
        x = x if x.dtype == torch.float64 else x.float()
        return x + self.dither * torch.randn_like(x) if self.training and self.dither else x


def mel_filters(sample_rate: int, mels: int, length: int) -> Tensor:
    """Give triangular filters of equal area on Slaney's mel scale, from 0 to half the sample rate: (freq, mel)."""
    from torchaudio.functional import melscale_fbanks

    bins, top = length // 2 + 1, sample_rate / 2
    with torch.device("cpu"):  # it looks at the numbers, which tensors on the device "meta" lack
        filters = melscale_fbanks(bins, 0.0, top, mels, sample_rate, norm="slaney", mel_scale="slaney")
    return filters.to(torch.get_default_device())


class PerFeatureNorm(Block):
    """Every band of an utterance to mean 0 and deviation 1 over its time: (batch, frame, mel) to the same.

    The deviation is the unbiased one, plus a small number: as NeMo's offline models normalize ("per_feature").
    """

    lookahead = inf
    needs_all = "its mean and deviation are those of the whole utterance"

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize a whole utterance."""
        return self.normalize(x, x.new_full((1, 1, 1), x.shape[1])), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Normalize padded utterances by the statistics of their valid frames; what lies beyond is zero."""
        count = lengths[:, None, None].to(x.dtype)
        return mask_beyond(self.normalize(mask_beyond(x, lengths), count, lengths), lengths), ()

    def normalize(self, x: Tensor, count: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Subtract the mean of `count` frames and divide by their deviation; the frames beyond are zero."""
        x = x - x.sum(1, keepdim=True) / count.clamp_min(1)
        centered = x if lengths is None else mask_beyond(x, lengths)
        deviation = (centered.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
        return x / (deviation + EPSILON)
