"""How a fresh transcriber begins: at the frequencies of its classes, and hearing what it is given.

With torch's default weights, and at a learning rate that suits it later, a fresh FastConformer is driven to the same
output at every frame within some dozen steps, and stays there.
"""

import numpy as np
import torch
from torch import Tensor, nn

FEATURE_MEAN, FEATURE_DEVIATION = -11.5, 4.0
"""Of log-mel features of speech between -45 and -15 dB, as measured on augmented speech of the corpus."""
SMALLEST_DEVIATION = 1e-3
"""Below it, a channel says nothing, and is not blown up."""


@torch.no_grad()
def set_prior(head: nn.Linear, tokens: np.ndarray, blanks: float) -> None:
    """Set the bias of a fresh output layer to the logarithm of how often each class occurs, the blank last."""
    counts = np.append(tokens + 0.5, max(blanks, 1.0))
    head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


@torch.no_grad()
def start_hearing(network: nn.Module, centered: bool) -> None:
    """Let the convolutions of a fresh network keep the sound (He et al. 2015).

    With torch's default weights it shrinks at every stage, until the biases drown it: the output is the same for every
    utterance, and what stands behind learns nothing.

    Args:
        network: its convolutions over time and frequency, the first on log-mel features.
        centered: the features have mean 0 and deviation 1; else those of FEATURE_MEAN and FEATURE_DEVIATION.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
    if not centered:
        center_inputs(convolutions[0], FEATURE_MEAN, FEATURE_DEVIATION)


@torch.no_grad()
def center_inputs(convolution: nn.Conv2d, mean: float, deviation: float) -> None:
    """Let a fresh convolution give what it would give for inputs of mean 0 and deviation 1."""
    convolution.weight /= deviation
    convolution.bias -= mean * convolution.weight.sum((1, 2, 3))


@torch.no_grad()
def standardize_frames(network: nn.Module, sound: Tensor, lengths: Tensor) -> None:
    """Let what enters the layers have mean 0 and deviation 1 in every channel (Krähenbühl et al. 2016).

    What is the same in every frame is what a network follows first, since its gradients add up.

    Args:
        network: a FastConformer; the last linear map of its subsampling is changed.
        sound: a batch of training (batch, samples).
        lengths: valid samples (batch,).
    """
    features, subsampling = network.get_submodule("features"), network.get_submodule("encoder.subsampling")
    x, _ = features(sound, lengths=lengths)
    lengths = features.out_length(lengths)
    frames, _ = subsampling(x, lengths=lengths)
    valid = torch.arange(frames.shape[1]) < subsampling.out_length(lengths)[:, None]
    mean, deviation = frames[valid].mean(0), frames[valid].std(0, correction=0).clamp(min=SMALLEST_DEVIATION)
    out = subsampling.out.function
    out.bias.copy_((out.bias - mean) / deviation)
    out.weight /= deviation[:, None]
