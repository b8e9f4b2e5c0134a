"""The loss of the streaming enhancer: compressed spectra at three resolutions, and the waveform.

Magnitudes are compressed by a power of 0.3, so that quiet parts count as hearing counts them (Braun and Tashev 2021).
"""

import torch
from torch import Tensor

COMPRESSION = 0.3
SIZES = (256, 512, 1024)
COMPLEX_SHARE = 0.3
SPECTRAL_WEIGHT, WAVE_WEIGHT = 80.0, 0.5
BEST_SNR = 10**-2.5  # of what is left: beyond 25 dB nothing more is asked for
SILENT = 1e-3  # power of the wanted signal in a mixture of power 1, below which there is no waveform to match


def compressed_spectral_loss(estimate: Tensor, clean: Tensor, noisy: Tensor | None = None) -> Tensor:
    """Compute the loss of a batch: 80 times the spectral distance plus half the noise-to-signal ratio in dB.

    Args:
        estimate: (batch, samples).
        clean: (batch, samples).
        noisy: (batch, samples) whose level every item is brought to 1 by; the clean signals' where None.

    Returns:
        The loss, without axes.
    """
    level = (clean if noisy is None else noisy).square().mean(-1, keepdim=True).sqrt() + 1e-5
    estimate, clean = estimate / level, clean / level
    distance = torch.stack([spectral_distance(estimate, clean, size) for size in SIZES]).mean()
    return SPECTRAL_WEIGHT * distance + WAVE_WEIGHT * noise_to_signal(estimate, clean)


def spectral_distance(estimate: Tensor, clean: Tensor, size: int) -> Tensor:
    """Compare compressed magnitudes and compressed spectra of half overlapped Hann frames: mean squared distance."""
    window = torch.hann_window(size, device=clean.device, dtype=clean.dtype)
    spectra = [
        torch.stft(x, size, size // 2, window=window, normalized=True, return_complex=True) for x in (estimate, clean)
    ]
    magnitudes = [(x.real.square() + x.imag.square() + 1e-8).sqrt() for x in spectra]
    compressed = [x**COMPRESSION for x in magnitudes]
    apart = spectra[0] * (compressed[0] / magnitudes[0]) - spectra[1] * (compressed[1] / magnitudes[1])
    in_magnitude = (compressed[0] - compressed[1]).square().mean()
    in_spectrum = (apart.real.square() + apart.imag.square()).mean()
    return (1 - COMPLEX_SHARE) * in_magnitude + COMPLEX_SHARE * in_spectrum


def noise_to_signal(estimate: Tensor, clean: Tensor) -> Tensor:
    """Compute the mean ratio of error to signal in dB over the items that hold a signal; 0 where none does."""
    power = clean.square().mean(-1)
    error = (estimate - clean).square().mean(-1) + BEST_SNR * power
    ratios = 10 * torch.log10((error + 1e-4) / (power + 1e-4))
    heard = power > SILENT
    return (ratios * heard).sum() / heard.sum().clamp_min(1)
