"""Where to compute."""

import torch

from wavecast.core.errors import WavecastError


def choose_device(name: str) -> torch.device:
    """Choose where to compute.

    Raises:
        WavecastError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise WavecastError(f"there is no device {name!r}", "give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WavecastError(f"no {name} here: {torch.cuda.device_count()} CUDA devices", "give --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise WavecastError(f"device {name!r} is not supported", "give auto, cpu, cuda or cuda:N")
    return device
