"""Tiny recognizers of random weights, as files."""

from pathlib import Path

import torch

from wavecast.cards import Card, build_network, save_model

CLASSES = ("rise", "fall", "turn", "bounce")
SIZES = {
    "lrcn": {"hidden": 8},
    "ts_lstm": {"hidden": 8, "segments": 2},
    "temporal_inception": {"hidden": 8},
    "frame_average": {"hidden": 8},
}


def write_recognizer(
    folder: Path,
    architecture: str = "lrcn",
    name: str = "tiny",
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
    window_seconds: float = 0.0,
    **options: object,
) -> Path:
    """Write a model that sees pictures and their differences, and changes its mind easily.

    Args:
        folder: for it.
        architecture: "lrcn", "ts_lstm", "temporal_inception" or "frame_average".
        name: after the architecture.
        classes: it tells apart.
        seed: of its weights.
        window_seconds: of the card.
        options: of the architecture.

    Returns:
        The path of its card.
    """
    sizes = {"classes": len(classes), "width": 8, "size": [16, 16], "frames": 8, "modalities": ["rgb", "difference"]}
    settings = sizes | SIZES[architecture] | options
    named = f"{architecture}.{name}"
    card = Card(named, architecture, "recognize", settings, classes=classes, window_seconds=window_seconds)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(card)
        make_sensitive(network)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(network, card, folder)
    return folder / f"{named}.yaml"


@torch.no_grad()
def make_sensitive(network: torch.nn.Module) -> None:
    """Draw the last layer anew, so that clips of different brightness are told apart."""
    last = [one for one in network.modules() if isinstance(one, torch.nn.Linear)][-1]
    seen = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    channels = sum(one.channels for one in network.modalities)
    bright = torch.linspace(0, 1, 8).reshape(8, 1, 1, 1, 1)
    network.eval()(bright * torch.rand(8, network.frames, *network.size, channels))
    hook.remove()
    mean, deviation = seen[0].mean(0), seen[0].std(0).clamp(min=1e-6)
    last.weight.copy_(torch.randn(last.weight.shape) / deviation)
    last.bias.copy_(-last.weight @ mean)
