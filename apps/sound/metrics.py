"""How good a processed voice is: SI-SDR and SNR in the suite, PESQ and STOI where their packages are installed."""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.core.errors import WavecastError

EPSILON = 1e-8  # no ratio beyond 80 dB
TINY = 1e-20
BANDS = {16_000: "wb", 8_000: "nb"}  # of PESQ, by sample rate


def si_sdr(estimate: Any, clean: Any) -> Tensor:
    """Measure the scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), without removing means.

    Args:
        estimate: (..., samples), array or tensor.
        clean: the original, of the same shape.

    Returns:
        (...) in dB, -80 to 80; not a number where the original is silent.
    """
    estimate, clean = _pair(estimate, clean)
    power = clean.square().sum(-1)
    scale = (estimate * clean).sum(-1) / power
    wanted = scale[..., None] * clean
    floor = EPSILON * estimate.square().sum(-1) + TINY
    ratio = wanted.square().sum(-1) / ((estimate - wanted).square().sum(-1) + floor)
    return 10 * torch.log10(ratio + EPSILON)


def snr(estimate: Any, clean: Any) -> Tensor:
    """Measure the signal-to-noise ratio in dB: (..., samples) to (...); not a number where the original is silent."""
    estimate, clean = _pair(estimate, clean)
    power = clean.square().sum(-1)
    ratio = power / ((estimate - clean).square().sum(-1) + EPSILON * power)
    return 10 * torch.log10(ratio + EPSILON)


def level(sound: Any) -> Tensor:
    """Measure the RMS in dB of full scale: (..., samples) to (...), -120 at least."""
    sound = torch.as_tensor(sound)
    return 10 * torch.log10(sound.square().mean(-1) + 1e-12)


def pesq(estimate: np.ndarray, clean: np.ndarray, sample_rate: int = 16_000) -> float:
    """Score by PESQ, wideband at 16 kHz (ITU-T P.862.2, 1.0 to 4.64) and narrowband at 8 kHz (P.862): (samples,) each.

    Returns:
        The score; not a number where PESQ finds no speech, or silence.

    Raises:
        WavecastError: the package is not installed.
        ValueError: the sample rate is another.
    """
    package = _needed("pesq")
    if sample_rate not in BANDS:
        raise ValueError(f"PESQ needs 16000 Hz or 8000 Hz, got {sample_rate}\nhint: resample both signals first")
    if not (np.any(clean) and np.any(estimate)):
        return float("nan")
    try:
        return float(package.pesq(sample_rate, clean, estimate, BANDS[sample_rate]))
    except package.PesqError:
        return float("nan")


def stoi(estimate: np.ndarray, clean: np.ndarray, sample_rate: int = 16_000) -> float:
    """Score by STOI (Taal et al. 2011), about 0 to 1: (samples,) each.

    Returns:
        The score; not a number where there are less than 30 frames of speech.

    Raises:
        WavecastError: the package is not installed.
    """
    import warnings

    package = _needed("pystoi")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(clean, estimate, sample_rate))
        except RuntimeWarning:
            return float("nan")


def _pair(estimate: Any, clean: Any) -> tuple[Tensor, Tensor]:
    estimate, clean = torch.as_tensor(estimate), torch.as_tensor(clean)
    if estimate.shape != clean.shape:
        raise ValueError(f"estimate is {tuple(estimate.shape)}, clean is {tuple(clean.shape)}\nhint: cut both alike")
    return estimate, clean


def _needed(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise WavecastError(f"{name} is not installed", "pip install 'wavecast[metrics]'") from error
