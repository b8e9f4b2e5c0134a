"""Files of official weights: fetched, found in their folders, read out of their wrappers, and told apart."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavecast.cards import Card, build_network, cache_folder, load_pickle, load_strict, sha256
from wavecast.core.errors import WavecastError, listed
from wavecast.official import PARTS, Official
from wavecast.official_state import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

POINTERS = ("last_best_checkpoint", "last_checkpoint")
"""Text files of official folders whose first line names the file of the weights."""
WEIGHTS = (".pt", ".bin", ".safetensors", ".ckpt", ".nemo")
"""What files of weights end in."""
BEGINNINGS = {
    "unet": "frcrn",
    "mossformer.": "mossformer2_48k",
    "mask_net.": "mossformer2",
    "masknet.": "mossformer2",
    "patch_embed.conv_layers.": "lmuformer",
    "patch_embed.proj_": "spiking_lmuformer",
}
"""How official names of tensors begin, and the architecture of ours that they load into."""
CONVERTERS = {
    "frcrn": "wavecast.apps.enhancement.frcrn_official",
    "lmuformer": "wavecast.apps.keywords.lmuformer_official",
    "mossformer2": "wavecast.apps.separation.mossformer2_official",
    "mossformer2_48k": "wavecast.apps.enhancement.mossformer2_48k_official",
    "spiking_lmuformer": "wavecast.apps.keywords.lmuformer_official",
}
"""Who knows the official names of an architecture."""
MODELSCOPE = "https://modelscope.cn/models"
NOT_FOUND = 404


def fetch(name: str, official: Official, quiet: bool = False) -> Path:
    """Download pinned files, or find them in the cache; a broken download is continued the next time.

    Returns:
        The file, or the folder of several that belong together.

    Raises:
        WavecastError: they cannot be had; the hint says how to bring them by other means.
    """
    import huggingface_hub

    folder = cache_folder().parent / "hub" / official.folder
    choices = [official.files, (official.otherwise,)] if official.otherwise else [official.files]
    for files in choices:
        if all((folder / file).exists() for file in files):
            return folder / files[0] if len(files) == 1 else folder
    if quiet:
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.utils.logging.set_verbosity_error()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        files = _download(official, choices, folder)
    except Exception as error:  # the hub's client passes on whatever its transport raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = "FILE" if len(official.files) == 1 else "FOLDER"
        raise WavecastError(
            f"cannot fetch {name}: {reason}",
            f"check the network and try again (it goes on where it stopped), or bring {', '.join(official.files)} of "
            f"{official.repository} from elsewhere: wavecast models pull {name} --weights {given}",
        ) from error
    return folder / files[0] if len(files) == 1 else folder


def _download(official: Official, choices: list[tuple[str, ...]], folder: Path) -> tuple[str, ...]:
    """Download the first choice of files that the repository has."""
    from huggingface_hub.file_download import http_get

    for files in choices:
        try:
            for file in files:
                part = folder / f"{file}.part"
                if (folder / file).exists():
                    continue
                with part.open("ab") as target:
                    if not official.bytes or target.tell() < official.bytes:
                        http_get(address(official, file), target, resume_size=target.tell())
                part.replace(folder / file)
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status != NOT_FOUND or files == choices[-1]:
                raise
        else:
            return files
    return choices[-1]


def address(official: Official, file: str) -> str:
    """Give the URL of a file."""
    import huggingface_hub

    if official.hub == "modelscope":
        return f"{MODELSCOPE}/{official.repository}/resolve/{official.revision}/{file}"
    return huggingface_hub.hf_hub_url(official.repository, file, revision=official.revision)


def official_file(path: Path) -> Path:
    """Find the weights: a file, or a folder with a text file that names them, or with one file of weights.

    Returns:
        The file, or the folder of the three files that belong together.

    Raises:
        WavecastError: there is none.
    """
    if path.is_file() and path.name in (*POINTERS, *PARTS):
        path = path.parent
    if path.is_file():
        return path
    if not path.is_dir():
        raise WavecastError(f"{path} does not exist")
    for pointer in POINTERS:
        if (path / pointer).is_file():
            named = (path / pointer).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            file = path / Path(named[0]).name if named else path / pointer
            if not named or not file.is_file():
                raise WavecastError(f"{path / pointer} names {file.name}, which is not there", "fetch it too")
            return file
    missing = [part for part in PARTS if not (path / part).is_file()]
    if not missing:
        return path
    files = [file for suffix in WEIGHTS for file in sorted(path.glob(f"*{suffix}"))]
    if len(missing) < len(PARTS) and len(files) == len(PARTS) - len(missing):
        raise WavecastError(f"{path} lacks {', '.join(missing)}", f"a model in parts has {', '.join(PARTS)}")
    if len(files) != 1:
        raise WavecastError(f"{path} holds {len(files)} files of weights", "name the one that is meant")
    return files[0]


def all_files(path: Path) -> list[Path]:
    """List the files of what `official_file` found."""
    return [path] if path.is_file() else [path / part for part in PARTS]


def digest(path: Path) -> str:
    """Give the SHA-256 of a file; of a folder of parts, that of each by its name."""
    if path.is_file():
        return sha256(path)
    return ", ".join(f"{sha256(file)} ({file.name})" for file in all_files(path))


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of official files by their official names; what an optimizer left there is dropped.

    Raises:
        WavecastError: it is not one of the wrappers that are known.
    """
    if path.is_file():
        return _read_file(path)
    parts = {file.stem: _read_file(file) for file in all_files(path)}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _read_file(path: Path) -> "dict[str, Tensor]":
    if path.suffix != ".safetensors":
        return unwrap(load_pickle(path))
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WavecastError(f"{path} is no safetensors file") from error


def architecture_of(tensors: "dict[str, Tensor]", path: Path) -> str:
    """Tell by their names which architecture official tensors belong to.

    Raises:
        WavecastError: to none that is known.
    """
    names = [name.removeprefix("module.") for name in tensors]
    for beginning, architecture in BEGINNINGS.items():
        if any(name.startswith(beginning) for name in names):
            return architecture
    raise WavecastError(
        f"{path} holds the tensors of no model that is known: {listed(names, 3)}",
        "known are FRCRN_SE_16K and MossFormer2 (SS_16K, SE_48K, and those of 8 kHz), LMUFormer; forecasters need --as",
    )


def told_by(tensors: "dict[str, Tensor]", architecture: str) -> dict[str, Any]:
    """Read the hyper-parameters that official tensors tell of."""
    known = getattr(import_module(CONVERTERS[architecture]), "hyperparameters", None)
    return {} if known is None else known(tensors)


def fill(card: Card, tensors: "dict[str, Tensor]", path: Path) -> "nn.Module":
    """Build a card's network and fill it with official tensors.

    Raises:
        WavecastError: they do not fit.
    """
    network = build_network(card)
    load_strict(network, import_module(CONVERTERS[card.architecture]).convert_state(tensors), str(path))
    return network
