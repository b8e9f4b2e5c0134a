"""Who computes an operator: its Triton kernels or its form in plain torch, each imported when it is first needed."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor


def choose(operator: str, x: Tensor) -> ModuleType:
    """Choose the Triton kernels of an operator for a CUDA tensor where Triton is installed, else plain torch.

    Args:
        operator: name of its folder.
        x: that it is applied to.
    """
    return form(operator, "triton" if x.is_cuda and has_triton() else "cpu")


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed; it is imported with the first CUDA tensor, not before."""
    return find_spec("triton") is not None


@cache
def form(operator: str, name: str) -> ModuleType:
    """Import a form of an operator: "triton" or "cpu"."""
    return import_module(f"wavecast.core.ops.{operator}.{name}")
