"""Tiny spotters whose logits are known: their words are tones."""

from pathlib import Path

import numpy as np
import torch

from wavecast.cards import Card, build_network, save_model

RATE = 16_000
BANDS = {"low": (1, 553), "high": (3, 1478), "_unknown_": (6, 4306)}
"""Words: the band of eight that each is heard in, and the frequency at its middle in hertz."""
SIZES = {"mels": 8, "width": 8, "order": 4, "expansion": 1}


def write_spotter(folder: Path, name: str = "tones", rejects: bool = True, decision: dict | None = None) -> Path:
    """Write a model that hears tones.

    The logit of a word is 16 times the share of the window's frames in which its tone is heard, less 4: a quarter of
    them makes a posterior of 1/2.

    Args:
        folder: for it.
        name: after "lmuformer.".
        rejects: it has the classes "_unknown_" and "_silence_", too; the latter is not heard in anything.
        decision: of the card.

    Returns:
        The path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = ("_unknown_", "low", "high", "_silence_") if rejects else ("low", "high")
    sizes = {**SIZES, "classes": len(classes)}
    card = Card(
        f"lmuformer.{name}",
        "lmuformer",
        "spot",
        sizes,
        RATE,
        classes,
        decision=decision or {},
        block=1280,
        latency_ms=80.0,
    )
    network = build_network(card)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # Of a band that sounds the standardized logarithm is above 0, so the last two layers hear 1, in silence 0.
        for i, (weight, bias) in enumerate([(-1000, 1), (-1, 1), (1, 0), (1, 0)]):
            layer = network.embedding.get_submodule(f"layer{i}")
            layer.convolution.weight[:, :, 1] = torch.eye(8)
            layer.norm.function.weight.fill_(weight)
            layer.norm.function.bias.fill_(bias)
        for row, word in enumerate(classes):
            network.head.function.bias[row] = -4
            if word in BANDS:
                network.head.function.weight[row, BANDS[word][0]] = 16
    return save_model(network, card, folder).file


def tone(word: str, seconds: float, rate: int = RATE, amplitude: float = 0.3) -> np.ndarray:
    """Make the tone of a word: float32 (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * BANDS[word][1] * time)).astype(np.float32)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    """Make silence: float32 (samples,)."""
    return np.zeros(round(seconds * rate), np.float32)
