"""Published forecasters as models for video and arrays: what the authors' code writes, and what its files do not tell.

ConvS5's Moving-MNIST weights are a flax training state (`convs5_official`), PredFormer's a pickle of tensors
(`predformer_official`). Neither says for how many frames and of what size it was trained.
"""

from pathlib import Path

from torch import nn

from wavecast.apps.forecasting import convs5_official, predformer_official
from wavecast.apps.forecasting.flax_checkpoint import read_checkpoint
from wavecast.apps.forecasting.predformer import VARIANTS
from wavecast.apps.forecasting.video_format import VideoFormat
from wavecast.cards import Card, build_network, load_pickle, load_strict, sha256
from wavecast.core.errors import WavecastError
from wavecast.optimization import plain


def read_convs5(path: Path, time: int, rows: int, cols: int) -> tuple[Card, nn.Module]:
    """Read a flax checkpoint of ConvS5.

    Args:
        path: of the file.
        time: frames of its history, and of its forecast.
        rows: of a frame.
        cols: of a frame.

    Returns:
        The card, which names no weights yet, and the filled network.

    Raises:
        WavecastError: the file is no such checkpoint.
    """
    arrays = convs5_official.parameters(read_checkpoint(path))
    options = convs5_official.hyperparameters(arrays)
    made_for = VideoFormat(rows, cols, options["channels"], time, time, "symmetric")
    card = card_of(path, "convs5", options, made_for)
    network = build_network(card)
    load_strict(network, convs5_official.convert_state(arrays), str(path))
    return card, network.eval()


def read_predformer(
    path: Path, time: int, rows: int, cols: int, variant: str | None, patch: int | None, heads: int
) -> tuple[Card, nn.Module]:
    """Read a checkpoint of PredFormer's authors.

    Args:
        path: of the file.
        time: frames of its window.
        rows: of a frame.
        cols: of a frame.
        variant: of the network that was trained.
        patch: side of a patch.
        heads: of attention.

    Returns:
        The card, which names no weights yet, and the filled network.

    Raises:
        WavecastError: the file is no such checkpoint, does not fit, or variant and patch are not given.
    """
    if variant is None or patch is None:
        raise WavecastError(
            f"{path.name} does not tell which PredFormer it is",
            f"give --patch, and --variant: one of {', '.join(VARIANTS)}",
        )
    tensors = predformer_official.unwrap(load_pickle(path))
    network = predformer_official.from_official(
        tensors, variant, time=time, rows=rows, cols=cols, patch=patch, heads=heads
    )
    options = predformer_official.hyperparameters(tensors, variant, patch, heads)
    options |= {"time": time, "rows": rows, "cols": cols, "legacy_layout": variant == "fac_st"}
    made_for = VideoFormat(rows, cols, network.outputs, time, time, "unit")
    return card_of(path, "predformer", options, made_for), network


def card_of(path: Path, architecture: str, options: dict[str, object], made_for: VideoFormat) -> Card:
    """Make the card of such a file, named after it."""
    return Card(
        f"{architecture}.{path.stem}",
        architecture,
        "forecast",
        plain(options),
        fields=made_for.plain(),
        license="of its authors",
        origin=f"{path.name} of sha256 {sha256(path)}, in the format of the authors' code",
    )
