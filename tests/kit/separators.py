"""Tiny separators of random weights, as files."""

from pathlib import Path

import torch

from wavecast.cards import Card, build_network, save_model

SIZES = {"channels": 16, "kernel": 16, "layers": 1, "width": 16, "hidden": 32, "attention": 8, "group": 16, "inner": 8}


def write_separator(
    folder: Path,
    name: str = "two",
    speakers: int = 2,
    silent: tuple[int, ...] = (),
    causal: bool = False,
    rate: int = 8000,
    window_seconds: float = 3.0,
) -> Path:
    """Write a model.

    Args:
        folder: for it.
        name: after "mossformer2.".
        speakers: outputs.
        silent: outputs that stay silent whatever comes in; all sound is in the others.
        causal: it streams.
        rate: of it in hertz.
        window_seconds: longest recording that takes one pass.

    Returns:
        The path of the weights.
    """
    sizes = {**SIZES, "speakers": speakers, "causal": causal}
    card = Card(
        f"mossformer2.{name}", "mossformer2", "separate", sizes, rate, block=512 * causal, window_seconds=window_seconds
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(card)
    state = network.state_dict()
    (split,) = [key for key in state if key.endswith("split.weight")]
    (content,) = [key for key in state if key.endswith("content.bias")]
    state[content].zero_()
    for one in silent:
        for part in (split, split.replace("weight", "bias")):
            state[part].unflatten(0, (speakers, -1))[one].zero_()
    return save_model(network, card, folder).file
