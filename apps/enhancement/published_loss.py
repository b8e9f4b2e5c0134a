"""The loss of the published FRCRN recipe: its mask against the ideal one, and SI-SNR of the waveform.

Differences from ClearerVoice-Studio: the target is computed with the network's own windows (as the older ModelScope
trainer does), so that the frames of mask and target are the same; theirs takes a symmetric Hann window for the target.
"""

import torch
from torch import Tensor

from wavecast.apps.enhancement.frcrn import FRCRN, WINDOW
from wavecast.core.complex_layers import complex_product

EPSILON = 1e-6


def published_loss(network: FRCRN, noisy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of a batch of equal crops.

    Args:
        network: the published network; its mask is compared, not only its output.
        noisy: (batch, samples).
        clean: (batch, samples).

    Returns:
        The loss, and its parts `mask` and `si_snr` (dB).
    """
    spectrum = network.spectrum(noisy)
    mask = network.mask(spectrum)
    estimate = network.synthesis(complex_product(spectrum, mask))[0][:, : noisy.shape[1]]
    target = ideal_mask(spectrum, network.spectrum(clean))
    mask_error = WINDOW * (mask - target).square().mean((0, 1, 2)).sum()
    gain = si_snr(estimate, clean).mean()
    return mask_error - gain, {"mask": mask_error.detach(), "si_snr": gain.detach()}


def ideal_mask(noisy: Tensor, clean: Tensor) -> Tensor:
    """Compute the complex ideal ratio mask clean / noisy: spectra (..., 2) to (..., 2).

    Parts above 2 become 1, parts below -2 become -1: so the published recipe does it.
    """
    power = noisy.square().sum(-1) + 1e-8
    real = (clean * noisy).sum(-1) / power
    imag = (clean[..., 1] * noisy[..., 0] - clean[..., 0] * noisy[..., 1]) / power
    mask = torch.stack([real, imag], -1)
    return torch.where(mask > 2, 1.0, torch.where(mask < -2, -1.0, mask))


def si_snr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Compute the recipe's scale-invariant signal-to-noise ratio, means removed: (batch, samples) to (batch,) dB."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    clean = clean - clean.mean(-1, keepdim=True)
    scale = (estimate * clean).sum(-1, keepdim=True) / (clean.square().sum(-1, keepdim=True) + EPSILON)
    wanted = scale * clean
    ratio = wanted.square().sum(-1) / ((estimate - wanted).square().sum(-1) + EPSILON)
    return 10 * torch.log10(ratio + EPSILON)
