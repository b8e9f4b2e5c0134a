"""`.nemo` archives: one that NeMo wrote is read and written back exactly; damaged ones end in a clear error."""

import gzip
import io
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wavecast.apps.transcription import nemo_archive
from wavecast.apps.transcription.nemo_archive import (
    CONFIGURATION,
    MOST_BYTES,
    MOST_MEMBERS,
    TARGETS,
    WEIGHTS,
    NemoArchive,
    PlainDumper,
    read_archive,
    score_table,
    vocabulary_text,
    write_archive,
)
from wavecast.apps.transcription.nemo_configuration import parse_configuration, resolved
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.core.errors import WavecastError

WRITTEN_BY_NEMO = Path(__file__).parents[1] / "parity" / "fastconformer_streaming_tiny.nemo"
PIECES = ["<unk>", "▁th", "e", "▁", "t", "h", "▁on", "o", "n"]
ROOM = 200 << 20
POINTER = f"{'0' * 32}_tokenizer.model"


def small_configuration():
    """The configuration of a tiny hybrid, as far as reading an archive looks into it."""
    return {
        "sample_rate": 16000,
        "model_defaults": {"enc_hidden": 8},
        "tokenizer": {"dir": "/gone", "type": "bpe", "model_path": f"nemo:{POINTER}"},
        "encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder", "d_model": 8, "dropout": 0.1},
        "joint": {"vocabulary": PIECES},
        "aux_ctc": {"decoder": {"vocabulary": PIECES}},
        "labels": PIECES,
        "target": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    }


def written(configuration):
    return yaml.dump(configuration, Dumper=PlainDumper, sort_keys=False, allow_unicode=True).encode()


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def small_tensors():
    generator = torch.Generator().manual_seed(0)
    return {"encoder.a": torch.randn(3, 4, generator=generator), "joint.b": torch.randn(5, generator=generator)}


def contents(**changes):
    """The members of a small archive by name; `configuration`, `weights` and `tokenizer` replace them, None drops."""
    parts = {
        "tokenizer": Tokenizer.from_pieces(PIECES).model,
        "configuration": written(small_configuration()),
        "weights": saved(small_tensors()),
        **changes,
    }
    names = {"configuration": CONFIGURATION, "weights": WEIGHTS, "tokenizer": POINTER}
    return {names[part]: content for part, content in parts.items() if content is not None}


def member(name, **facts):
    one = tarfile.TarInfo(name)
    for fact, value in facts.items():
        setattr(one, fact, value)
    return one


def archived(files, extra=(), prefix="./"):
    """Write a tar of files by name, and of further members with their content."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            tar.addfile(member(f"{prefix}{name}", size=len(content)), io.BytesIO(content))
        for one, content in extra:
            tar.addfile(one, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture
def read(tmp_path):
    """Read bytes as an archive."""

    def read(data):
        path = tmp_path / "model.nemo"
        path.write_bytes(data)
        return read_archive(path)

    return read


def assert_same(one, other):
    assert one.configuration == other.configuration
    assert one.tokenizer.model == other.tokenizer.model
    assert list(one.tensors) == list(other.tensors)
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype
        assert torch.equal(tensor, other.tensors[name]), name


def test_what_nemo_wrote():
    archive = read_archive(WRITTEN_BY_NEMO)
    assert archive.target == "EncDecHybridRNNTCTCBPEModel"
    assert archive.configuration["encoder"]["att_context_size"] == [[70, 13], [70, 6], [70, 1], [70, 0]]
    assert len(archive.tokenizer) == 1024
    assert archive.tokenizer.pieces[:4] == ("<unk>", "▁t", "▁a", "▁i")
    with tarfile.open(WRITTEN_BY_NEMO) as tar:
        content = tar.extractfile(f"./{WEIGHTS}").read()
    expected = torch.load(io.BytesIO(content), weights_only=True)
    assert len(archive.tensors) == len(expected) == 138
    assert all(torch.equal(archive.tensors[name], tensor) for name, tensor in expected.items())


def test_written_back_it_is_what_nemo_wrote(tmp_path):
    """Configuration, tokenizer and weights are equal; the vocabulary's two files byte for byte."""
    archive = read_archive(WRITTEN_BY_NEMO)
    write_archive(archive, tmp_path / "back.nemo")
    assert_same(archive, read_archive(tmp_path / "back.nemo"))
    with tarfile.open(WRITTEN_BY_NEMO) as theirs, tarfile.open(tmp_path / "back.nemo") as ours:
        files = {one.name: theirs.extractfile(one).read() for one in theirs if one.isfile()}
        assert sorted(files) == [one.name for one in ours]
        for name, content in files.items():
            if not name.endswith((CONFIGURATION, WEIGHTS)):
                assert ours.extractfile(name).read() == content, name
        assert parse_configuration(files[f"./{CONFIGURATION}"]) == archive.configuration


def test_the_same_content_gives_the_same_bytes(tmp_path, monkeypatch):
    archive = NemoArchive(small_configuration(), Tokenizer.from_pieces(PIECES), small_tensors())
    write_archive(archive, tmp_path / "a.nemo")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_archive(archive, tmp_path / "b.nemo")
    assert (tmp_path / "a.nemo").read_bytes() == (tmp_path / "b.nemo").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nemo", "b.nemo"]


def test_the_tokenizers_files_are_named_after_their_content(tmp_path):
    configuration = {**small_configuration(), "tokenizer": {"type": "bpe"}}
    tokenizer = Tokenizer.from_pieces(PIECES)
    write_archive(NemoArchive(configuration, tokenizer, small_tensors()), tmp_path / "a.nemo")
    section = read_archive(tmp_path / "a.nemo").configuration["tokenizer"]
    assert list(section) == ["type", "model_path", "vocab_path", "spe_tokenizer_vocab"]
    with tarfile.open(tmp_path / "a.nemo") as tar:
        assert {f"./{section[key].removeprefix('nemo:')}" for key in list(section)[1:]} < set(tar.getnames())
    for key, ending in (("model_path", "_tokenizer.model"), ("vocab_path", "_vocab.txt")):
        digest = section[key].removeprefix("nemo:").removesuffix(ending)
        assert len(digest) == 32
        int(digest, 16)
    assert vocabulary_text(tokenizer).decode().split("\n")[:4] == ["th", "##e", "", "##t"]
    assert score_table(tokenizer).decode().split("\n")[:3] == ["<unk>\t0", "▁th\t-0", "e\t-1"]


@pytest.mark.parametrize("prefix", ["./", ""])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_old_and_new_forms(read, prefix, packed):
    data = archived(contents(), prefix=prefix)
    archive = read(gzip.compress(data) if packed else data)
    assert archive.configuration == small_configuration()
    assert archive.tokenizer.pieces == tuple(PIECES)
    assert all(torch.equal(archive.tensors[name], tensor) for name, tensor in small_tensors().items())


def test_a_folder_and_strangers_are_passed_over(read):
    extra = [(member("./", type=tarfile.DIRTYPE), b""), (member("./more/notes.txt", size=5), b"hello")]
    assert read(archived(contents(), extra)).target == "EncDecHybridRNNTCTCBPEModel"


def test_without_a_tokenizer_the_vocabulary_is_one(read):
    configuration = {**small_configuration(), "tokenizer": {"type": "bpe"}}
    archive = read(archived(contents(configuration=written(configuration), tokenizer=None)))
    assert archive.tokenizer.pieces == tuple(PIECES)
    assert archive.tokenizer.decode([1, 2, 6, 2]) == "the one"


NEVER_FOLLOWED = [
    (member("../outside", size=1), "leads out of the archive"),
    (member("a/../../outside", size=1), "leads out of the archive"),
    (member("/etc/passwd", size=1), "leads out of the archive"),
    (member("..\\outside", size=1), "leads out of the archive"),
    (member("c:\\outside", size=1), "leads out of the archive"),
    (member("./link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link, a device or no plain file"),
    (member("./link", type=tarfile.LNKTYPE, linkname="./model_config.yaml"), "is a link"),
    (member("./device", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "is a link, a device"),
    (member("./pipe", type=tarfile.FIFOTYPE), "is a link, a device"),
    (member(f"./{CONFIGURATION}", size=1), "is there twice"),
]


@pytest.mark.parametrize(("one", "fault"), NEVER_FOLLOWED)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_members_that_lead_elsewhere_are_refused(read, tmp_path, one, fault, packed):
    data = archived(contents(), [(one, bytes(one.size))])
    with pytest.raises(WavecastError, match=rf"is refused: its member .* {fault}.*\nhint: "):
        read(gzip.compress(data) if packed else data)
    assert [path.name for path in tmp_path.iterdir()] == ["model.nemo"]


def test_the_number_of_members_is_bounded(read):
    few = [(member(f"./{i}"), b"") for i in range(MOST_MEMBERS - 3)]
    assert read(archived(contents(), few)).target
    with pytest.raises(WavecastError, match=f"more than {MOST_MEMBERS} members"):
        read(archived(contents(), [*few, (member("./one"), b"")]))


@pytest.mark.parametrize("name", [CONFIGURATION, WEIGHTS, POINTER])
def test_missing_members_are_named(read, name):
    files = contents()
    del files[name]
    with pytest.raises(WavecastError, match=rf"has no '{name}'; it holds .*\nhint: .*fetch it again"):
        read(archived(files))


@pytest.mark.parametrize("size", [1 << 20, 1 << 33, 1 << 60])
def test_a_declared_size_beyond_the_end(read, size):
    """The header says more than there is: nothing of that size is allocated."""
    header = member("./huge", size=size).tobuf(tarfile.GNU_FORMAT)
    data = archived(contents()).rstrip(b"\0")
    data += bytes(-len(data) % 512) + header + bytes(1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WavecastError, match=r"is truncated|is damaged: its list of members"):
        read(data)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"S"], ids=["pax", "pax of all", "name", "link", "sparse"])
def test_headers_that_promise_more_headers(read, kind):
    """Extended headers have a declared size, too, and may be followed by others without end."""
    huge = member("./a", type=kind, size=1 << 34).tobuf(tarfile.GNU_FORMAT)
    for data in (huge + bytes(1 << 16), member("./a", type=kind, size=0).tobuf(tarfile.GNU_FORMAT) * 5000):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WavecastError, match=r"\nhint: the file is no \.nemo archive"):
            read(data)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM


def test_sizes_have_limits(read, monkeypatch):
    monkeypatch.setattr(nemo_archive, "MOST_CONFIGURATION", 100)
    with pytest.raises(WavecastError, match=rf"'{CONFIGURATION}' has \d+ bytes, more than 100"):
        read(archived(contents()))
    monkeypatch.setattr(nemo_archive, "MOST_BYTES", 1000)
    with pytest.raises(WavecastError, match=r"bytes, more than 1000"):
        read(archived(contents()))
    assert MOST_BYTES > 5e9, "the largest official model has 1.2 billion parameters"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_truncated_archives(read, share, packed):
    data = archived(contents()).rstrip(b"\0")
    data = gzip.compress(data) if packed else data
    with pytest.raises(WavecastError, match=r"damaged|truncated|has no .*\nhint: "):
        read(data[: int(share * len(data))])


def a_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(CONFIGURATION, written(small_configuration()))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (a_zip(), "is a zip"),
        (b"", "is neither a tar file nor one in gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 20, "is neither a tar file nor one in gzip"),
        (bytes(10240), "has no 'model_config.yaml'"),
        (b"\x1f\x8b" + bytes(100), "is damaged: gzip cannot expand it"),
        (gzip.compress(b"no tar" * 500), "is neither a tar file nor one in gzip"),
    ],
)
def test_what_is_no_archive(read, data, fault):
    with pytest.raises(WavecastError, match=rf"{fault}.*\nhint: the file is no \.nemo archive"):
        read(data)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing.nemo", tmp_path):
        with pytest.raises(WavecastError, match=r"cannot be read: .*\nhint: check the path"):
            read_archive(path)


def deflated(content):
    """The same weights, compressed as torch never does."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as stored, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    return target.getvalue()


def test_bombs_stay_small(read):
    """Kilobytes that would become many megabytes: of gzip, and of weights that are compressed inside."""
    zeros = torch.zeros(1 << 22)
    bomb = deflated(saved({"a": zeros}))
    del zeros
    tar = archived(contents(weights=bomb))
    packed = gzip.compress(bytes(1 << 26), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WavecastError, match=r"is refused: it expands from \d+ to \d+ bytes"):
        read(tar)
    with pytest.raises(WavecastError, match="expands to more than 20 times its size"):
        read(packed)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM


class Trap:
    """Leaves a folder behind when it is unpickled by a reader that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_with_code_is_refused_and_never_run(read, tmp_path):
    mark = tmp_path / "it_ran"
    weights = saved({**small_tensors(), "trap": Trap(mark)})
    with pytest.raises(WavecastError, match=rf"{WEIGHTS} is refused: .* holds code or objects"):
        read(archived(contents(weights=weights)))
    assert not mark.exists()
    torch.load(io.BytesIO(weights), weights_only=False)
    assert mark.exists(), "the trap is none"


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1},
        {"a": "text"},
        {3: torch.zeros(1)},
        {"a": {"b": torch.zeros(1)}},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
        {"a": torch.zeros(2, dtype=torch.complex64)},
        [torch.zeros(1)],
    ],
)
def test_weights_are_named_dense_tensors(read, weights):
    with pytest.raises(WavecastError, match=rf"{WEIGHTS}.*(holds|refused|no torch checkpoint)"):
        read(archived(contents(weights=saved(weights))))


@pytest.mark.parametrize("weights", [b"", b"hello", b"\x80\x02}q\x00."])
def test_weights_of_another_format(read, weights):
    with pytest.raises(WavecastError, match=r"was not written by torch 1\.6 or later, or is damaged"):
        read(archived(contents(weights=weights)))


def changed(**sections):
    return written({**small_configuration(), **sections})


@pytest.mark.parametrize(
    ("configuration", "fault"),
    [
        (changed(labels=PIECES[:-1]), "labels has 8 entries, the tokenizer 9: the vocabulary is inconsistent"),
        (changed(joint={"vocabulary": ["<unk>", "▁tx", *PIECES[2:]]}), "entry 1 of joint.vocabulary is "),
        (changed(aux_ctc={"decoder": {"vocabulary": PIECES[::-1]}}), "entry 0 of aux_ctc.decoder.vocabulary is 'n'"),
        (changed(decoder={"vocabulary": ["a"]}), "decoder.vocabulary has 1 entries, the tokenizer 9"),
        (changed(labels="abc"), "labels of the configuration is no list of text"),
        (changed(labels=[*PIECES[:-1], 7]), "labels of the configuration is no list of text"),
    ],
)
def test_an_inconsistent_vocabulary(read, configuration, fault):
    with pytest.raises(WavecastError, match=rf"{fault}(.|\n)*hint: "):
        read(archived(contents(configuration=configuration)))


@pytest.mark.parametrize(
    ("configuration", "fault", "hint"),
    [
        (
            changed(target="nemo.collections.asr.models.EncDecMultiTaskModel"),
            "EncDecMultiTaskModel",
            "EncDecCTCModelBPE",
        ),
        (changed(target="nemo.collections.asr.models.ctc_models.EncDecCTCModel"), "EncDecCTCModel'", "EncDecRNNTBPE"),
        (changed(target=None), "the class 'None', which is not supported", "EncDecHybridRNNTCTCBPEModel"),
        (changed(target=["a"]), "which is not supported", "supported are FastConformer"),
        (changed(tokenizer={"type": "agg", "langs": {"en": {}}}), "an aggregate tokenizer", "a model of one language"),
        (changed(tokenizer={"type": "wpe"}), "a tokenizer of type 'wpe'", "supported is bpe"),
        (changed(tokenizer=None), "a tokenizer of type 'None'", "supported is bpe"),
        (changed(tokenizer={"type": "bpe", "model_path": "nemo:../x"}), "has no '../x'", "fetch it again"),
    ],
)
def test_what_is_not_supported_is_named(read, configuration, fault, hint):
    with pytest.raises(WavecastError) as error:
        read(archived(contents(configuration=configuration)))
    assert fault in error.value.message
    assert hint in error.value.hint


def test_a_tokenizer_that_is_none(read):
    with pytest.raises(WavecastError, match="the tokenizer cannot be read"):
        read(archived(contents(tokenizer=b"no model at all")))


@pytest.mark.parametrize("target", TARGETS)
def test_every_supported_target(read, target):
    configuration = changed(target=f"{TARGETS[target]}.{target}")
    assert read(archived(contents(configuration=configuration))).target == target


def test_references_are_resolved_against_the_root(read):
    configuration = changed(
        encoder={
            "d_model": "${model.model_defaults.enc_hidden}",
            "name": "w${model_defaults.enc_hidden}x${width}",
        },
        joint={"vocabulary": "${model.labels}", "jointnet": "${model.encoder}"},
        model_defaults={"enc_hidden": "${width}"},
        width=8,
        train_ds={"manifest_filepath": "${oc.env:NOWHERE}", "rate": "${model.sample_rate}"},
    )
    found = read(archived(contents(configuration=configuration))).configuration
    assert found["encoder"] == found["joint"]["jointnet"] == {"d_model": 8, "name": "w8x8"}
    assert found["joint"]["vocabulary"] == PIECES
    assert found["train_ds"] == {"manifest_filepath": "${oc.env:NOWHERE}", "rate": "${model.sample_rate}"}


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"encoder": {"a": "${encoder.b}", "b": "${model.encoder.a}"}}, "lead in a circle"),
        ({"encoder": {"a": "${encoder}"}}, "lead in a circle"),
        ({"encoder": {"a": "x${encoder.a}"}}, "lead in a circle"),
        ({f"a{i}": f"${{a{i + 1}}}" for i in range(50)} | {"encoder": "${a0}"}, "lead in a circle"),
        ({"encoder": "${model.nothing}"}, "refers to '${model.nothing}', which it does not hold"),
        ({"encoder": "${labels.0}"}, "which it does not hold"),
        ({"encoder": "${oc.env:HOME}"}, "which it does not hold"),
        ({"encoder": "a${sample_rate"}, "which it does not hold"),
        ({"encoder": "${a${b}}"}, "which it does not hold"),
        (
            {f"a{i}": [f"${{a{i + 1}}}"] * 50 for i in range(9)} | {"a9": 1, "encoder": "${a0}"},
            "more than 400000 items",
        ),
        ({f"a{i}": f"${{a{i + 1}}}" * 20 for i in range(9)} | {"a9": "x" * 99, "encoder": "${a0}"}, "refers to"),
    ],
)
def test_references_that_lead_nowhere(sections, fault):
    with pytest.raises(WavecastError) as error:
        resolved({**small_configuration(), **sections})
    assert fault in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"a: [1, 2", "is no YAML"),
        (b"a: \xff\xfe", "is no YAML"),
        (b"a: \x00", "is no YAML"),
        (b"", "is a NoneType"),
        (b"- a", "is a list"),
        (b"1: a", "no mapping of sections"),
        (b"a: !!python/object/apply:os.getcwd []", "is no YAML"),
        (b"a: !!int x", "is no YAML"),
        (b"a: !!timestamp x", "is no YAML"),
        (b"a: !!bool x", "is no YAML"),
        (b"a: 2020-99-99", "is no YAML"),
        (b"a: " + b"9" * 5000, "is no YAML"),
        (b"? [a]\n: b", "is no YAML"),
        (b"a: &a [1]\nb: *a", "uses aliases"),
        (b"a: &a [*a]", "uses aliases"),
        (b"a: " + b"[" * 40 + b"]" * 40, "more than 32 levels"),
        (b"a: " + b"[" * 1_000_000, "more than 32 levels"),
        (b"a: " + b"{a: " * 500_000, "more than 32 levels"),
        (b"- " * 1_000_000, "more than 32 levels"),
        (b"a: [" + b"1," * 500_000 + b"]", "400000 items"),
        (b"a: " + b"1:1" * 500_000, "more than 16384 letters"),
        (b"a: " + b"x" * 20_000, "more than 16384 letters"),
    ],
)
def test_configurations_that_are_none(text, fault):
    with pytest.raises(WavecastError, match=rf"the configuration .*{fault}.*\nhint: the archive's model_config\.yaml"):
        parse_configuration(text)


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Change a few things, half the time in what is a header of tar, YAML or torch's directory."""
    damaged = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        size = len(damaged)
        at, length = int(random.integers(size)), int(2 ** random.uniform(0, 9))
        if random.random() < 0.3:
            at = min(size - 1, int(random.choice(HEADERS)) + int(random.integers(512)))
        kind = random.integers(7)
        if kind == 0:
            damaged[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            number = bytes(random.choice([0, 0x20, 0x30, 0x37, 0x39, 0x7F, 0x80, 0xFF], int(random.integers(1, 13))))
            damaged[at : at + len(number)] = number
        elif kind == 2:
            del damaged[at : at + length]
        elif kind == 3:
            damaged[at:at] = random.bytes(length)
        elif kind == 4:
            damaged[at:at] = damaged[at : at + length]
        elif kind == 5:
            damaged[at : at + 512] = checked(damaged[at // 512 * 512 : at // 512 * 512 + 512], random)
        else:
            del damaged[max(1, at) :]
    return bytes(damaged)


HEADERS = [0]
"""Where the members of the small archive begin; `small_archive` sets it."""


def checked(block: bytearray, random: np.random.Generator) -> bytes:
    """Change a tar header in a field, and make its sum right again."""
    if len(block) < 512:
        return bytes(block)
    start, length = [(0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)][int(random.integers(6))]
    value = [bytes(random.integers(48, 56, length, "u1")), random.bytes(length), b"\x80" + random.bytes(length - 1)]
    block[start : start + length] = value[int(random.integers(3))][:length]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def small_archive():
    data = archived(contents())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        HEADERS[:] = [one.offset for one in tar]
    return data.rstrip(b"\0") + bytes(1024)


@pytest.mark.parametrize("kind", ["plain", "gzip", "configuration", "weights", "tokenizer"])
def test_damaged_archives_give_a_model_or_a_clear_error(kind, read):
    """Never another exception, a hang or a giant allocation; messages are one line, however strange the names."""
    whole, outcomes = contents(), set()
    plain = small_archive()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(600):
        random = np.random.default_rng((11, case))
        if kind == "plain":
            data = mutated(plain, random)
        elif kind == "gzip":
            data = gzip.compress(plain, 1)
            data = mutated(data, random) if case % 8 == 0 else gzip.compress(mutated(plain, random), 1)
        else:
            name = {"configuration": CONFIGURATION, "weights": WEIGHTS, "tokenizer": POINTER}[kind]
            data = archived({**whole, name: mutated(whole[name], random)})
        try:
            archive = read(data)
            assert archive.target in TARGETS
            outcomes.add("read")
        except WavecastError as error:
            assert "\n" not in error.message
            assert error.message.isprintable()
            assert len(error.message) < 1000
            assert error.hint
            outcomes.add(error.message.rpartition("model.nemo")[2][:24])
        except Exception as error:
            raise AssertionError(f"case {case} of {kind}") from error
    assert "read" in outcomes
    assert len(outcomes) > 3, outcomes
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM
