"""Diagonal state spaces along time: S5, whose channels share one state, and S4D, one state for every channel.

Smith, Warrington, Linderman: "Simplified State Space Layers for Sequence Modeling" (S5), ICLR 2023. Gu, Gupta, Goel,
Re: "On the Parameterization and Initialization of Diagonal State Space Models" (S4D), NeurIPS 2022. Both are made
discrete in double precision, and keep one of each pair of conjugate states. Axes: batch time channel.
"""

import math

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain
from wavecast.core.hippo import bilinear, legs_blocks, random_log_steps, truncated_normal, zero_order_hold
from wavecast.core.ops.scan import scan
from wavecast.core.state import State, own, state

DISCRETIZATIONS = {"zoh": zero_order_hold, "bilinear": bilinear}
TILE = 256  # steps of one convolution: what it needs stays small for any length


@state
class Modes:
    """The complex state after the last step, its real and imaginary parts on the last axis.

    parts: (batch, state, 2) of S5, (batch, channel, state, 2) of S4D.
    """

    parts: Tensor


class S5(Block):
    """A diagonal state space with many inputs and outputs: (batch, time, channel) to the same shape.

        x_t = A x_(t-1) + B u_t        y_t = 2 Re(C x_t) + D u_t        A diagonal, D diagonal and real

    Args:
        channels: of input and output.
        size: of the real state; size / 2 complex numbers stand for it.
        blocks: the state starts as that many smaller HiPPO matrices.
        discretization: "zoh" or "bilinear".

    Raises:
        ValueError: there is no such discretization, or the size does not split into the blocks.
    """

    def __init__(self, channels: int, size: int, blocks: int = 1, discretization: str = "zoh") -> None:
        super().__init__()
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"discretization {discretization!r}\nhint: one of {', '.join(DISCRETIZATIONS)}")
        self.discretize = DISCRETIZATIONS[discretization]
        eigenvalues, vectors = legs_blocks(size, blocks)
        self.eigenvalues_real = nn.Parameter(eigenvalues.real.float())
        self.eigenvalues_imag = nn.Parameter(eigenvalues.imag.float())
        self.log_step = nn.Parameter(random_log_steps(size // 2))
        reads = truncated_normal(size, channels, variance=1 / channels).to(vectors.dtype)
        self.input = nn.Parameter(torch.view_as_real(vectors.conj().T @ reads).float())
        writes = truncated_normal(channels, size, variance=1 / size).to(vectors.dtype)
        self.output = nn.Parameter(torch.view_as_real(writes @ vectors).float())
        self.feedthrough = nn.Parameter(torch.randn(channels))

    def step(self, x: Tensor, state: Modes | None, last: bool) -> tuple[Tensor, State]:
        """Drive the state by the next steps, and read it out."""
        eigenvalues = torch.complex(self.eigenvalues_real, self.eigenvalues_imag)
        decay, gain = self.discretize(eigenvalues, self.log_step.double().exp())
        kernel = torch.view_as_real(gain[:, None] * torch.view_as_complex(self.input))
        driven = torch.einsum("btc, scp -> btsp", x, kernel).contiguous()
        initial = None if state is None else torch.view_as_complex(state.parts)
        states, end = scan(decay, torch.view_as_complex(driven), initial)
        # Twice the real part of a product of complex numbers: real parts less imaginary parts.
        pairs = self.output * self.output.new_tensor([2.0, -2.0])
        y = torch.einsum("btsp, csp -> btc", torch.view_as_real(states), pairs)
        return y + self.feedthrough * x, Modes(own(torch.view_as_real(end)))


class S4D(Block):
    """A diagonal state space for every channel alone: (batch, time, channel) to the same shape.

        x_t = A x_(t-1) + u_t        y_t = 2 Re(C B x_t) + D u_t        by channel; A and B from a zero-order hold

    It is a convolution of u with 2 Re(sum over n of C_n B_n A_n^k), computed as one, a tile of steps at a time; the
    state carries over what came before the tile. The initial eigenvalues are -1/2 + i pi n (S4D-Lin).

    Args:
        channels: of input and output.
        size: of the real state of a channel, even; size / 2 complex numbers stand for it.
    """

    def __init__(self, channels: int, size: int = 64) -> None:
        super().__init__()
        count = size // 2
        self.log_decay = nn.Parameter(torch.full((channels, count), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(count).float().repeat(channels, 1))
        self.log_step = nn.Parameter(random_log_steps(channels, 1))
        self.output = nn.Parameter(torch.randn(channels, count, 2) * math.sqrt(0.5))
        self.feedthrough = nn.Parameter(torch.randn(channels))

    def step(self, x: Tensor, state: Modes | None, last: bool) -> tuple[Tensor, State]:
        """Convolve tile by tile."""
        eigenvalues = torch.complex(-self.log_decay.exp(), self.frequency)
        _, gain = zero_order_hold(eigenvalues, self.log_step.double().exp())
        weight = 2 * gain * torch.view_as_complex(self.output)
        steps = torch.arange(min(TILE, x.shape[1]) + 1, device=x.device)
        exponent = eigenvalues.to(torch.complex128) * self.log_step.double().exp()
        powers = torch.exp(exponent[..., None] * steps).to(gain.dtype)
        kernel = torch.einsum("cn, cnk -> ck", weight, powers[..., :-1]).real
        if state is None:
            modes = torch.zeros(x.shape[0], *weight.shape, dtype=weight.dtype, device=x.device)
        else:
            modes = torch.view_as_complex(state.parts)
        outputs = [x]
        for tile in x.split(TILE, 1) if x.shape[1] else ():
            n = tile.shape[1]
            before = torch.einsum("bcn, cn, cnk -> bkc", modes, weight, powers[..., 1 : n + 1]).real
            outputs.append(before + convolve(tile, kernel[:, :n]) + self.feedthrough * tile)
            driven = torch.einsum("bkc, cnk -> bcn", tile.to(powers.dtype), powers[..., :n].flip(2))
            modes = powers[..., n] * modes + driven
        return torch.cat(outputs[1:] or outputs, 1), Modes(own(torch.view_as_real(modes)))


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve causally by FFT: (batch, time, channel) with (channel, time), every channel with its own."""
    size = 2 * x.shape[1]
    spectrum = torch.fft.rfft(x, size, 1) * torch.fft.rfft(kernel, size, 1).T
    return torch.fft.irfft(spectrum, size, 1)[:, : x.shape[1]]


class S5Layer(Chain):
    """S5, then GELU, dropout and a gated linear unit; (batch, time, channel) to the same.

    Args:
        channels: of input and output.
        size: of the real state.
        dropout: probability, in training.
    """

    def __init__(self, channels: int, size: int = 64, dropout: float = 0.0) -> None:
        super().__init__(system=S5(channels, size), mix=Frames(gated(channels, dropout)))


class S4DLayer(Chain):
    """S4D, then GELU, dropout and a gated linear unit that joins the channels; (batch, time, channel) to the same.

    Args:
        channels: of input and output.
        size: of the real state of a channel.
        dropout: probability, in training.
    """

    def __init__(self, channels: int, size: int = 64, dropout: float = 0.0) -> None:
        super().__init__(system=S4D(channels, size), mix=Frames(gated(channels, dropout)))


def gated(channels: int, dropout: float) -> nn.Sequential:
    """Build what follows a system: an activation, dropout and a gated linear unit."""
    return nn.Sequential(nn.GELU(), Dropout(dropout), nn.Linear(channels, 2 * channels), nn.GLU())
