"""Tests of the recurrent kernels in Triton's interpreter.

`test_recurrent_triton.py` runs this file, see `kit.interpreter`.
"""

import pytest
import torch
from triton.runtime import interpreter

from kit.interpreter import generated, poisoned
from wavecast.core.ops.recurrent import cpu, recurrent
from wavecast.core.ops.recurrent import triton as kernels
from wavecast.core.ops.recurrent.reference import GATES, PARTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton, on its ranges
]
CALL = interpreter.InterpretedFunction.__call__


def call(function: interpreter.InterpretedFunction, *args: object, **options: object) -> object:
    """Call a helper of the kernels without patching Triton's language for it, which takes longer than all the rest."""
    if function.fn.__module__ == kernels.__name__:  # the kernel's launch has patched what it uses
        return function.rewrite()(*args, **options)
    return CALL(function, *args, **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Spare the interpreter what takes it long."""
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)


def compare(kind, batch, time, heads, width, *, bias, peepholes, lengths=None):
    """Compare outputs, last states and all gradients with the form in torch, in double precision."""
    hidden = heads * width
    shapes = [(batch, time, GATES[kind], hidden), (GATES[kind], hidden, width)]
    shapes += [(GATES[kind], hidden)] if bias else []
    shapes += [(3, hidden)] if peepholes else []
    tensors = [generated(*shape, seed=seed) for seed, shape in enumerate([*shapes, (batch, PARTS[kind], hidden)])]
    if kind == "slstm":  # a state that the operator gives: rows begun, and one that is new
        tensors[-1][:, 2] = 1 + tensors[-1][:, 2].abs()
        tensors[-1][0] = 0
    results = []
    for used in (kernels, cpu):
        inputs = [x.double() if used is cpu else x.clone() for x in tensors]
        x, weight, *others, initial = [one.requires_grad_() for one in inputs]
        first, second = others[0] if bias else None, others[-1] if peepholes else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("wavecast.core.ops.recurrent.backend", lambda x, used=used: used)
            if used is kernels:
                patch.setattr(torch, "empty", poisoned)
            y = recurrent(kind, x, weight, first, second, initial, lengths)
            with torch.no_grad():
                again = recurrent(kind, x, weight, first, second, initial, lengths)
            grads = [generated(*one.shape, seed=9).to(one.dtype) for one in y]
            results.append([*y, *again, *torch.autograd.grad(y, [x, weight, *others, initial], grads)])
    for mine, its in zip(*results, strict=True):
        assert mine.shape == its.shape
        assert (mine - its).abs().max() <= 1e-5 * max(its.abs().max(), 0.3)


@pytest.mark.parametrize(("kind", "peepholes"), [("lstm", False), ("lstm", True), ("gru", False), ("slstm", False)])
def test_equals_the_form_in_torch(kind, peepholes):
    compare(kind, 2, 5, 2, 3, bias=True, peepholes=peepholes)
    compare(kind, 3, 4, 1, 17, bias=False, peepholes=peepholes, lengths=torch.tensor([2, 0, 4]))
    compare(kind, 1, 1, 1, 1, bias=True, peepholes=peepholes)


@pytest.mark.parametrize("kind", list(GATES))
def test_wide_heads_walk_in_torch(kind, monkeypatch):
    monkeypatch.setattr(kernels, "WIDEST", 2)
    monkeypatch.setattr(kernels, "walk_kernel", None)
    monkeypatch.setattr(kernels, "walk_back_kernel", None)
    compare(kind, 2, 3, 2, 3, bias=True, peepholes=False)
