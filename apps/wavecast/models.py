"""`wavecast models`: list, show, fetch, convert and verify weights."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wavecast.cards import (
    Card,
    build_network,
    cache_folder,
    find_model,
    known_models,
    load_network,
    load_pickle,
    load_strict,
    read_tokenizer,
    save_model,
    sha256,
)
from wavecast.console import UsageError, did_you_mean, positive, say, show_error, talk_arguments
from wavecast.core.errors import WavecastError
from wavecast.official import OFFICIAL, UNVERIFIED, Official

if TYPE_CHECKING:
    from torch import Tensor, nn

VERBS = ("list", "show", "pull", "convert", "verify")
POINTERS = ("last_best_checkpoint", "last_checkpoint")
"""Text files of official folders whose first line names the file of the weights."""
WEIGHTS = (".pt", ".bin", ".safetensors", ".ckpt", ".nemo")
"""What files of weights end in."""
NAMELESS = (*POINTERS, "pytorch_model")
"""Names of official files that say nothing of the model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "  wavecast models list                    what is here, and what can be fetched\n"
        "  wavecast models show NAME               the card\n"
        "  wavecast models pull NAME               fetch official weights (--weights FILE|DIR: from there, offline)\n"
        "  wavecast models convert FILE -o FOLDER  official or trained weights to safetensors and card\n"
        "  wavecast models convert NAME --to nemo  a transcriber to an archive that NeMo reads\n"
        "  wavecast models verify NAME|FILE        prove that a model is complete and unchanged\n"
    )
    parser.add_argument("verb", choices=VERBS, nargs="?", default="list")
    parser.add_argument("name", nargs="?", metavar="NAME|FILE")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where convert writes (.)")
    parser.add_argument("--weights", metavar="FILE|DIR", help="official weights that were fetched by other means")
    parser.add_argument(
        "--to", choices=("safetensors", "nemo"), default="safetensors", help="what convert writes (safetensors)"
    )
    parser.add_argument("--half", action="store_true", help="convert to half precision: half the bytes")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    official = parser.add_argument_group("official forecasters, of which the file does not tell everything")
    official.add_argument("--as", dest="kind", choices=("convs5", "predformer"), help="whose file it is")
    official.add_argument(
        "--frames", nargs=3, type=positive, metavar=("TIME", "ROWS", "COLS"), help="it was trained on (10 64 64)"
    )
    official.add_argument("--variant", metavar="NAME", help="of PredFormer: quad_tsst, fac_ts ...")
    official.add_argument("--patch", type=positive, metavar="N", help="side of PredFormer's patches")
    official.add_argument("--heads", type=positive, default=8, metavar="N", help="of PredFormer's attention (8)")
    talk_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    if args.verb == "list":
        return list_models()
    if not args.name:
        raise UsageError(f"{args.verb} needs a model", f"wavecast models {args.verb} NAME")
    if args.verb == "show":
        return show(args.name)
    if args.verb == "pull":
        return pull(args.name, args.weights, args.quiet)
    if args.verb == "convert":
        return convert(args)
    return verify(args.name, args.quiet)


def list_models() -> int:
    """Print a line a model: name, task, size, licence, whether it is here; a broken card is reported at its place."""
    here = known_models()
    rows: list[tuple[str, ...]] = []
    failed = False
    for path in here.values():
        try:
            card = Card.read(path)
        except WavecastError as error:
            show_error(error.message, error.hint)
            failed = True
        else:
            rows.append((card.name, card.task, f"{card.weights.get('bytes', 0) / 1e6:.1f} MB", card.license, "here"))
    for name, official in OFFICIAL.items():
        if name not in here:
            rows.append((name, official.task, str(official.size), official.license, f"wavecast models pull {name}"))
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return int(failed)


def show(name: str) -> int:
    """Print a model's card, or what is known of one that can be fetched."""
    if name in OFFICIAL and name not in known_models():
        print(OFFICIAL[name].describe(name), end="")
    else:
        print(find_model(name).text(), end="")
    return 0


def pull(name: str, weights: str | None, quiet: bool = False) -> int:
    """Fetch official weights at their pinned revision, check their hash, and convert them into the cache.

    Raises:
        WavecastError: no such model, no network, a broken transfer, or another file than the pinned one.
    """
    if name not in OFFICIAL:
        here = name in known_models()
        hint = f"{name} is here already" if here else did_you_mean(name, OFFICIAL, f"known: {', '.join(OFFICIAL)}")
        raise WavecastError(f"there is no official model {name!r}", hint)
    official = OFFICIAL[name]
    path = official_file(Path(weights)) if weights else fetch(name, official, quiet)
    found = sha256(path)
    if official.sha256 and found != official.sha256:
        if not weights:
            path.unlink()
        raise WavecastError(
            f"{path.name} has sha256 {found[:16]}..., the pinned file has {official.sha256[:16]}...",
            "it is another version, or damaged: pull again, or use `wavecast models convert` if you trust it",
        )
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        card, network, tokenizer = read_model(path, official.card(name))
    except WavecastError:
        if not weights:
            path.unlink()
        raise
    if not official.sha256:
        card = replace(card, origin=f"{card.origin}; this one has sha256 {found}")
    say(f"{save_model(network, card, folder, tokenizer=tokenizer).file}", quiet)
    return 0


def read_model(path: Path, card: Card) -> "tuple[Card, nn.Module, bytes]":
    """Read an official file.

    Args:
        path: of the file.
        card: that the model gets; what an archive tells of itself is filled in.

    Returns:
        The card, the filled network, and the bytes of its tokenizer if it has one.

    Raises:
        WavecastError: the file is not what the card says.
    """
    if card.architecture == "fastconformer":
        from wavecast.apps.transcription.fastconformer_official import read_transcriber

        told, network, tokenizer = read_transcriber(path)
        return replace(card, hyperparameters=told.hyperparameters, block=told.block), network, tokenizer.model
    network = build_network(card)
    load_strict(network, read_official(path), str(path))
    return card, network, b""


def fetch(name: str, official: Official, quiet: bool = False) -> Path:
    """Download a pinned file, or find it in the cache; a broken download is continued the next time.

    Raises:
        WavecastError: it cannot be had; the hint says how to bring it by other means.
    """
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    path = cache_folder().parent / "hub" / official.revision / official.file
    part = path.with_name(f"{path.name}.part")
    if path.exists():
        return path
    if quiet:
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.utils.logging.set_verbosity_error()
    path.parent.mkdir(parents=True, exist_ok=True)
    url = huggingface_hub.hf_hub_url(official.repository, official.file, revision=official.revision)
    try:
        with part.open("ab") as file:
            if not official.bytes or file.tell() < official.bytes:
                http_get(url, file, resume_size=file.tell())
    except Exception as error:  # the hub's client passes on whatever its transport raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WavecastError(
            f"cannot fetch {name}: {reason}",
            f"check the network and try again (it goes on where it stopped), or bring {official.file} of "
            f"{official.repository} from elsewhere: wavecast models pull {name} --weights FILE",
        ) from error
    return part.replace(path)


def official_file(path: Path) -> Path:
    """Find the weights: a file, or a folder with a text file that names them, or with one file of weights.

    Raises:
        WavecastError: there is none.
    """
    if path.is_file() and path.name in POINTERS:
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
    files = [file for suffix in WEIGHTS for file in sorted(path.glob(f"*{suffix}"))]
    if len(files) != 1:
        raise WavecastError(f"{path} holds {len(files)} files of weights", "name the one that is meant")
    return files[0]


def read_official(path: Path) -> "dict[str, Tensor]":
    """Read official tensors under our names.

    Raises:
        WavecastError: it is not one of the wrappers that are known, or the tensors are others than expected.
    """
    from wavecast.apps.enhancement.frcrn_official import convert_state, unwrap

    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return convert_state(safetensors.torch.load_file(path))
        except safetensors.SafetensorError as error:
            raise WavecastError(f"{path} is no safetensors file") from error
    return convert_state(unwrap(load_pickle(path)))


def convert(args: argparse.Namespace) -> int:
    """Write safetensors and card for official weights, or for a checkpoint of `wavecast train`, in fp16 if asked to.

    Raises:
        WavecastError: the file is none of these, or the target exists.
    """
    if args.to == "nemo":
        return write_nemo(args)
    file, folder = official_file(Path(args.name)), Path(args.output or ".")
    tokenizer = b""
    if args.kind:
        card, network = read_forecaster(file, args)
    elif file.suffix == ".ckpt" and "wavecast_card" in load_pickle(file):
        card = find_model(str(file))
        network = load_network(card)
        tokenizer = read_tokenizer(card) if card.task == "transcribe" else b""
        card = replace(card, weights={}, path=None)
    else:
        card, network, tokenizer = read_model(file, official_card(file))
    ends = (".safetensors", ".yaml", ".tokenizer.model") if tokenizer else (".safetensors", ".yaml")
    make_room(folder, [f"{card.name}{end}" for end in ends], args.overwrite)
    say(f"{save_model(network, card, folder, args.half, tokenizer).file}", args.quiet)
    return 0


def write_nemo(args: argparse.Namespace) -> int:
    """Write a transcriber as an archive that NeMo reads.

    Raises:
        WavecastError: there is no such transcriber, or the target exists.
    """
    from wavecast.apps.transcription.fastconformer_official import write_transcriber
    from wavecast.apps.transcription.tokenizer import load_tokenizer

    card, folder = find_model(args.name, "transcribe"), Path(args.output or ".")
    network, tokenizer = load_network(card), load_tokenizer(card)
    (target,) = make_room(folder, [f"{card.name}.nemo"], args.overwrite)
    write_transcriber(network, card, tokenizer, target)
    say(f"{target}", args.quiet)
    return 0


def make_room(folder: Path, names: list[str], overwrite: bool) -> list[Path]:
    """Make a folder for files that are not there yet, or may be overwritten.

    Raises:
        WavecastError: one is there.
    """
    targets = [folder / name for name in names]
    for target in targets:
        if target.exists() and not overwrite:
            raise WavecastError(f"{target} exists", "give --overwrite, or another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def read_forecaster(file: Path, args: argparse.Namespace) -> "tuple[Card, nn.Module]":
    """Read an official forecaster as the options describe it."""
    from wavecast.apps.forecasting.official import read_convs5, read_predformer

    time, rows, cols = args.frames or (10, 64, 64)
    if args.kind == "convs5":
        return read_convs5(file, time, rows, cols)
    return read_predformer(file, time, rows, cols, args.variant, args.patch, args.heads)


def official_card(file: Path) -> Card:
    """Make the card of a file of official weights, which are the pinned ones or others of their kind."""
    if file.suffix == ".nemo":
        return archive_card(file)
    name, official = next(iter(OFFICIAL.items()))
    card = official.card(name if file.stem in NAMELESS else file.stem)
    digest = sha256(file)
    if digest == official.sha256:
        return card
    origin = f"{file.name} of sha256 {digest}, not the pinned file of {official.repository}; {UNVERIFIED}"
    return replace(card, origin=origin)


def archive_card(file: Path) -> Card:
    """Make the card of a NeMo archive, which goes by the name of a file that is known, or is any other."""
    named = {official.file: (name, official) for name, official in OFFICIAL.items()}
    known = f"{file.name} of sha256 {sha256(file)}"
    if file.name in named:
        name, official = named[file.name]
        origin = f"{known}, named like the file of {official.repository}; {official.trust}"
        return replace(official.card(name), origin=origin)
    name = f"fastconformer.{file.stem.removeprefix('fastconformer.')}"
    return Card(name, "fastconformer", "transcribe", {}, 16_000, license="of its authors", origin=known)


def verify(name: str, quiet: bool = False) -> int:
    """Prove that a model is complete and unchanged: its hashes are the card's, and every tensor fits its network.

    Raises:
        WavecastError: it is not.
    """
    card: Card = find_model(name)
    if card.task == "transcribe":
        from wavecast.apps.transcription.tokenizer import load_tokenizer

        load_tokenizer(card)
    count = sum(p.numel() for p in load_network(card).parameters())
    hashed = f"unchanged, sha256 {card.weights['sha256']}" if "sha256" in card.weights else "no hash is known of it"
    say(f"{card.name}: complete, {count:,} parameters; {hashed}", quiet)
    return 0
