"""The rule that fills the networks of the parity fixtures: every tensor from a generator seeded by its own name.

Fixtures were recorded from reference implementations filled by this rule; NAME.json lists official names and shapes.
"""

import json
import zlib
from pathlib import Path

import numpy as np


def seeded_tensor(name: str, shape: tuple[int, ...], dtype: str, salt: int = 0) -> np.ndarray:
    """Draw one parameter; the order of names does not matter."""
    if dtype.startswith("int"):
        return np.zeros(shape, dtype)
    draw = np.random.default_rng([zlib.crc32(name.encode()), salt])
    if name.endswith("running_var"):
        value = 0.8 + 0.4 * draw.random(shape)
    elif name.endswith(("running_mean", "bias", "beta", ".bias_ih_l0", ".bias_hh_l0")):
        value = 0.1 * draw.standard_normal(shape)
    elif len(shape) <= 1:
        value = 0.5 + 0.5 * draw.random(shape)
    else:
        value = 1.2 * draw.standard_normal(shape) / np.sqrt(int(np.prod(shape[1:])))
    return value.astype(dtype)


def seeded_state(manifest: Path, salt: int = 0) -> dict[str, np.ndarray]:
    """Draw all parameters that a manifest lists as [name, shape, dtype]."""
    entries = json.loads(manifest.read_text())["parameters"]
    return {name: seeded_tensor(name, tuple(shape), dtype, salt) for name, shape, dtype in entries}


def moderate_frcrn(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale a seeded FRCRN so that neither its gates nor its masks saturate, and rounding stays rounding.

    The plain rule gives activations of 1e5 and mask values of 1e10 before tanh: whatever their sign, it flips with
    the last bit somewhere, in the reference itself too.
    """
    gains = {"unet.linear": 5e-6, "unet2.linear": 4e-5}

    def gain(name: str) -> float:
        if "se_layer" in name and name.endswith(".0.weight"):
            return 1e-3
        return next((gain for start, gain in gains.items() if name.startswith(start) and name.endswith("weight")), 1)

    return {name: value if gain(name) == 1 else value * np.float32(gain(name)) for name, value in state.items()}


def seeded_signal(samples: int, salt: int = 0) -> np.ndarray:
    """Draw a test signal at 16 kHz: three gliding tones under a slow envelope, plus noise; float32 (samples,)."""
    draw = np.random.default_rng([20261122, salt])
    t = np.arange(samples) / 16000.0
    glides = ((0.20, 180, 40), (0.10, 620, -55), (0.05, 2100, 160))
    tones = sum(a * np.sin(2 * np.pi * (f * t + g * t * t)) for a, f, g in glides)
    envelope = 0.5 * (1 + np.sin(2 * np.pi * 1.7 * t + salt))
    return (tones * envelope + 0.02 * draw.standard_normal(samples)).astype(np.float32)
