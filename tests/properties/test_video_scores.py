"""Video scores against closed forms, an independent slow version, and numbers recorded from scikit-image 0.26."""

import math

import numpy as np
import pytest
import torch

from wavecast.apps.forecasting.video_scores import (
    mae_sum_pixels,
    mse_sum_pixels,
    psnr,
    ssim,
    ssim_openstl,
    video_scores,
)

# structural_similarity(p, t, channel_axis=2, data_range=2.0), the same with data_range=1.0, and with
# gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0; float64, frames of `recorded()`.
RECORDED_OPENSTL = [
    [0.840719339348, 0.832610174434, 0.843361457349],
    [0.823686940114, 0.805788178219, 0.842473852669],
]
RECORDED_RANGE_1 = [
    [0.838345486262, 0.830001979745, 0.841142981911],
    [0.821151745863, 0.802929098769, 0.840215834363],
]
RECORDED_GAUSSIAN = [
    [0.842501855924, 0.831298038090, 0.842726905524],
    [0.822561230757, 0.792107652310, 0.840148795191],
]


def recorded() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    target = rng.random((2, 3, 24, 20, 2)).astype(np.float32)
    prediction = np.clip(target + 0.2 * rng.standard_normal(target.shape), 0, 1).astype(np.float32)
    return torch.from_numpy(prediction), torch.from_numpy(target)


def slow_similarity(x: np.ndarray, y: np.ndarray, window: np.ndarray, unbiased: bool, data_range: float) -> float:
    """Go through the definition window by window, for one channel (row, col)."""
    side = len(window)
    factor = side**2 / (side**2 - 1) if unbiased else 1.0
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for row in range(x.shape[0] - side + 1):
        for col in range(x.shape[1] - side + 1):
            a, b = x[row : row + side, col : col + side], y[row : row + side, col : col + side]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + c1) * (2 * factor * cov + c2)
            values.append(top / ((mean_a**2 + mean_b**2 + c1) * (factor * (var_a + var_b) + c2)))
    return float(np.mean(values))


def gaussian_window() -> np.ndarray:
    rows, cols = np.mgrid[-5:6, -5:6]
    window = np.exp(-(rows**2 + cols**2) / (2 * 1.5**2))
    return window / window.sum()


@pytest.mark.parametrize("score", ["ssim", "ssim_openstl", "range_1"])
def test_similarity_equals_the_definition_and_scikit_image(score: str) -> None:
    prediction, target = recorded()
    uniform = np.full((7, 7), 1 / 49)
    found, window, unbiased, data_range, record = {
        "ssim": (ssim(prediction, target), gaussian_window(), False, 1.0, RECORDED_GAUSSIAN),
        "ssim_openstl": (ssim_openstl(prediction, target), uniform, True, 2.0, RECORDED_OPENSTL),
        "range_1": (ssim_openstl(prediction, target, data_range=1.0), uniform, True, 1.0, RECORDED_RANGE_1),
    }[score]
    np.testing.assert_allclose(found, record, rtol=1e-9)
    p, t = prediction[1, 2].double().numpy(), target[1, 2].double().numpy()
    slow = np.mean([slow_similarity(p[..., c], t[..., c], window, unbiased, data_range) for c in range(2)])
    assert found[1, 2] == pytest.approx(slow, rel=1e-10)


def test_similarity_of_constant_frames() -> None:
    """Without variance only luminance is left: (2ab + c1) / (a^2 + b^2 + c1), c1 = (0.01 range)^2."""
    a, b = torch.full((1, 2, 16, 16, 1), 0.25), torch.full((1, 2, 16, 16, 1), 0.75)
    plain = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim(a, b), np.full((1, 2), plain), rtol=1e-9)
    doubled = (2 * 0.25 * 0.75 + 4e-4) / (0.25**2 + 0.75**2 + 4e-4)
    np.testing.assert_allclose(ssim_openstl(a, b), np.full((1, 2), doubled), rtol=1e-9)


def test_psnr_of_a_constant_error() -> None:
    """An error of d everywhere is -20 log10 d; data in 0..255 give the same with that range."""
    target = torch.rand(2, 3, 8, 8, 3, dtype=torch.float64)
    np.testing.assert_allclose(psnr(target + 0.1, target), np.full((2, 3), 20.0), rtol=1e-9)
    np.testing.assert_allclose(psnr(255 * target + 25.5, 255 * target, data_range=255.0), np.full((2, 3), 20.0))
    assert torch.isinf(psnr(target, target)).all()


def test_psnr_is_averaged_over_decibels_and_not_over_errors() -> None:
    """Errors of 0.1 and 0.01 are 20 and 40 dB: 30 dB on average; their mean squared error would be 22.97 dB."""
    target = torch.zeros(1, 2, 4, 4, 1)
    prediction = torch.stack([torch.full((4, 4, 1), 0.1), torch.full((4, 4, 1), 0.01)])[None]
    assert psnr(prediction, target).mean().item() == pytest.approx(30.0, abs=1e-5)


def test_errors_are_summed_over_pixels() -> None:
    """A 64 x 64 frame with one pixel off by 0.5 in one of two channels: 0.25 and 0.5, whatever the size."""
    target = torch.zeros(1, 2, 64, 64, 2)
    prediction = target.clone()
    prediction[0, 1, 3, 4, 1] = 0.5
    assert mse_sum_pixels(prediction, target).tolist() == [[0.0, 0.25]]
    assert mae_sum_pixels(prediction, target).tolist() == [[0.0, 0.5]]


def test_forecasts_are_clipped_for_psnr_and_similarity_alone() -> None:
    _, target = recorded()
    white = torch.ones_like(target)
    scores = video_scores(white + 0.5, target)
    for name, function in {"psnr": psnr, "ssim": ssim, "ssim_openstl": ssim_openstl}.items():
        torch.testing.assert_close(scores[name], function(white, target))
    torch.testing.assert_close(scores["mse_sum_pixels"], mse_sum_pixels(white + 0.5, target))
    torch.testing.assert_close(scores["mae_sum_pixels"], mae_sum_pixels(white + 0.5, target))
    assert all(score.dtype == torch.float64 and score.shape == (2, 3) for score in scores.values())


def test_similarity_of_equal_frames_is_one_even_far_from_zero() -> None:
    x = 1e4 + torch.rand(1, 1, 16, 16, 1, dtype=torch.float64)
    assert abs(ssim(x, x).item() - 1) < 1e-9
    assert math.isfinite(ssim_openstl(x, x).item())


def test_misfits_are_told() -> None:
    x = torch.zeros(1, 2, 8, 16, 1)
    with pytest.raises(ValueError, match=r"8 x 16 pixels are smaller than the window of 11 x 11\nhint:"):
        ssim(x, x)
    with pytest.raises(ValueError, match=r"\(1, 2, 8, 16, 1\) and target \(1, 2, 8, 16\) .*\nhint:"):
        psnr(x, x[..., 0])
