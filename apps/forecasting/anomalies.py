"""A network that corrects a linear forecast of anomalies, for fields of which few days are known.

    climate    mean and two harmonics of the day, at every point of the grid (fitted to the training data)
    anomaly    x - climate at its hour
    linear     sum over box means and the latest frames: weight[lead, box, frame] * box mean of the anomaly
    forecast   climate at the hour to come + linear + spread[lead] * network(anomaly, extras)

The linear part is the same at every point, so that a few days of a region hold many examples of it. Climate and linear
weights are fitted by least squares (`fit`) and stay; the network, which begins with the forecast zero, is trained. The
climate knows hours and no seasons: over years the linear part takes the season for an anomaly, and carries it on.

A network that streams forecasts one step ahead at every step (`leads` of 1); one that needs its whole window forecasts
as many steps as it sees, each with linear weights of its own.

Axes: batch time row col channel.
"""

from collections.abc import Iterable, Sequence
from math import cos, inf, pi, sin
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.apps.forecasting.convs5 import ConvS5
from wavecast.apps.forecasting.predformer import PredFormer
from wavecast.apps.forecasting.state_space_mixer import StateSpaceMixer
from wavecast.apps.forecasting.steps import filled
from wavecast.core.block import Block
from wavecast.core.state import State, own, state

WAVES = 5  # 1, sine and cosine of the hour, and of twice the hour
RIDGE = 1e-4  # of the mean variance of the inputs: box means of one field are much alike
BOXES = (1, 5, 13)
FRAMES = 3


@state
class Latest:
    """The latest anomalies (batch, frames - 1, row, col, channel), and the network's state."""

    anomalies: Tensor
    network: State


class Anomalies(Block):
    """Forecast by climate, linear anomalies and a network: (batch, time, row, col, channels + extras) to channels.

    The extras begin with sine and cosine of the hour of the day.

    Args:
        network: maps (batch, time, row, col, channels + extras) to (batch, time, row, col, channels).
        rows: of a frame.
        cols: of a frame.
        channels: that are forecast.
        leads: 1 for a network that streams, the steps of its window for another.
        steps_per_day: how many steps make the hour come round.
        boxes: sides of the squares over which anomalies are averaged, odd.
        frames: how many of the latest frames the linear part reads.

    Raises:
        ValueError: a box is even.
    """

    multiple = 1
    climate: Tensor
    weight: Tensor
    spread: Tensor

    def __init__(
        self,
        network: Block,
        rows: int,
        cols: int,
        channels: int,
        leads: int,
        steps_per_day: float,
        boxes: Sequence[int] = BOXES,
        frames: int = FRAMES,
    ) -> None:
        super().__init__()
        if even := [box for box in boxes if box % 2 == 0]:
            raise ValueError(f"a box of {even[0]} points has no middle\nhint: give odd sides")
        self.network, self.lookahead = network, network.lookahead
        self.needs_all, self.instead = network.needs_all, network.instead
        self.channels, self.leads, self.steps_per_day = channels, leads, steps_per_day
        self.boxes, self.frames = tuple(boxes), frames
        self.register_buffer("climate", torch.zeros(WAVES, rows, cols, channels))
        weight = torch.zeros(leads, len(boxes), frames, channels)
        weight[:, 0, 0] = 1  # until it is fitted: the anomaly stays
        self.register_buffer("weight", weight)
        self.register_buffer("spread", torch.ones(leads, channels))

    def step(self, x: Tensor, state: Latest | None, last: bool) -> tuple[Tensor, State]:
        """Forecast from the next frames; before the first frame lies that frame again."""
        if not x.shape[1]:
            return x[..., : self.channels], state
        hour = x[:, :, 0, 0, self.channels : self.channels + 2]
        anomaly = x[..., : self.channels] - self.climate_at(hour)
        inputs = filled(torch.cat([anomaly, x[..., self.channels :]], -1), self.network)
        residual, after = self.network(inputs, None if state is None else state.network, last=last)
        residual = residual[:, :, : x.shape[2], : x.shape[3]] * self.spread[:, None, None]
        before = anomaly[:, :1].repeat_interleave(self.frames - 1, 1) if state is None else state.anomalies
        anomaly = torch.cat([before, anomaly], 1)
        y = self.climate_at(hour, self.leads) + self.linear(anomaly) + residual
        if self.lookahead == inf:
            return y, ()
        return y, Latest(own(anomaly[:, x.shape[1] :]), after)

    def climate_at(self, hour: Tensor, ahead: int = 0) -> Tensor:
        """Give the climate.

        Args:
            hour: (batch, time, 2), sine and cosine of the hour of the day.
            ahead: steps after that hour.

        Returns:
            (batch, time, row, col, channel).
        """
        return torch.einsum("bth,hrcx->btrcx", self.waves(hour, ahead), self.climate)

    def waves(self, hour: Tensor, ahead: int) -> Tensor:
        """Give 1, sine and cosine of the hour some steps ahead, and of twice that hour: (batch, time, WAVES)."""
        turn = 2 * pi * ahead / self.steps_per_day
        sine = hour[..., 0] * cos(turn) + hour[..., 1] * sin(turn)
        cosine = hour[..., 1] * cos(turn) - hour[..., 0] * sin(turn)
        twice = 2 * sine * cosine, cosine.square() - sine.square()
        return torch.stack([torch.ones_like(sine), sine, cosine, *twice], -1)

    def linear(self, anomaly: Tensor) -> Tensor:
        """Forecast anomalies by their box means, from (batch, frames - 1 + time, row, col, channel).

        Returns:
            One step after each of the time steps, or all leads after the last: (batch, time, row, col, channel).
        """
        if self.lookahead == inf:
            return torch.einsum("bsjrcx,lsjx->blrcx", self.features(anomaly[:, -self.frames :])[:, 0], self.weight)
        return torch.einsum("btsjrcx,sjx->btrcx", self.features(anomaly), self.weight[0])

    def features(self, anomaly: Tensor) -> Tensor:
        """Average over the boxes: (batch, time, box, frame, row, col, channel), the newest frame first."""
        planes = anomaly.flatten(0, 1).movedim(-1, 1)
        means = []
        for box in self.boxes:
            side = box // 2
            edged = functional.pad(planes, (side, side, side, side), mode="replicate") if side else planes
            means.append(functional.avg_pool2d(functional.avg_pool2d(edged, (box, 1), 1), (1, box), 1))
        stacked = torch.stack(means, 1).unflatten(0, anomaly.shape[:2])  # batch time box channel row col
        latest = stacked.unfold(1, self.frames, 1).flip(-1)
        return latest.permute(0, 1, 2, 6, 4, 5, 3)

    @torch.no_grad()
    def fit(self, windows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit climate and linear weights to training windows by least squares, in two passes over them.

        Args:
            windows: gone through twice: pairs of inputs (history, row, col, channels + extras) and of what followed,
                (steps, row, col, channels).
        """
        squares, products = torch.zeros(WAVES, WAVES).double(), torch.zeros_like(self.climate).double()
        for inputs, _ in windows:
            waves, field = self.waves(self._hour(inputs), 0)[0, 0].double(), inputs[-1, ..., : self.channels].double()
            squares += torch.outer(waves, waves)
            products += torch.einsum("h,rcx->hrcx", waves, field)
        self.climate.copy_(solved(squares, products.flatten(1)).view_as(products))

        size = len(self.boxes) * self.frames
        squares = torch.zeros(self.channels, size, size).double()
        products = torch.zeros(self.channels, size, self.leads).double()
        energy, points = torch.zeros(self.channels, self.leads).double(), 0
        for inputs, future in windows:
            fields = inputs[None, -self.frames :]
            hours = fields[:, :, 0, 0, self.channels : self.channels + 2]
            features = self.features(fields[..., : self.channels] - self.climate_at(hours))[0, 0]
            ahead = [self.climate_at(self._hour(inputs), lead + 1)[0, 0] for lead in range(self.leads)]
            wanted = (future[: self.leads] - torch.stack(ahead)).flatten(1, 2).double()  # lead point channel
            known = features.flatten(2, 3).flatten(0, 1).double()  # feature point channel
            squares += torch.einsum("fpx,gpx->xfg", known, known)
            products += torch.einsum("fpx,lpx->xfl", known, wanted)
            energy += wanted.square().sum(1).T
            points += wanted.shape[1]
        weight = solved(squares, products)
        left = energy - 2 * (weight * products).sum(1) + torch.einsum("xfl,xfg,xgl->xl", weight, squares, weight)
        self.weight.copy_(weight.permute(2, 1, 0).view(self.weight.shape))
        self.spread.copy_((left / points).clamp_min(1e-12).sqrt().T)

    def _hour(self, inputs: Tensor) -> Tensor:
        return inputs[None, -1:, 0, 0, self.channels : self.channels + 2]


def solved(squares: Tensor, products: Tensor) -> Tensor:
    """Solve normal equations with a little ridge: (..., feature, feature), (..., feature, output)."""
    size = squares.shape[-1]
    mean = squares.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.solve(squares + RIDGE * mean * torch.eye(size, dtype=squares.dtype), products)


def convs5_anomalies(
    rows: int, cols: int, channels: int, extras: int, steps_per_day: float, network: dict[str, Any]
) -> Anomalies:
    """Build `Anomalies` around a ConvS5, which forecasts the next step and streams.

    Args:
        rows: of a frame.
        cols: of a frame.
        channels: that are forecast.
        extras: more input channels.
        steps_per_day: of the data.
        network: the other hyper-parameters of `ConvS5`.
    """
    inner = ConvS5(channels=channels + extras, output_channels=channels, **network)
    nn.init.zeros_(inner.decoder.function.linear.weight)
    return Anomalies(inner, rows, cols, channels, 1, steps_per_day)


def predformer_anomalies(
    time: int, rows: int, cols: int, channels: int, extras: int, steps_per_day: float, network: dict[str, Any]
) -> Anomalies:
    """Build `Anomalies` around a PredFormer, which forecasts as many steps as it sees.

    Args:
        time: steps of the window.
        rows: of a frame; patches beyond it repeat its edge.
        cols: of a frame.
        channels: that are forecast.
        extras: more input channels.
        steps_per_day: of the data.
        network: the other hyper-parameters of `PredFormer`.
    """
    options = {**network, **whole_patches(rows, cols, network), "time": time}
    inner = PredFormer(channels=channels + extras, output_channels=channels, **options)
    nn.init.zeros_(inner.head.linear.weight)
    nn.init.zeros_(inner.head.linear.bias)
    return Anomalies(inner, rows, cols, channels, time, steps_per_day)


def state_space_mixer_anomalies(
    rows: int, cols: int, channels: int, extras: int, steps_per_day: float, network: dict[str, Any]
) -> Anomalies:
    """Build `Anomalies` around a state-space mixer, which forecasts the next step and streams.

    Args:
        rows: of a frame; patches beyond it repeat its edge.
        cols: of a frame.
        channels: that are forecast.
        extras: more input channels.
        steps_per_day: of the data.
        network: the other hyper-parameters of `StateSpaceMixer`.
    """
    options = {**network, **whole_patches(rows, cols, network)}
    inner = StateSpaceMixer(channels=channels + extras, output_channels=channels, **options)
    nn.init.zeros_(inner.head.function.patches.linear.weight)
    nn.init.zeros_(inner.head.function.patches.linear.bias)
    return Anomalies(inner, rows, cols, channels, 1, steps_per_day)


def whole_patches(rows: int, cols: int, network: dict[str, Any]) -> dict[str, int]:
    """Give the patch of a network, and rows and columns that whole patches fill."""
    patch = network.get("patch", 4)
    return {"patch": patch, "rows": -(-rows // patch) * patch, "cols": -(-cols // patch) * patch}
