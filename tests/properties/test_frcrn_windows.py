"""Windows over whole-signal networks: every length, any pushes, bounded input, levels and padding."""

from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from wavecast.apps.enhancement.frcrn import FRCRN, official_padding
from wavecast.apps.enhancement.frcrn_fast import FastFRCRN
from wavecast.apps.enhancement.frcrn_windows import LEVEL, official_gain, pass_bytes
from wavecast.core.block import Block
from wavecast.core.state import State
from wavecast.core.windows import Windows

SECOND = 16000
CONTEXT, FADE = FRCRN.plan.context, FRCRN.plan.fade
WINDOW = 4 * SECOND
STEP = WINDOW - 2 * CONTEXT - FADE


class Recorder(Block):
    """Doubles the signal, except near the ends of what it is given; notes the lengths."""

    lookahead = inf

    def __init__(self, spoiled: int = 0) -> None:
        super().__init__()
        self.spoiled = spoiled
        self.lengths: list[int] = []

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        self.lengths.append(x.shape[1])
        y = 2 * x
        if self.spoiled and x.shape[1] > 2 * self.spoiled:
            y[:, : self.spoiled] = 9
            y[:, -self.spoiled :] = 9
        return y, ()


def windows(network: Block, gain: Tensor | None = None, seconds: float = 30, whole: bool = False) -> Windows:
    return Windows(network, FRCRN.plan.lasting(seconds, SECOND), gain, whole=whole)


def through(windows: Windows, x: Tensor, size: int) -> Tensor:
    pieces = [piece for part in x.split(size, 1) for piece in windows.push(part)] if x.shape[1] else []
    return torch.cat([x[:, :0], *pieces, *windows.flush()], 1)


LENGTHS = [0, 1, 319, SECOND, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + STEP, WINDOW + STEP + 1, 3 * WINDOW + 777]


@pytest.mark.parametrize("samples", LENGTHS)
def test_every_length_comes_back_whole(samples: int) -> None:
    """No silent tail, no short output, for any cut of the input; nothing longer than a window is ever given."""
    x = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    outputs = []
    for size in (10**6, 7777):
        network = Recorder().eval()
        outputs.append(through(windows(network, seconds=4), x, size))
        torch.testing.assert_close(outputs[-1], 2 * x)
        assert all(length <= WINDOW + 640 + 28000 for length in network.lengths)
        if samples > WINDOW:
            assert max(network.lengths) == WINDOW + 640
            assert min(network.lengths) >= WINDOW + 640 - 319
    assert torch.equal(*outputs)


def test_context_hides_the_ends_of_windows() -> None:
    """What a window says about its first and last half second is not heard, except at the ends of the signal."""
    x = torch.randn(1, 4 * WINDOW + 100)
    y = through(windows(Recorder(CONTEXT).eval(), seconds=4), x, 50000)
    inner = slice(CONTEXT, -CONTEXT - 320)
    torch.testing.assert_close(y[:, inner], 2 * x[:, inner])


def test_whole_is_one_pass() -> None:
    network = Recorder().eval()
    x = torch.randn(1, 3 * WINDOW)
    torch.testing.assert_close(through(windows(network, seconds=4, whole=True), x, 30000), 2 * x)
    assert network.lengths == [640 + 3 * WINDOW + official_padding(3 * WINDOW)]


def test_a_flushed_object_begins_anew() -> None:
    stream = windows(Recorder().eval(), seconds=4)
    x = torch.randn(1, 2 * WINDOW)
    assert torch.equal(through(stream, x, 9999), through(stream, x, 9999))


def test_gain_goes_in_and_comes_out() -> None:
    class Loud(Recorder):
        def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
            self.peaks = x.abs().amax(1)
            return x, ()

    network = Loud().eval()
    x = torch.ones(2, 1000) * torch.tensor([[0.5], [0.01]])
    y = through(windows(network, torch.tensor([2.0, 100.0])), x, 1000)
    torch.testing.assert_close(network.peaks, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(y, x)


def test_training_mode_and_short_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        windows(Recorder())
    with pytest.raises(ValueError, match=r"too short\nhint: at least 3\.0 s"):
        windows(Recorder().eval(), seconds=2)


def gain_as_specified(x: np.ndarray) -> float:
    """The official decoder's rule, literally."""
    first = LEVEL / (np.sqrt(np.mean(x**2)) + 1e-6)
    power = (x * first) ** 2
    return first * LEVEL / (np.sqrt(power[power > power.mean()].mean()) + 1e-6)


def test_the_level_is_the_official_one() -> None:
    draw = np.random.default_rng(0)
    x = (draw.standard_normal((3, 50000)) * np.linspace(0, 1, 50000) * [[0.9], [0.01], [0.2]]).astype(np.float32)
    gains = official_gain(lambda: iter(np.array_split(x, 7, axis=1)))
    np.testing.assert_allclose(gains, [gain_as_specified(row.astype(np.float64)) for row in x], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_the_level_of_silence_and_constants_is_finite(value: float) -> None:
    x = np.full((1, 1000), value, np.float32)
    gain = official_gain(lambda: iter([x]))
    assert np.isfinite(gain).all()
    if value:
        np.testing.assert_allclose(gain * abs(value), LEVEL, rtol=1e-4)
    assert np.isfinite(official_gain(lambda: iter([x[:, :0]]))).all()


def test_padding_is_the_official_one() -> None:
    """At least a second; then to a second and three quarters; then a second and the remainder, or nothing."""
    assert [official_padding(n) for n in (1, 16000, 27999, 28000, 28001, 39999, 40000)] == [
        15999,
        12000,
        1,
        0,
        16001,
        27999,
        0,
    ]


def test_silence_stays_silent_and_the_network_is_used() -> None:
    """A small network end to end: silence gives silence and no NaN, a signal of several windows comes back whole."""
    torch.manual_seed(0)
    network = FastFRCRN(FRCRN(4, taps=5, reduction=2).eval())
    silence = torch.zeros(1, SECOND)
    gain = torch.from_numpy(official_gain(lambda: iter([silence.numpy()])))
    assert torch.equal(through(windows(network, gain), silence, 4000), silence)
    x = torch.randn(1, 9 * SECOND)
    y = through(windows(network, seconds=4), x, 10000)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()


def test_memory_is_estimated_to_grow_with_time() -> None:
    assert pass_bytes(60) < 2.5e9 < pass_bytes(600)
