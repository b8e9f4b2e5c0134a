"""Scores of forecast video, each in the convention of a published table and named after it.

Videos are (batch, time, row, col, channel), values in [0, data_range]. Every function gives one score a frame,
(batch, time), in float64; tables print the mean over both.

| function | convention |
|---|---|
| `psnr` | of each frame, all channels at once; the mean is taken over decibels (ConvS5 and OpenSTL alike) |
| `ssim` | Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, where it fits (ConvS5) |
| `ssim_openstl` | uniform window 7 x 7, sample covariance, constants for a range of 2 (OpenSTL, PredFormer) |
| `mse_sum_pixels`, `mae_sum_pixels` | summed over the pixels and channels of a frame (OpenSTL: Moving MNIST ...) |

OpenSTL clips forecasts to [0, 1] before PSNR and SSIM, and not before the other two; `video_scores` does the same.
"""

import torch
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
OPENSTL_WINDOW, OPENSTL_RANGE = 7, 2.0


def psnr(prediction: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute the peak signal-to-noise ratio of each frame in dB: 10 log10(data_range^2 / mse).

    Args:
        prediction: (batch, time, row, col, channel).
        target: the same shape.
        data_range: the largest value less the smallest possible one.

    Returns:
        (batch, time), infinite where the frames are equal.
    """
    prediction, target = _both(prediction, target)
    return 10 * torch.log10(data_range**2 / (prediction - target).square().mean((2, 3, 4)))


def mse_sum_pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum the squared error over the pixels and channels of each frame: (batch, time)."""
    prediction, target = _both(prediction, target)
    return (prediction - target).square().sum((2, 3, 4))


def mae_sum_pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum the absolute error over the pixels and channels of each frame: (batch, time)."""
    prediction, target = _both(prediction, target)
    return (prediction - target).abs().sum((2, 3, 4))


def ssim(prediction: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute the structural similarity of each frame with the Gaussian window of Wang et al. 2004.

    Wang, Bovik, Sheikh, Simoncelli: "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE Transactions on Image Processing 13, 2004. Window 11 x 11 with sigma 1.5, only where it lies within the frame;
    each channel alone, then the mean.

    Args:
        prediction: (batch, time, row, col, channel), at least 11 x 11 pixels.
        target: the same shape.
        data_range: the largest value less the smallest possible one.

    Returns:
        (batch, time), 1 where the frames are equal.

    Raises:
        ValueError: the shapes differ, or the frames are smaller than the window.
    """
    steps = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-(steps**2) / (2 * SSIM_SIGMA**2))
    return _similarity(prediction, target, window / window.sum(), 1.0, data_range)


def ssim_openstl(prediction: Tensor, target: Tensor, data_range: float = OPENSTL_RANGE) -> Tensor:
    """Compute the structural similarity of each frame as OpenSTL's tables do.

    They call scikit-image with its defaults: a uniform window of 7 x 7 where it lies within the frame, variances with
    the factor n / (n - 1), and for floating numbers the range -1..1, although the frames lie in [0, 1].

    Args:
        prediction: (batch, time, row, col, channel), at least 7 x 7 pixels.
        target: the same shape.
        data_range: 2 as in the tables; newer scikit-image has no default and is mostly given 1.

    Returns:
        (batch, time), 1 where the frames are equal.

    Raises:
        ValueError: the shapes differ, or the frames are smaller than the window.
    """
    pixels = OPENSTL_WINDOW**2
    window = torch.full((OPENSTL_WINDOW,), 1 / OPENSTL_WINDOW, dtype=torch.float64)
    return _similarity(prediction, target, window, pixels / (pixels - 1), data_range)


def video_scores(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute every score of frames in [0, 1], with forecasts clipped to it for PSNR and SSIM.

    Args:
        prediction: (batch, time, row, col, channel), at least 11 x 11 pixels.
        target: the same shape.

    Returns:
        name: (batch, time), float64; the mean over both is what tables print.
    """
    clipped = prediction.clamp(0, 1)
    return {
        "mse_sum_pixels": mse_sum_pixels(prediction, target),
        "mae_sum_pixels": mae_sum_pixels(prediction, target),
        "psnr": psnr(clipped, target),
        "ssim": ssim(clipped, target),
        "ssim_openstl": ssim_openstl(clipped, target),
    }


def _similarity(prediction: Tensor, target: Tensor, window: Tensor, correction: float, data_range: float) -> Tensor:
    """Compare local means, variances and the covariance under a separable window, then average over the frame."""
    x, y = _both(prediction, target)
    batch, time, rows, cols = x.shape[:4]
    if min(rows, cols) < len(window):
        raise ValueError(
            f"frames of {rows} x {cols} pixels are smaller than the window of {len(window)} x {len(window)}\n"
            "hint: score them with psnr or mse_sum_pixels"
        )
    shift = y.mean()  # variances as differences of squares: the smaller the means, the less is cancelled
    x, y = x - shift, y - shift
    products = torch.stack([x, y, x * x, y * y, x * y])
    local = products.movedim(-1, -3).reshape(-1, 1, rows, cols)
    window = window.to(x.device)
    local = torch.nn.functional.conv2d(local, window[None, None, :, None])
    local = torch.nn.functional.conv2d(local, window[None, None, None, :])
    mean_x, mean_y, xx, yy, xy = local.reshape(5, batch, time, -1)
    variance = correction * (xx + yy - mean_x**2 - mean_y**2)
    covariance = correction * (xy - mean_x * mean_y)
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance + c2)
    return (luminance * structure).mean(-1)


def _both(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two videos to float64.

    Raises:
        ValueError: they are no videos of one shape.
    """
    if prediction.shape != target.shape or prediction.ndim != 5:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} are no videos of one shape\n"
            "hint: both are (batch, time, row, col, channel)"
        )
    return prediction.double(), target.double()
