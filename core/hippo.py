"""How diagonal state spaces begin, and how they become discrete.

HiPPO gives the eigenvalues that make a state space remember its past as Legendre polynomials.

Gu, Dao, Ermon, Re: "HiPPO: Recurrent Memory with Optimal Polynomial Projections", 2020. Its normal part, and the split
into blocks: Smith, Warrington, Linderman: "Simplified State Space Layers for Sequence Modeling" (S5), 2023.
"""

import math

import numpy as np
import torch
from torch import Tensor

SHORTEST_STEP, LONGEST_STEP = 1e-3, 0.1


def legs_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonalize the normal part of HiPPO-LegS; of every conjugate pair the half with negative imaginary part is kept.

    Args:
        size: of the real state, even.

    Returns:
        Eigenvalues (size / 2,), their imaginary parts ascending, and orthonormal eigenvectors (size, size / 2); both
        complex128.

    Raises:
        ValueError: the size is odd or below 2.
    """
    if size < 2 or size % 2:
        raise ValueError(f"a HiPPO block of size {size}\nhint: take an even size, for pairs of conjugate eigenvalues")
    order = np.arange(size)
    root = np.sqrt(1 + 2 * order)
    legs = -(np.tril(np.outer(root, root)) - np.diag(order))
    rank_one = np.sqrt(order + 0.5)
    normal = legs + np.outer(rank_one, rank_one)
    imaginary, vectors = np.linalg.eigh(-1j * normal)
    eigenvalues = np.diagonal(normal).mean() + 1j * imaginary
    return eigenvalues[: size // 2], vectors[:, : size // 2]


def legs_blocks(size: int, blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Diagonalize several smaller HiPPO-LegS matrices side by side.

    Args:
        size: of the real state over all blocks.
        blocks: of size / blocks each.

    Returns:
        Eigenvalues (size / 2,) and eigenvectors (size, size / 2), block-diagonal; complex128.

    Raises:
        ValueError: the size does not split into blocks of even size.
    """
    if blocks < 1 or size % blocks:
        raise ValueError(f"a state of size {size} in {blocks} blocks\nhint: the blocks must divide the size")
    eigenvalues, vectors = legs_normal(size // blocks)
    return torch.from_numpy(np.tile(eigenvalues, blocks)), torch.from_numpy(np.kron(np.eye(blocks), vectors))


def zero_order_hold(eigenvalues: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Discretize x' = lambda x + u for an input that is constant within a step, in double precision.

    Args:
        eigenvalues: complex, with a real part below zero.
        steps: real, of the same shape.

    Returns:
        exp(lambda dt), the factor of the state, and (exp(lambda dt) - 1) / lambda, that of the input; in the dtype of
        the eigenvalues.
    """
    wide = eigenvalues.to(torch.complex128)
    exponent = wide * steps
    return exponent.exp().to(eigenvalues.dtype), (torch.expm1(exponent) / wide).to(eigenvalues.dtype)


def bilinear(eigenvalues: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Discretize x' = lambda x + u by the trapezoidal rule; arguments and results as in `zero_order_hold`."""
    half = eigenvalues.to(torch.complex128) * steps / 2
    return ((1 + half) / (1 - half)).to(eigenvalues.dtype), (steps / (1 - half)).to(eigenvalues.dtype)


def random_log_steps(*shape: int) -> Tensor:
    """Draw logarithms of time steps, uniform between those of 0.001 and 0.1: slow and fast states side by side."""
    return torch.empty(*shape).uniform_(math.log(SHORTEST_STEP), math.log(LONGEST_STEP))


def truncated_normal(*shape: int, variance: float) -> Tensor:
    """Draw from a normal distribution cut off at two standard deviations, of the given variance after the cut."""
    spread = math.sqrt(variance) / 0.87962566103423978
    return torch.nn.init.trunc_normal_(torch.empty(*shape), std=spread, a=-2 * spread, b=2 * spread)
