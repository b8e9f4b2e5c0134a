"""Which files a command works on, and where each result goes."""

import glob
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavecast.console import UsageError
from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import parse_raw
from wavecast.datamodules.riff import SampleFormat


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        path: of the file, or "-".
        root: the folder it was found under; its own for a file that was named.
        device: whether it is a microphone or a camera, and the path only its name.
    """

    path: str
    root: Path
    device: bool = False

    @property
    def is_pipe(self) -> bool:
        """Whether it is stdin."""
        return self.path == "-"

    @property
    def is_live(self) -> bool:
        """Whether it comes as it happens."""
        return self.is_pipe or self.device


def find_sources(
    words: Sequence[str], suffixes: Collection[str], kind: str
) -> tuple[list[Source], list[WavecastError]]:
    """Find the inputs that the words of a command line mean.

    A word is a file, a folder (searched through), a pattern (`*.wav`, also quoted), a list `@files.txt` of such words,
    or "-". Each file comes once.

    Args:
        words: of the command line.
        suffixes: of the files that are taken from a folder.
        kind: of these files, for messages.

    Returns:
        The inputs in the order of the words, and an error for every word that means nothing.

    Raises:
        UsageError: stdin is given together with other inputs.
    """
    found: dict[Path | str, Source] = {}
    errors = []
    for word in words:
        try:
            for source in _expand(word, suffixes, kind):
                found.setdefault("-" if source.is_pipe else Path(source.path).resolve(), source)
        except WavecastError as error:
            errors.append(error)
        except OSError as error:
            errors.append(WavecastError(f"cannot read {word}: {error.strerror}"))
    if "-" in found and len(found) > 1:
        raise UsageError("stdin (-) goes alone", "give the files in a second call")
    return list(found.values()), errors


def _expand(word: str, suffixes: Collection[str], kind: str) -> list[Source]:
    path = Path(word)
    if word == "-":
        return [Source(word, Path())]
    if word.startswith("@") and not path.exists():
        return _listed(Path(word[1:]), suffixes, kind)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not files:
            looked_for = " ".join(sorted(suffixes))
            raise WavecastError(f"{path} holds no {kind} files", f"looked for {looked_for}; name others one by one")
        return [Source(str(file), path) for file in files]
    if not path.exists() and glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - a pattern may be absolute
        if not matches:
            raise WavecastError(f"nothing matches {word}")
        return [source for match in matches for source in _expand(match, suffixes, kind)]
    return [Source(word, path.parent)]


def _listed(path: Path, suffixes: Collection[str], kind: str) -> list[Source]:
    """Read a list: one word a line, relative to the list's folder; lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WavecastError(f"cannot read the list {path}: {error}") from error
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [source for word in words for source in _expand(str(path.parent / word), suffixes, kind)]


def plan_target(source: Source, output: str | None, suffix: str, template: str, speaker: str = "") -> Path:
    """Choose the file that a result goes to.

    Args:
        source: the input, a file.
        output: what -o says: None (beside the input), a folder (it exists, or has a slash or no suffix), or a file.
        suffix: of the result.
        template: of the name without suffix; `{stem}` is the input's.
        speaker: what `{speaker}` is in the template, where an input has several results; a file's name that -o says is
            their `{stem}` then.
    """
    path = Path(source.path)
    if output is not None and not is_folder(output):
        file = Path(output)
        return file.with_name(_filled(template, file.stem, speaker) + file.suffix) if speaker else file
    name = _filled(template, path.stem, speaker) + suffix
    if output is None:
        return path.with_name(name)
    return Path(output) / path.relative_to(source.root).with_name(name)


def _filled(template: str, stem: str, speaker: str) -> str:
    return template.format(stem=stem, speaker=speaker) if speaker else template.format(stem=stem)


def is_folder(output: str) -> bool:
    """Tell whether -o means a folder."""
    return output.endswith("/") or Path(output).is_dir() or not Path(output).suffix


def keep_apart(targets: Sequence[Path], sources: Sequence[Source]) -> list[Path]:
    """Rename results that would fall on one name: the input's suffix goes into theirs.

    Raises:
        WavecastError: a result would replace its own or another input, or two still share a name.
    """
    seen: dict[Path, int] = {}
    for target in targets:
        seen[target.absolute()] = seen.get(target.absolute(), 0) + 1
    apart = []
    for target, source in zip(targets, sources, strict=True):
        if seen[target.absolute()] > 1:
            kind = Path(source.path).suffix.lstrip(".")
            target = target.with_name(f"{target.stem}.{kind}{target.suffix}")
        apart.append(target)
    inputs = {Path(source.path).resolve() for source in sources}
    for target in apart:
        if target.resolve() in inputs:
            raise WavecastError(f"{target} is an input itself", "choose another name or folder with -o")
    if len({target.absolute() for target in apart}) < len(apart):
        twice = next(target for target in apart if sum(other.absolute() == target.absolute() for other in apart) > 1)
        raise WavecastError(f"two inputs would go to {twice}", "give an output folder with -o FOLDER/")
    return apart


def raw_format(text: str | None) -> SampleFormat | None:
    """Read what --raw says of samples without a header; None for None.

    Raises:
        UsageError: it is not understood.
    """
    try:
        return parse_raw(text) if text else None
    except ValueError as error:
        raise UsageError(f"--raw {error}", "for example --raw s16le:16000") from error


def naming(source: Source, error: WavecastError) -> str:
    """Give an error's message with the input's name in it."""
    return error.message if source.path in error.message else f"{source.path}: {error.message}"


def shown(path: str) -> str:
    """Give a path as text that can be printed, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it.

    Raises:
        WavecastError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise WavecastError(f"cannot make the folder {folder}: it is a file", "choose another name with -o") from error
    except OSError as error:
        raise WavecastError(f"cannot make the folder {folder}: {error.strerror}") from error
