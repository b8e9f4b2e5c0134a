"""`.nemo` archives, the files of NVIDIA's NeMo: a tar of configuration, tokenizer and weights, read and written here.

A file comes from anywhere, so nothing in it is trusted: members are read in memory by their names and never unpacked,
their sizes, the nesting of the configuration and what it refers to are bounded, and weights are tensors and nothing
else. What a file can make this module allocate is bounded by the size of the file and the limits below.
"""

import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import torch
import yaml
from torch import Tensor

from wavecast.apps.transcription.nemo_configuration import parse_configuration, resolved
from wavecast.apps.transcription.tokenizer import UNKNOWN, WORD, Tokenizer
from wavecast.cards import load_pickle, whole_file
from wavecast.core.errors import WavecastError

CONFIGURATION, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
TARGETS = {
    "EncDecHybridRNNTCTCBPEModel": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models",
    "EncDecRNNTBPEModel": "nemo.collections.asr.models.rnnt_bpe_models",
    "EncDecCTCModelBPE": "nemo.collections.asr.models.ctc_bpe_models",
}
"""Classes whose archives are read, and their modules: hybrid, transducer only, CTC only."""
MOST_MEMBERS = 64
MOST_BYTES = 16 << 30  # of an archive: 4 GiB are 1.1 billion parameters
MOST_CONFIGURATION = 8 << 20
MOST_TOKENIZER = 16 << 20
MOST_HEADERS = 1 << 20  # bytes of tar headers: a member has one of 512
MOST_EXPANSION = 20  # of gzip: weights shrink by a tenth
PIECE = 1 << 20
HINT = "the file is no .nemo archive, or it is damaged: fetch it again"


@dataclass(frozen=True)
class NemoArchive:
    """What an archive holds.

    Attributes:
        configuration: of the model, as NeMo names things; references in what we read are resolved.
        tokenizer: its pieces are the vocabulary.
        tensors: the state dict by official names.
    """

    configuration: Mapping[str, Any]
    tokenizer: Tokenizer
    tensors: Mapping[str, Tensor]

    @property
    def target(self) -> str:
        """Name the class of the model, without its module."""
        return str(self.configuration["target"]).rpartition(".")[2]


def read_archive(path: Path) -> NemoArchive:
    """Read an archive: a tar file, plain or compressed by gzip.

    Returns:
        Its configuration, tokenizer and weights, which agree on the vocabulary.

    Raises:
        WavecastError: it cannot be read, is damaged, holds names, links or sizes that an archive has not, or a model
            that is none of TARGETS.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise WavecastError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error


def _read(file: IO[bytes], path: Path) -> NemoArchive:
    source = Metered(_expanded(file, path))
    with _opened(source, path) as archive:
        members = _members(archive, source, path)
        source.left = source.size + PIECE
        configuration = resolved(
            parse_configuration(_content(archive, members, CONFIGURATION, MOST_CONFIGURATION, path))
        )
        _check_target(configuration, path)
        tokenizer = _tokenizer(archive, members, configuration, path)
        check_vocabulary(configuration, tokenizer)
        source.left = 4 * source.size + PIECE  # twice to read the weights and their directory, with room
        return NemoArchive(configuration, tokenizer, _tensors(archive, _member(members, WEIGHTS, path), path))


class Metered:
    """A file that ends reading after a number of bytes, so that damaged headers cannot make a reader run on.

    Args:
        file: that can be read anywhere.

    Attributes:
        size: of the file in bytes.
        left: bytes that may still be read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self.left = MOST_HEADERS
        file.seek(0)

    def seekable(self) -> bool:
        """Tell that any place can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Give the place."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read that many bytes, or fewer at the end.

        Raises:
            WavecastError: more are read than may be.
        """
        self.left -= max(1, self.size if size < 0 else size)
        if self.left < 0:
            raise WavecastError("the headers of the archive have no end", HINT)
        return self._file.read(size)


def _expanded(file: IO[bytes], path: Path) -> IO[bytes]:
    """Give a plain tar as it is, and expand one in gzip into memory, where it can be read anywhere.

    Raises:
        WavecastError: it is too large, a zip, or damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    begun = file.read(4)
    file.seek(0)
    if size > MOST_BYTES:
        raise WavecastError(f"{path} has {size} bytes, more than {MOST_BYTES}", HINT)
    if begun == b"PK\x03\x04":
        raise WavecastError(f"{path} is a zip, and .nemo archives are tar files", HINT)
    if begun[:2] != b"\x1f\x8b":
        return file
    expanded, most = io.BytesIO(), min(MOST_BYTES, MOST_EXPANSION * (size + PIECE))
    try:
        with gzip.GzipFile(fileobj=file) as source:
            while piece := source.read(PIECE):
                expanded.write(piece)
                if expanded.tell() > most:
                    raise WavecastError(f"{path} expands to more than {MOST_EXPANSION} times its size", HINT)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WavecastError(f"{path} is damaged: gzip cannot expand it", HINT) from error
    return expanded


def _opened(source: Metered, path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=cast(IO[bytes], source), mode="r:")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise WavecastError(f"{path} is neither a tar file nor one in gzip", HINT) from error


def _members(archive: tarfile.TarFile, source: Metered, path: Path) -> dict[str, tarfile.TarInfo]:
    """List the files in an archive by their names without `./`.

    Raises:
        WavecastError: there are too many; one is no file, has a name that leads elsewhere, a size beyond the file's
            end, or is there twice.
    """
    members: dict[str, tarfile.TarInfo] = {}
    try:
        for count, member in enumerate(archive):
            if count >= MOST_MEMBERS:
                raise WavecastError(f"{path} has more than {MOST_MEMBERS} members", HINT)
            name, shown = member.name.removeprefix("./"), f"{member.name[:80]!a}"
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name:
                raise WavecastError(f"{path} is refused: its member {shown} leads out of the archive", HINT)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise WavecastError(f"{path} is refused: its member {shown} is a link, a device or no plain file", HINT)
            if member.size < 0 or member.offset_data + member.size > source.size:
                raise WavecastError(f"{path} is truncated: its member {shown} should have {member.size} bytes", HINT)
            if name in members:
                raise WavecastError(f"{path} is refused: its member {shown} is there twice", HINT)
            members[name] = member
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise WavecastError(f"{path} is damaged: its list of members cannot be read", HINT) from error
    return members


def _member(members: Mapping[str, tarfile.TarInfo], name: str, path: Path) -> tarfile.TarInfo:
    if name not in members:
        found = ", ".join(sorted(one[:40] for one in members)[:5]) or "nothing"
        raise WavecastError(f"{path} has no {name[:80]!a}; it holds {found[:200]!a}", HINT)
    return members[name]


def _content(
    archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, most: int, path: Path
) -> bytes:
    """Read a member whole.

    Raises:
        WavecastError: it is missing, or larger than `most` bytes.
    """
    member = _member(members, name, path)
    if member.size > most:
        raise WavecastError(f"{path}: {name[:80]!a} has {member.size} bytes, more than {most}", HINT)
    return _stream(archive, member).read()


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise WavecastError(f"{member.name[:80]!a} is no file", HINT)
    return file


def _check_target(configuration: Mapping[str, Any], path: Path) -> None:
    """Refuse other models than ours.

    Raises:
        WavecastError: the target is missing, or is none of TARGETS.
    """
    target = configuration.get("target")
    if not isinstance(target, str) or target.rpartition(".")[2] not in TARGETS:
        raise WavecastError(
            f"{path} holds a model of the class {str(target)[:120]!a}, which is not supported",
            f"supported are FastConformer models of the classes {', '.join(TARGETS)}",
        )


def _tokenizer(
    archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], configuration: Mapping[str, Any], path: Path
) -> Tokenizer:
    """Read the tokenizer that the configuration points to; without one, make it of the vocabulary.

    Raises:
        WavecastError: it is of another kind, missing or damaged.
    """
    section = configuration.get("tokenizer")
    section = section if isinstance(section, Mapping) else {}
    kind = section.get("type")
    if kind == "agg":
        raise WavecastError(
            f"{path} has an aggregate tokenizer (one for each of several languages), which is not supported",
            "take a model of one language: its tokenizer.type is bpe",
        )
    if kind != "bpe":
        raise WavecastError(f"{path} has a tokenizer of type {str(kind)[:40]!a}", "supported is bpe (SentencePiece)")
    pointer = section.get("model_path")
    if pointer is not None:
        name = str(pointer).removeprefix("nemo:").removeprefix("./")
        return Tokenizer(_content(archive, members, name, MOST_TOKENIZER, path))
    listed = list(vocabularies(configuration).values())
    if not listed:
        raise WavecastError(f"{path} has neither a tokenizer nor a vocabulary", HINT)
    return Tokenizer.from_pieces(listed[0])


def vocabularies(configuration: Mapping[str, Any]) -> dict[str, list[str]]:
    """Find the lists of pieces in a configuration, by their place in it.

    Raises:
        WavecastError: one is not a list of text.
    """
    places = ("joint.vocabulary", "aux_ctc.decoder.vocabulary", "decoder.vocabulary", "labels")
    found: dict[str, list[str]] = {}
    for place in places:
        node: Any = configuration
        for part in place.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None:
            continue
        if not isinstance(node, list) or not all(isinstance(piece, str) for piece in node):
            raise WavecastError(f"{place} of the configuration is no list of text", HINT)
        found[place] = node
    return found


def check_vocabulary(configuration: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Compare the lists of pieces in a configuration with the tokenizer's.

    Raises:
        WavecastError: they differ: names the place, and the first difference.
    """
    hint = "tokenizer and configuration are of different models: fetch the archive again"
    for place, pieces in vocabularies(configuration).items():
        if len(pieces) != len(tokenizer):
            raise WavecastError(
                f"{place} has {len(pieces)} entries, the tokenizer {len(tokenizer)}: the vocabulary is inconsistent",
                hint,
            )
        for number, (one, other) in enumerate(zip(pieces, tokenizer.pieces, strict=True)):
            if one != other:
                raise WavecastError(
                    f"entry {number} of {place} is {one[:40]!a}, the tokenizer's is {other[:40]!a}: the vocabulary is "
                    "inconsistent",
                    hint,
                )


def _tensors(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> dict[str, Tensor]:
    """Read the weights straight out of the archive.

    Raises:
        WavecastError: they are no named, dense tensors, or come compressed or with code.
    """
    name = path / WEIGHTS
    try:
        with zipfile.ZipFile(_stream(archive, member)) as inner:
            stored = sum(entry.file_size for entry in inner.infolist())
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError) as error:
        raise WavecastError(f"{name} was not written by torch 1.6 or later, or is damaged", HINT) from error
    if stored > member.size:
        raise WavecastError(f"{name} is refused: it expands from {member.size} to {stored} bytes", HINT)
    tensors = load_pickle(name, _stream(archive, member))
    strange = [str(key)[:80] for key, tensor in tensors.items() if not (isinstance(key, str) and _is_dense(tensor))]
    if strange:
        raise WavecastError(f"{name} holds more than named tensors: {strange[0]!a}", HINT)
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _is_dense(tensor: Any) -> bool:
    """Tell a plain tensor of numbers from sparse, quantized and virtual ones."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and (tensor.is_floating_point() or tensor.dtype == torch.int64)
    )


def write_archive(archive: NemoArchive, path: Path) -> None:
    """Write an archive that NeMo can read; the same content gives the same bytes.

    Args:
        archive: what to write; its configuration may lack the tokenizer's file names.
        path: of the file, which appears whole or not at all.

    Raises:
        WavecastError: the file cannot be written.
    """
    files = {
        "model_path": ("tokenizer.model", archive.tokenizer.model),
        "vocab_path": ("vocab.txt", vocabulary_text(archive.tokenizer)),
        "spe_tokenizer_vocab": ("tokenizer.vocab", score_table(archive.tokenizer)),
    }
    section = dict(archive.configuration["tokenizer"])
    contents: dict[str, bytes] = {}
    for key, (name, content) in files.items():
        if section.get(key) is None:
            section[key] = f"nemo:{hashlib.md5(content, usedforsecurity=False).hexdigest()}_{name}"
        contents[section[key].removeprefix("nemo:")] = content
    text = yaml.dump(
        {**archive.configuration, "tokenizer": section},
        Dumper=PlainDumper,
        sort_keys=False,
        allow_unicode=True,
        width=1 << 16,
    )
    contents[CONFIGURATION] = text.encode()
    weights = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in archive.tensors.items()}, weights)
    with whole_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(contents):
            _add(tar, name, io.BytesIO(contents[name]))
        _add(tar, WEIGHTS, weights)


def _add(archive: tarfile.TarFile, name: str, content: io.BytesIO) -> None:
    """Add a member without owner and time, which would make every file another."""
    member = tarfile.TarInfo(f"./{name}")
    member.size, member.mode = content.getbuffer().nbytes, 0o644
    content.seek(0)
    archive.addfile(member, content)


class PlainDumper(yaml.SafeDumper):
    """Writes YAML without aliases: a list that is there twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Tell that nothing is an alias."""
        return True


def vocabulary_text(tokenizer: Tokenizer) -> bytes:
    """List the pieces as NeMo's `vocab.txt` does: `##` before what continues a word, the unknown one left out."""
    rows = [
        piece.removeprefix(WORD) if piece.startswith(WORD) else f"##{piece}"
        for piece in tokenizer.pieces
        if piece != UNKNOWN
    ]
    return "".join(f"{row}\n" for row in rows).encode()


def score_table(tokenizer: Tokenizer) -> bytes:
    """List pieces and scores as SentencePiece's `.vocab` does."""
    rows = (f"{piece}\t{tokenizer.score(number):g}\n" for number, piece in enumerate(tokenizer.pieces))
    return "".join(rows).encode()
