"""Triton's interpreter, for tests of kernels on a machine without a GPU.

The interpreter must be asked for (TRITON_INTERPRET=1) before Triton is imported, so tests in it run in a process of
their own: `interpret` runs a file of them. fp32 only: the interpreter's bf16 is broken.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
EMPTY, FULL = torch.empty, torch.full


def interpret(file):
    """Run the tests of a file below tests/kit in the interpreter, and fail as they do."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/kit/{file}"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def poisoned(*shape, **options):
    """Stand in for torch.empty: what a kernel forgets to write stays NaN."""
    return FULL(EMPTY(*shape, device="meta").shape, torch.nan, **options)


def generated(*shape, seed, dtype=torch.float32):
    """Give a standard normal tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
