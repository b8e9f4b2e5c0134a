"""Models on disk: weights as safetensors, and beside them a card in YAML that says all there is to know.

checkpoints/frcrn.stream16k.safetensors
checkpoints/frcrn.stream16k.yaml
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module, resources
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from wavecast.console import did_you_mean
from wavecast.core.errors import WavecastError

if TYPE_CHECKING:
    import torch
    from torch import nn

ARCHITECTURES = {
    "convs5": "wavecast.apps.forecasting.convs5:ConvS5",
    "convs5_anomalies": "wavecast.apps.forecasting.anomalies:convs5_anomalies",
    "fastconformer": "wavecast.apps.transcription.fastconformer:FastConformer",
    "frame_average": "wavecast.apps.activity.networks:frame_average",
    "frcrn": "wavecast.apps.enhancement.frcrn:FRCRN",
    "frcrn_stream": "wavecast.apps.enhancement.frcrn_stream:FRCRNStream",
    "lmuformer": "wavecast.apps.keywords.lmuformer:LMUFormer",
    "lrcn": "wavecast.apps.activity.networks:lrcn",
    "mossformer2": "wavecast.apps.separation.mossformer2:MossFormer2",
    "mossformer2_48k": "wavecast.apps.enhancement.mossformer2_48k:MossFormer2Enhancer",
    "predformer": "wavecast.apps.forecasting.predformer:PredFormer",
    "predformer_anomalies": "wavecast.apps.forecasting.anomalies:predformer_anomalies",
    "spiking_lmuformer": "wavecast.apps.keywords.spiking_lmuformer:SpikingLMUFormer",
    "state_space_mixer": "wavecast.apps.forecasting.state_space_mixer:StateSpaceMixer",
    "state_space_mixer_anomalies": "wavecast.apps.forecasting.anomalies:state_space_mixer_anomalies",
    "temporal_inception": "wavecast.apps.activity.networks:temporal_inception",
    "ts_lstm": "wavecast.apps.activity.networks:ts_lstm",
}
"""Where each architecture's class is; its hyper-parameters are its keyword arguments."""
REQUIRED = ("name", "architecture", "task", "hyperparameters")
NEEDED_FOR = {
    "enhance": ("sample_rate",),
    "forecast": ("fields",),
    "recognize": ("classes",),
    "separate": ("sample_rate",),
    "spot": ("sample_rate", "classes"),
    "transcribe": ("sample_rate",),
}
"""What the card of a model for a task must say beside that."""
KINDS: Mapping[str, type] = {
    **dict.fromkeys(("name", "architecture", "task"), str),
    **dict.fromkeys(("hyperparameters", "weights", "tokenizer", "language_model", "fields", "decision"), Mapping),
    **dict.fromkeys(("sample_rate", "block"), int),
    "window_seconds": Real,
    "turns": bool,
    "classes": Sequence,
    "data": Sequence,
}
"""What the fields hold that programs read; the others are for people."""
ABSENT = ("sample_rate", "classes", "decision", "fields", "tokenizer", "language_model", "window_seconds", "turns")
"""Fields that a card leaves out when they are empty: no model has all of them."""
TOKENIZER = "wavecast_tokenizer"
"""Where a checkpoint of training has the bytes of its tokenizer, as `packed` made them."""


@dataclass(frozen=True)
class Card:
    """All there is to know of a model.

    Attributes:
        name: ARCHITECTURE.TAG.
        architecture: a key of ARCHITECTURES.
        task: what it is for: "enhance", "forecast", "recognize", "separate", "spot" or "transcribe".
        hyperparameters: keyword arguments of the architecture, plain data.
        sample_rate: in hertz, of a model for sound.
        classes: what a model tells apart, in the order of its outputs: words or activities.
        decision: of a spotter: how posteriors become events, as chosen on validation data
            (`wavecast.apps.keywords.inference`).
        fields: of a forecaster: channels, grid, steps and scales of its fields or its video (`format` and
            `video_format` in `wavecast.apps.forecasting`).
        weights: `file`, `sha256`, `bytes` of the safetensors file, which lies beside the card; empty before saving.
        tokenizer: the same of a transcriber's SentencePiece model, which lies beside the weights.
        language_model: the same of the n-grams that its beam is guided by, if it has some; with `texts`, their sources.
        block: samples a stream is fed at once; 0 when the model cannot stream.
        window_seconds: of a model that needs the whole signal: the longest that takes one pass, and the length of
            the windows beyond; 0: as the network has it.
        turns: of a separator: its outputs change speakers within a window, so that voices have to be followed.
        latency_ms: algorithmic latency in milliseconds, None when the model needs the whole signal.
        license: of the weights.
        origin: who made them, where they can be had; for official weights whether they were verified against it.
        data: what the model was trained on, with licences.
        training: how: hours heard, steps, recipe, commit.
        metrics: measured figures, each with the script that measured it.
        notes: what a user must know.
        path: of the card itself; not part of it.
    """

    name: str
    architecture: str
    task: str
    hyperparameters: Mapping[str, Any]
    sample_rate: int = 0
    classes: tuple[str, ...] = ()
    decision: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    language_model: Mapping[str, Any] = field(default_factory=dict)
    block: int = 0
    window_seconds: float = 0
    turns: bool = False
    latency_ms: float | None = None
    license: str = ""
    origin: str = ""
    data: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    path: Path | None = None

    @property
    def file(self) -> Path:
        """The weights file."""
        if self.path is None or "file" not in self.weights:
            raise WavecastError(f"the card of {self.name} names no weights", "save the model first")
        return self.path.parent / self.weights["file"]

    @staticmethod
    def read(path: Path) -> "Card":
        """Read a card.

        Raises:
            WavecastError: it is missing, no YAML, or not a card.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise WavecastError(f"cannot read the card {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise WavecastError(f"{path} is no card: it is not YAML") from error
        return Card.of(values, path)

    @staticmethod
    def of(values: Any, path: Path) -> "Card":
        """Make a card of plain data, as a file holds it.

        Raises:
            WavecastError: fields are missing, unknown, or of another kind.
        """
        known = [one.name for one in fields(Card) if one.name != "path"]
        hint = f"a card has {', '.join(known)}"
        if not isinstance(values, dict):
            raise WavecastError(f"{path} is no card: it holds a {type(values).__name__}", hint)
        values = {name: value for name, value in values.items() if value is not None}
        faults = [f"it has no {name}" for name in (*REQUIRED, *needed_for(values.get("task"))) if name not in values]
        faults += [f"unknown {name}" for name in values if name not in known]
        faults += [f"{name} is {values[name]!r}" for name, kind in KINDS.items() if not is_a(kind, values.get(name))]
        if not faults and not is_file_name(values["name"]):
            faults = [f"name is {values['name']!r}, which cannot name a file"]
        if faults:
            raise WavecastError(f"{path} is no card: {'; '.join(faults)}", hint)
        tuples = {name: tuple(values.get(name, ())) for name in ("classes", "data")}
        return Card(**{**values, **tuples}, path=path)

    def text(self) -> str:
        """Give the card as YAML."""
        values = {name: value for name, value in asdict(self).items() if name != "path"}
        values |= {"classes": list(self.classes), "data": list(self.data)}
        values = {name: value for name, value in values.items() if value or name not in ABSENT}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)

    def write(self, path: Path) -> None:
        """Write the card, whole or not at all."""
        write_whole(path, self.text().encode())


def needed_for(task: Any) -> tuple[str, ...]:
    """Name the fields that a card for a task must have beside the common ones."""
    return NEEDED_FOR.get(task, ()) if isinstance(task, str) else ()


def is_a(kind: type, value: Any) -> bool:
    """Tell whether a value is of a kind, or absent; text is no sequence."""
    return value is None or (isinstance(value, kind) and not (kind is Sequence and isinstance(value, str)))


def is_file_name(name: str) -> bool:
    """Tell whether a model of this name can be a file in a folder."""
    return Path(name).name == name != "" and not name.startswith(".")


def cache_folder() -> Path:
    """Give the folder of fetched models: $WAVECAST_CACHE/models, else ~/.cache/wavecast/models."""
    return Path(os.environ.get("WAVECAST_CACHE") or Path.home() / ".cache" / "wavecast") / "models"


def shipped_folder() -> Path:
    """Give the folder of the models that come with the package."""
    return Path(str(resources.files("wavecast.checkpoints")))


def known_models() -> dict[str, Path]:
    """List the cards' paths of shipped and fetched models by name; a shipped one hides a fetched one of its name."""
    paths = {path.stem: path for folder in (cache_folder(), shipped_folder()) for path in folder.glob("*.yaml")}
    return dict(sorted(paths.items()))


def known_cards() -> list[Card]:
    """Read the cards of shipped and fetched models, by name."""
    return [Card.read(path) for path in known_models().values()]


def find_model(name_or_path: str, task: str | None = None) -> Card:
    """Find a model by its name, or by the path of its card, its weights, a checkpoint of `wavecast train`, or a run.

    Raises:
        WavecastError: there is no such model, or it is for another task.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".safetensors") and path.exists():
        card_path = path.with_suffix(".yaml")
        if not card_path.exists():
            raise WavecastError(f"{path} has no card beside it", f"wavecast models convert {path}")
        card = Card.read(card_path)
    elif path.suffix == ".ckpt" and path.exists():
        card = _trained_card(path)
    elif (path / "checkpoints" / "last.ckpt").exists():
        card = _trained_card(best_checkpoint(path))
    elif path.exists() and (path.suffix or os.sep in name_or_path):
        raise WavecastError(f"{path} is not a model of wavecast", f"wavecast models convert {path}")
    else:
        paths = known_models()
        if name_or_path not in paths:
            from wavecast.official import OFFICIAL

            if name_or_path in OFFICIAL:
                raise WavecastError(f"{name_or_path} is not here yet", f"wavecast models pull {name_or_path}")
            hint = "wavecast models list; official ones: wavecast models pull NAME"
            hint = did_you_mean(name_or_path, [*paths, *OFFICIAL], hint)
            raise WavecastError(f"there is no model {name_or_path!r}", hint)
        card = Card.read(paths[name_or_path])
    if task is not None and card.task != task:
        raise WavecastError(f"{card.name} is a model to {card.task}, not to {task}", "wavecast models list")
    return card


def _trained_card(path: Path) -> Card:
    """Make the card of a Lightning checkpoint, which holds one among its hyper-parameters."""
    values = load_pickle(path).get("wavecast_card")
    if not isinstance(values, dict):
        raise WavecastError(f"{path} was not written by `wavecast train`", f"wavecast models convert {path}")
    return Card.of({**values, "weights": {"file": path.name}}, path)


def best_checkpoint(run: Path) -> Path:
    """Find the best checkpoint of a run of `wavecast train`, as its last one remembers it; else the last."""
    last = run / "checkpoints" / "last.ckpt"
    for state in load_pickle(last).get("callbacks", {}).values():
        name = Path(state.get("best_model_path", "")).name
        if name and last.with_name(name).exists():
            return last.with_name(name)
    return last


def load_pickle(path: Path, file: IO[bytes] | None = None) -> dict[str, Any]:
    """Read a torch file of tensors and plain data; code in it is never run.

    Args:
        path: of the file; with `file`, what messages call it.
        file: that is open, in place of the one at the path.

    Raises:
        WavecastError: it cannot be read, is no torch file, or holds more than tensors and plain data.
    """
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols: what matters is raised
            content = torch.load(path if file is None else file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WavecastError(f"cannot read {path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise WavecastError(
            f"{path} is refused: it is damaged, or holds code or objects beside tensors",
            "ask its author for safetensors, or for a checkpoint of tensors and plain data",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise WavecastError(f"{path} is no torch checkpoint, or it is damaged", "fetch it again") from error
    if not isinstance(content, dict):
        raise WavecastError(f"{path} holds a {type(content).__name__}, not named tensors")
    return content


def load_tensors(card: Card) -> "dict[str, torch.Tensor]":
    """Read a model's tensors, after checking that the file is the one the card means.

    Raises:
        WavecastError: the file is missing, or its hash differs from the card's.
    """
    import safetensors
    import safetensors.torch

    if card.file.suffix == ".ckpt":
        state = load_pickle(card.file).get("state_dict", {})
        return {name.removeprefix("network."): t for name, t in state.items() if name.startswith("network.")}
    try:
        return safetensors.torch.load_file(unchanged(card.file, card.weights, f"the weights of {card.name} are"))
    except safetensors.SafetensorError as error:
        raise WavecastError(f"{card.file} is no safetensors file") from error


def read_tokenizer(card: Card) -> bytes:
    """Read the bytes of a transcriber's tokenizer, after checking that they are those the card means.

    Raises:
        WavecastError: the file is missing, or its hash differs from the card's.
    """
    if card.file.suffix == ".ckpt":
        tensor = load_pickle(card.file).get(TOKENIZER)
        if tensor is None:
            raise WavecastError(f"{card.file} has no tokenizer", "train anew, or take another checkpoint")
        return tensor.numpy().tobytes()
    path = card.file.with_name(str(card.tokenizer.get("file", f"{card.name}.tokenizer.model")))
    return unchanged(path, card.tokenizer, f"the tokenizer of {card.name} is").read_bytes()


def language_model_file(card: Card) -> Path | None:
    """Find the language model of a transcriber, after checking that it is the one its card means; None: it has none.

    Raises:
        WavecastError: the file is missing, or its hash differs from the card's.
    """
    if "file" not in card.language_model:
        return None
    path = card.file.with_name(str(card.language_model["file"]))
    return unchanged(path, card.language_model, f"the language model of {card.name} is")


def unchanged(path: Path, said: Mapping[str, Any], what: str) -> Path:
    """Check that a file is the one that a card means.

    Args:
        path: the file.
        said: what the card says of it.
        what: what it is, with its verb, for the message.

    Raises:
        WavecastError: it is missing, or its hash differs.
    """
    if not path.exists():
        raise WavecastError(f"{what} missing: {path}", "install the package again, or pull")
    expected, found = said.get("sha256"), sha256(path)
    if found != expected:
        raise WavecastError(
            f"{path} is not what its card says: sha256 {found[:16]}..., expected {str(expected)[:16]}...",
            "it is damaged, or was changed: fetch it again",
        )
    return path


def packed(tokenizer: bytes) -> "torch.Tensor":
    """Turn the bytes of a tokenizer into a tensor, for a checkpoint of training."""
    import torch

    return torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)


def build_network(card: Card) -> "nn.Module":
    """Build a card's network with fresh weights.

    Raises:
        WavecastError: the architecture is unknown, or does not take the card's hyper-parameters.
    """
    if card.architecture not in ARCHITECTURES:
        hint = did_you_mean(card.architecture, ARCHITECTURES, f"known: {', '.join(ARCHITECTURES)}")
        raise WavecastError(f"{card.name}: unknown architecture {card.architecture!r}", hint)
    module, name = ARCHITECTURES[card.architecture].split(":")
    try:
        return getattr(import_module(module), name)(**card.hyperparameters)
    except (TypeError, ValueError) as error:
        reason, _, hint = str(error).partition("\nhint: ")
        raise WavecastError(f"{card.name}: the card does not fit {name}: {reason}", hint) from error


def load_network(card: Card, device: "str | torch.device" = "cpu") -> "nn.Module":
    """Build a card's network and load its weights: every tensor, exactly; half precision becomes single.

    Returns:
        The network in eval mode.

    Raises:
        WavecastError: the file is damaged, or does not fit the network.
    """
    network = build_network(card)
    load_strict(network, load_tensors(card), str(card.file))
    return network.to(device).eval()


def load_strict(network: "nn.Module", tensors: "Mapping[str, torch.Tensor]", source: str) -> None:
    """Load tensors into a network: none missing, none left over, none of another shape.

    Raises:
        WavecastError: lists the first few names that do not fit, with what was expected and found.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {shape}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WavecastError(
            f"{source} does not fit {type(network).__name__}: {'; '.join(problems[:5])}{more}",
            "the card and the weights are of different models",
        )
    network.load_state_dict(dict(tensors))


def save_model(network: "nn.Module", card: Card, folder: Path, half: bool = False, tokenizer: bytes = b"") -> Card:
    """Write a network's weights and card into a folder; each appears whole or not at all.

    Args:
        network: whose state dict is written.
        card: `weights` and `tokenizer` are filled in.
        folder: NAME.safetensors and NAME.yaml go here, and NAME.tokenizer.model if there is one.
        half: store floats as fp16.
        tokenizer: bytes of a transcriber's SentencePiece model.

    Returns:
        The card as written.
    """
    import safetensors.torch
    import torch

    tensors = {
        name: tensor.detach().to("cpu", torch.float16 if half and tensor.is_floating_point() else None).contiguous()
        for name, tensor in network.state_dict().items()
    }
    path = folder / f"{card.name}.yaml"
    weights = _write_beside(path, ".safetensors", safetensors.torch.save(tensors))
    text = _write_beside(path, ".tokenizer.model", tokenizer) if tokenizer else {}
    card = replace(card, weights=weights, tokenizer=text, path=path)
    card.write(path)
    return card


def _write_beside(path: Path, suffix: str, content: bytes) -> dict[str, Any]:
    """Write a file beside a card, and give what the card says of it."""
    file = path.with_name(path.name.removesuffix(".yaml") + suffix)
    write_whole(file, content)
    return {"file": file.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: it appears whole or not at all.

    Raises:
        WavecastError: the folder is missing or cannot be written, or the disk is full.
    """
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, under a temporary name until all is written; see `write_whole`."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            yield file
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise WavecastError(f"cannot write {path}: {error.strerror}", "check the folder and the space on it") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
