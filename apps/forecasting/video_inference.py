"""Forecasts from frames: what is read, scaled, forecast, and given back as frames of the same kind.

    forecaster = wavecast.load("forecast", model="mine.ckpt")
    future = forecaster(frames, steps=20)                   # arrays of (time, row, col[, channel])

Networks and persistence have one face: `VideoMethod`. Between file and method, frames are float32
(time, row, col, channel) in [0, 1].
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import nn

from wavecast.apps.forecasting.inference import Forecaster
from wavecast.apps.forecasting.steps import known_from, pieces
from wavecast.apps.forecasting.video_format import VideoFormat, is_video
from wavecast.cards import Card, find_model, load_network
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.datamodules.video_windows import ArrayRecording, Recording, resize_by_area

STEPS = 10  # of persistence when nobody says how many


class VideoMethod(Protocol):
    """What forecasts video: a network or persistence.

    Attributes:
        name: for humans.
        checkpoint: SHA-256 of its weights; "" where there are none.
        history: frames that it needs.
        horizon: steps that it is made for.
    """

    name: str
    checkpoint: str
    history: int
    horizon: int

    @property
    def format(self) -> VideoFormat | None:
        """The video it is made for; None: any."""

    def pieces(self, past: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        """Forecast what follows float32 (time, row, col, channel) in [0, 1], some frames at a time."""


class VideoPersistence:
    """The last frame stays."""

    name, checkpoint, history, horizon, format = "persistence", "", 1, STEPS, None

    def pieces(self, past: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        """Give the last frame again and again."""
        for _ in range(steps):
            yield past[-1:]


class VideoForecaster:
    """A loaded network; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: a block over (batch, time, row, col, channel), in eval mode.
        format: the video it is made for.
    """

    def __init__(self, card: Card, network: nn.Module, device: str | torch.device = "cpu") -> None:
        self.card, self.network, self.device = card, network, torch.device(device)
        self.format = VideoFormat.of(card.fields, card.name)
        self.name, self.checkpoint = card.name, str(card.weights.get("sha256", ""))
        self.history, self.horizon = self.format.history, self.format.horizon

    @staticmethod
    def load(model: str, device: str = "auto") -> "VideoForecaster":
        """Load a model by name or path.

        Args:
            model: a name from `wavecast models list`, a card, or a checkpoint of `wavecast train video`.
            device: "auto", "cpu", "cuda" or "cuda:1".

        Raises:
            WavecastError: no such model or device, it is not for video, or its weights are damaged.
        """
        where, card = choose_device(device), find_model(model, "forecast")
        if not is_video(card):
            raise WavecastError(
                f"{card.name} forecasts fields on a map, not video", "give NetCDF or zarr, or another --model"
            )
        return VideoForecaster(card, load_network(card, where), where)

    def __call__(self, frames: np.ndarray, steps: int | None = None) -> np.ndarray:
        """Forecast the frames that follow.

        Args:
            frames: (time, row, col) or (time, row, col, channel), uint8, or fractions in [0, 1] (in the range of the
                arrays it was trained on); of more than it looks back on, the last.
            steps: to forecast; those it was trained for by default.

        Returns:
            (steps, row, col) or (steps, row, col, channel), uint8 or float32 in the same range.

        Raises:
            WavecastError: the frames are not those it is made for.
        """
        if frames.ndim not in (3, 4) or not frames.size or (frames.dtype != np.uint8 and frames.dtype.kind != "f"):
            raise WavecastError(
                f"an array of {frames.dtype} and shape {frames.shape} holds no frames",
                "give uint8 or fractions of shape (time, row, col) or (time, row, col, channel)",
            )
        x = frames[..., None] if frames.ndim == 3 else frames
        recording = ArrayRecording([x], self.format.black_and_white, "the array")
        past = read_past(recording, "the array", self)
        future = np.concatenate([restored(y, recording) for y in self.pieces(past, steps or self.horizon)])
        return future[..., 0] if frames.ndim == 3 else future

    @torch.inference_mode()
    def pieces(self, past: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        """Forecast what follows float32 (time, row, col, channel) in [0, 1], some frames at a time."""
        x = torch.from_numpy(self.format.normalize(past))[None].to(self.device)
        nothing = x.new_zeros(1, len(past) + steps, *past.shape[1:3], 0)
        for piece in pieces(self.network, x, known_from(nothing), steps, self.format.increments):
            yield self.format.denormalize(piece[0].float().cpu().numpy())


def load_forecaster(model: str, device: str = "auto") -> Forecaster | VideoForecaster:
    """Load a model for fields or for video, whichever it is for.

    Raises:
        WavecastError: no such model or device, or its weights are damaged.
    """
    return (VideoForecaster if is_video(find_model(model, "forecast")) else Forecaster).load(model, device)


def read_past(recording: Recording, where: str, method: VideoMethod, resize: bool = False) -> np.ndarray:
    """Read the last frames that a method looks back on: float32 (time, row, col, channel) in [0, 1].

    Args:
        recording: to read from.
        where: its name, for messages.
        method: what will forecast.
        resize: bring the frames to the size the method is made for.

    Raises:
        WavecastError: the frames are too few, or not those the method is made for.
    """
    made_for, (rows, cols, channels) = method.format, recording.shape
    if recording.frames < method.history:
        raise WavecastError(
            f"{where} has {recording.frames} frames; {method.name} looks back on {method.history}",
            f"give at least {method.history}",
        )
    if made_for is not None and channels != made_for.channels:
        raise WavecastError(
            f"{where} has frames of {channels} channels; {method.name} is made for {made_for.channels}",
            "convert the frames, or train a model for them: wavecast train video",
        )
    if made_for is not None and (rows, cols) != (made_for.rows, made_for.cols) and not resize:
        raise WavecastError(
            f"{where} has frames of {rows} x {cols}; {method.name} is made for {made_for.rows} x {made_for.cols}",
            "resize them (--resize), or train a model for them: wavecast train video",
        )
    past = recording.window(recording.frames - method.history, method.history)
    return past if made_for is None or not resize else resize_by_area(past, (made_for.rows, made_for.cols))


def restored(y: np.ndarray, recording: Recording) -> np.ndarray:
    """Bring frames from [0, 1] back to the numbers of a recording: uint8 where they are whole, else float32."""
    black, white = recording.values
    x = y * (white - black) + black
    return np.rint(x).astype(np.uint8) if recording.whole else x.astype(np.float32)
