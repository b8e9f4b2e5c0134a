"""ConvSSM: a state space whose input and output are convolutions, and the layer that ConvS5 stacks.

Smith, De Mello, Kautz, Linderman, Byeon: "Convolutional State Space Models for Long-Range Spatiotemporal Modeling",
NeurIPS 2023 (arXiv 2310.19694). At every pixel

    x_t = A x_(t-1) + B * u_t        A diagonal and pointwise, complex; B, C kernels, complex
    y_t = 2 Re(C * x_t)

of which only one of each pair of conjugate states is kept. A is pointwise, so all steps are one scan. The complex
convolutions are real ones here: of the input to the real and imaginary parts of the state, side by side as complex
numbers lie in memory, and of both parts with the kernels [Re C, -Im C].

Axes: batch time row col channel.
"""

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, at_least
from wavecast.core.frame_layers import (
    EPSILON,
    FrameConvolution,
    FrameGroupNorm,
    check_convolution,
    convolve_frames,
    gelu,
    recomputed,
)
from wavecast.core.hippo import legs_blocks, random_log_steps, truncated_normal, zero_order_hold
from wavecast.core.ops.scan import scan
from wavecast.core.state import State, own, state

DISCRETIZATIONS = ("accurate", "published")
CLIP = -1e-4
"""Largest real part of an eigenvalue that is clipped."""


@state
class FieldState:
    """The state of the system after the last step: (batch, row, col, state, 2), real and imaginary parts."""

    parts: Tensor


class ConvSSM(Block):
    """A diagonal state space over a field: (batch, time, row, col, channel) to the same shape.

    Args:
        channels: of input and output.
        size: of the real state; size / 2 complex numbers stand for it.
        kernel: rows and columns of B and C, odd.
        blocks: the state starts as that many smaller HiPPO matrices.
        clip: keep the real parts of the eigenvalues at or below -0.0001, so that no state grows.
        discretization: "accurate" is a zero-order hold in double precision; "published" computes (exp(z) - 1) in single
            precision as the published models do, which their weights need for the same digits.
        boundary: "zeros" or "longitude", see `convolve_frames`.

    Raises:
        ValueError: there is no such discretization or boundary, the kernel is even, or the size does not split into the
            blocks.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        kernel: int = 3,
        blocks: int = 1,
        clip: bool = True,
        discretization: str = "accurate",
        boundary: str = "zeros",
    ) -> None:
        super().__init__()
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"discretization {discretization!r}\nhint: one of {', '.join(DISCRETIZATIONS)}")
        check_convolution(kernel, boundary)
        self.clip, self.discretization, self.boundary = clip, discretization, boundary
        eigenvalues, vectors = legs_blocks(size, blocks)
        self.eigenvalues_real = nn.Parameter(eigenvalues.real.float())
        self.eigenvalues_imag = nn.Parameter(eigenvalues.imag.float())
        self.log_step = nn.Parameter(random_log_steps(size // 2))
        fan_in = channels * kernel**2
        reads = truncated_normal(size, channels, kernel, kernel, variance=2 / fan_in).to(vectors.dtype)
        self.input_kernel = nn.Parameter(parts_second(torch.einsum("sp, sckl -> pckl", vectors.conj(), reads)))
        fan_in = size * kernel**2
        writes = truncated_normal(channels, size, kernel, kernel, variance=2 / fan_in).to(vectors.dtype)
        kernels = torch.einsum("cskl, sp -> pckl", writes, vectors)
        self.output_kernel = nn.Parameter(parts_second(kernels).permute(2, 0, 1, 3, 4).contiguous())
        self.register_buffer("real_part_of_pair", torch.tensor([2.0, -2.0])[:, None, None], persistent=False)

    def step(self, x: Tensor, state: FieldState | None, last: bool) -> tuple[Tensor, State]:
        """Drive the state by the next frames, and read it out."""
        decay, gain = self.discretized()
        initial = None if state is None else torch.view_as_complex(state.parts)
        driven = at_least(1, lambda x: self.read(x, gain), x)
        states, end = scan(decay, driven, initial)
        return at_least(1, self.write, states), FieldState(own(torch.view_as_real(end)))

    def discretized(self) -> tuple[Tensor, Tensor]:
        """Discretize by a zero-order hold: exp(lambda dt) and (exp(lambda dt) - 1) / lambda, complex, (state,)."""
        real = self.eigenvalues_real.clamp(max=CLIP) if self.clip else self.eigenvalues_real
        eigenvalues = torch.complex(real, self.eigenvalues_imag)
        if self.discretization == "published":
            decay = torch.exp(eigenvalues * self.log_step.exp())
            return decay, (1 / eigenvalues) * (decay - 1)
        return zero_order_hold(eigenvalues, self.log_step.double().exp())

    def read(self, x: Tensor, gain: Tensor) -> Tensor:
        """Convolve the input with the discretized B: (batch, time, row, col, state), complex."""
        turn = torch.stack([torch.stack([gain.real, -gain.imag], 1), torch.stack([gain.imag, gain.real], 1)], 1)
        kernel = (turn @ self.input_kernel.flatten(2)).reshape(-1, *self.input_kernel.shape[2:])
        y = convolve_frames(x, kernel, boundary=self.boundary)
        return torch.view_as_complex(y.unflatten(-1, (len(gain), 2)))

    def write(self, states: Tensor) -> Tensor:
        """Convolve the state with C, and take twice the real part: (batch, time, row, col, channel)."""
        kernel = (self.output_kernel * self.real_part_of_pair).flatten(1, 2)
        return convolve_frames(torch.view_as_real(states).flatten(-2), kernel, boundary=self.boundary)


def parts_second(x: Tensor) -> Tensor:
    """Put real and imaginary parts on axis 1, in single precision."""
    return torch.stack([x.real, x.imag], 1).float()


class Residual(nn.Module):
    """The non-linearity "resnet": a pre-activation residual block; the input u enters through the state alone.

    act(y + convolve(act(norm(convolve(act(norm(y)))))))

    Args:
        channels: in and out.
        kernel: rows and columns of the convolutions, odd.
        groups: of the normalizations.
        boundary: of the convolutions.
    """

    def __init__(self, channels: int, kernel: int, groups: int, boundary: str) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(channels, groups)
        self.convolution1 = FrameConvolution(channels, channels, kernel, boundary)
        self.norm2 = FrameGroupNorm(channels, groups)
        self.convolution2 = FrameConvolution(channels, channels, kernel, boundary)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """Map the output of the system; u is not used."""
        return gelu(y + recomputed(self.second, recomputed(self.first, y)))

    def first(self, y: Tensor) -> Tensor:
        """Normalize, activate, convolve."""
        return self.convolution1(gelu(self.norm1(y)))

    def second(self, h: Tensor) -> Tensor:
        """Normalize, activate, convolve."""
        return self.convolution2(gelu(self.norm2(h)))


class DiagonalResidual(nn.Module):
    """The non-linearity "diag_resnet": act(y + act(norm(convolve(act(norm(y)))))); see `Residual`."""

    def __init__(self, channels: int, kernel: int, groups: int, boundary: str) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(channels, groups)
        self.convolution = FrameConvolution(channels, channels, kernel, boundary)
        self.norm2 = FrameGroupNorm(channels, groups)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """Map the output of the system; u is not used."""
        return gelu(y + recomputed(self.second, recomputed(self.first, y)))

    def first(self, y: Tensor) -> Tensor:
        """Normalize, activate, convolve."""
        return self.convolution(gelu(self.norm1(y)))

    def second(self, h: Tensor) -> Tensor:
        """Normalize, activate."""
        return gelu(self.norm2(h))


class Feedthrough(nn.Module):
    """The non-linearity "standard": act(norm(y + D * u)), the paper's form; see `Residual`."""

    def __init__(self, channels: int, kernel: int, groups: int, boundary: str) -> None:
        super().__init__()
        self.convolution = FrameConvolution(channels, channels, kernel, boundary)
        self.norm = FrameGroupNorm(channels, groups)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """Join the output of the system and its input."""
        return gelu(self.norm(y + self.convolution(u)))


class HalfGate(nn.Module):
    """The non-linearity "half_glu": x = act(norm(y)) over channels, then x * sigmoid(W x + b); see `Residual`."""

    def __init__(self, channels: int, kernel: int, groups: int, boundary: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, EPSILON)
        self.gate = nn.Linear(channels, channels)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """Map the output of the system; u is not used."""
        x = gelu(self.norm(y))
        return x * torch.sigmoid(self.gate(x))


NONLINEARITIES: dict[str, type[nn.Module]] = {
    "resnet": Residual,
    "diag_resnet": DiagonalResidual,
    "standard": Feedthrough,
    "half_glu": HalfGate,
}


class ConvS5Layer(Block):
    """A layer of ConvS5: norm(u + f(system(u))), normalized over channels; (batch, time, row, col, channel) to alike.

    Args:
        channels: in and out.
        size: of the real state.
        kernel: rows and columns of all convolutions, odd.
        blocks: of the initial state matrix.
        nonlinearity: f: "resnet" (all published models), "diag_resnet", "standard" or "half_glu".
        groups: of the group normalizations in f.
        clip: the eigenvalues, see `ConvSSM`.
        discretization: see `ConvSSM`.
        boundary: "zeros" or "longitude", see `convolve_frames`.

    Raises:
        ValueError: there is no such non-linearity, or an argument does not suit the system.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        kernel: int = 3,
        blocks: int = 1,
        nonlinearity: str = "resnet",
        groups: int = 32,
        clip: bool = True,
        discretization: str = "accurate",
        boundary: str = "zeros",
    ) -> None:
        super().__init__()
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"non-linearity {nonlinearity!r}\nhint: one of {', '.join(NONLINEARITIES)}")
        self.system = ConvSSM(channels, size, kernel, blocks, clip, discretization, boundary)
        self.nonlinearity = NONLINEARITIES[nonlinearity](channels, kernel, groups, boundary)
        self.norm = nn.LayerNorm(channels, EPSILON)

    def step(self, x: Tensor, state: FieldState | None, last: bool) -> tuple[Tensor, State]:
        """Run the system on, and map what it gives frame by frame."""
        y, state = self.system.step(x, state, last)
        if not x.shape[1]:
            return y, state
        return self.norm(x + self.nonlinearity(y, x)), state
