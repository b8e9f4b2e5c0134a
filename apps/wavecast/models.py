"""`wavecast models`: list, show, fetch, convert and verify weights."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wavecast.cards import (
    Card,
    cache_folder,
    find_model,
    known_models,
    language_model_file,
    load_network,
    load_pickle,
    read_tokenizer,
    save_model,
    sha256,
)
from wavecast.console import UsageError, did_you_mean, positive, say, show_error, talk_arguments
from wavecast.core.errors import WavecastError
from wavecast.official import OFFICIAL, UNVERIFIED
from wavecast.official_files import (
    POINTERS,
    all_files,
    architecture_of,
    digest,
    fetch,
    fill,
    official_file,
    read_tensors,
    told_by,
)

if TYPE_CHECKING:
    from torch import nn

VERBS = ("list", "show", "pull", "convert", "verify")
FORECASTERS, SPOTTERS = ("convs5", "predformer"), ("lmuformer", "spiking_lmuformer")
"""Architectures whose official files are on no hub."""
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
    separator = parser.add_argument_group("official separators, of which the file does not tell everything")
    separator.add_argument("--rate", type=positive, metavar="HZ", help="sample rate of the model: 8000, 16000")
    separator.add_argument("--direct", action="store_true", help="it gives the speakers themselves, not masks: WHAMR")
    official = parser.add_argument_group("official forecasters, of which the file does not tell everything")
    official.add_argument("--as", dest="kind", choices=(*FORECASTERS, *SPOTTERS), help="whose file it is")
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
    found = digest(path)
    if official.sha256 and found != official.sha256:
        if not weights:
            discard(path)
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
            discard(path)
        raise
    if not official.sha256:
        card = replace(card, origin=f"{card.origin}; this one has sha256 {found}")
    say(f"{save_model(network, card, folder, tokenizer=tokenizer).file}", quiet)
    return 0


def discard(path: Path) -> None:
    """Delete what was fetched and is of no use."""
    for file in all_files(path):
        file.unlink()


def read_model(path: Path, card: Card) -> "tuple[Card, nn.Module, bytes]":
    """Read an official file.

    Args:
        path: of the file, or of the folder of a model in parts.
        card: that the model gets; what the file tells of itself is filled in.

    Returns:
        The card, the filled network, and the bytes of its tokenizer if it has one.

    Raises:
        WavecastError: the file is not what the card says.
    """
    if card.architecture == "fastconformer":
        from wavecast.apps.transcription.fastconformer_official import read_transcriber

        told, network, tokenizer = read_transcriber(path)
        return replace(card, hyperparameters=told.hyperparameters, block=told.block), network, tokenizer.model
    tensors = read_tensors(path)
    found = architecture_of(tensors, path)
    if found != card.architecture:
        raise WavecastError(f"{path} holds {found}, not {card.architecture}", "it is the file of another model")
    of_file, known = told_by(tensors, found), card.hyperparameters
    differ = [f"{key} {of_file[key]}, not {value}" for key, value in known.items() if of_file.get(key, value) != value]
    if differ:
        raise WavecastError(f"{path} holds a network of {', '.join(differ)}", "it is the file of another model")
    card = replace(card, hyperparameters={**of_file, **known})
    return card, fill(card, tensors, path), b""


def convert(args: argparse.Namespace) -> int:
    """Write safetensors and card for official weights, or for a checkpoint of `wavecast train`, in fp16 if asked to.

    Raises:
        WavecastError: the file is none of these, or the target exists.
    """
    if args.to == "nemo":
        return write_nemo(args)
    file, folder = official_file(Path(args.name)), Path(args.output or ".")
    tokenizer = b""
    if (args.rate or args.direct) and (args.kind or file.suffix == ".nemo"):
        raise UsageError("--rate and --direct are for separators")
    if args.kind in FORECASTERS:
        card, network = read_forecaster(file, args)
    elif file.is_file() and file.suffix == ".ckpt" and "wavecast_card" in load_pickle(file):
        card = find_model(str(file))
        network = load_network(card)
        tokenizer = read_tokenizer(card) if card.task == "transcribe" else b""
        card = replace(card, weights={}, path=None)
    elif file.suffix == ".nemo":
        card, network, tokenizer = read_model(file, archive_card(file))
    else:
        card, network = read_official(file, args)
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


def read_official(path: Path, args: argparse.Namespace) -> "tuple[Card, nn.Module]":
    """Read official tensors, whichever they are, into the network they belong to.

    Raises:
        WavecastError: they belong to none, do not fit, or do not tell their sample rate.
    """
    tensors = read_tensors(path)
    architecture = architecture_of(tensors, path)
    if architecture != "mossformer2" and (args.rate or args.direct):
        raise UsageError(f"{path} holds {architecture}; --rate and --direct are for separators")
    if args.kind not in (None, architecture):
        raise WavecastError(
            f"{path} holds {architecture}, not {args.kind}", f"give --as {architecture}, or leave it out"
        )
    if architecture in SPOTTERS:
        from wavecast.apps.keywords.lmuformer_official import card_of

        card = card_of(path, tensors)
    else:
        card = official_card(path, architecture, args.rate)
    told = told_by(tensors, architecture) | ({"masking": False} if args.direct else {})
    card = replace(card, hyperparameters={**card.hyperparameters, **told})
    return card, fill(card, tensors, path)


def official_card(path: Path, architecture: str, rate: int | None) -> Card:
    """Make the card of official weights, which are pinned ones or others of their kind.

    Args:
        path: of the file, or of the folder of a model in parts.
        architecture: that the tensors belong to.
        rate: in hertz, of a separator that does not lie in a folder named like its repository.

    Raises:
        WavecastError: the rate is not known.
    """
    kind = {name: official for name, official in OFFICIAL.items() if official.architecture == architecture}
    found, folder = digest(path), path if path.is_dir() else path.parent
    pinned = [name for name, official in kind.items() if official.sha256 == found]
    lying = [name for name, official in kind.items() if official.repository.endswith(f"/{folder.resolve().name}")]
    name = next(iter(pinned + lying + list(kind)))
    card = kind[name].card(name)
    if path.is_file() and path.stem not in NAMELESS:
        card = replace(card, name=path.stem)
    if pinned:
        return card
    origin = f"{path.name} of sha256 {found}, "
    if architecture != "mossformer2":
        origin += f"not the pinned file of {kind[name].repository}; {UNVERIFIED}"
    elif lying:
        origin += f"in a folder named like {kind[name].repository}; {UNVERIFIED}"
    elif not rate:
        raise WavecastError(f"{path} does not tell its sample rate", "give --rate 16000 or --rate 8000")
    else:
        own = card.name if path.is_file() and path.stem not in NAMELESS else f"mossformer2.{folder.resolve().name}"
        return Card(own, architecture, "separate", {}, rate, license="of its authors", origin=origin + UNVERIFIED)
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
        from wavecast.apps.transcription.language_model import read_ngrams
        from wavecast.apps.transcription.tokenizer import load_tokenizer

        tokenizer, path = load_tokenizer(card), language_model_file(card)
        if path is not None:
            read_ngrams(path, tokenizer)
    count = sum(p.numel() for p in load_network(card).parameters())
    hashed = f"unchanged, sha256 {card.weights['sha256']}" if "sha256" in card.weights else "no hash is known of it"
    say(f"{card.name}: complete, {count:,} parameters; {hashed}", quiet)
    return 0
