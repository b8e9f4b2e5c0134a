"""Flax checkpoints: written here in their format, read back exactly; damaged ones end in one clear error."""

import resource
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from wavecast.apps.forecasting.convs5 import ConvS5
from wavecast.apps.forecasting.convs5_official import convert_state, hyperparameters, parameters, renamed
from wavecast.apps.forecasting.flax_checkpoint import MOST_ITEMS, parse, read_checkpoint
from wavecast.core.errors import WavecastError

ARGUMENTS = {"channels": 1, "depths": (2, 4), "width": 4, "size": 4, "layers": 2, "kernel": 3, "frame_blocks": 1}
ROOM = 200 << 20


def content(array: np.ndarray, name: str = "") -> bytes:
    return msgpack.packb((array.shape, name or array.dtype.name, array.tobytes()))


def extension(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(1, content(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(3, content(np.asarray(value)))
    raise TypeError(type(value))


def written(tree: Any) -> bytes:
    """What flax writes: a MessagePack map; arrays are extension type 1, scalars 3: shape, dtype and bytes."""
    return msgpack.packb(tree, default=extension, strict_types=True)


def random_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {row.theirs: random.standard_normal(row.shape).astype("f4") for row in renamed(ARGUMENTS)}


def training_state() -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, array in random_arrays().items():
        *above, last = name.split("/")
        inner = params
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = array
    moments = {"0": {"count": np.int32(5), "mu": params}, "1": {}}
    return {"step": 5, "params": params, "opt_state": moments, "model_state": {}}


def test_a_training_state_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_5"
    path.write_bytes(written(training_state()))
    tree = read_checkpoint(path)
    assert tree["step"] == 5
    assert tree["opt_state"]["0"]["count"] == 5
    arrays, expected = parameters(tree), random_arrays()
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    ConvS5(**{**hyperparameters(arrays), "groups": 2}).load_state_dict(convert_state(arrays))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint32", "bool"])
def test_arrays_of_every_dtype(dtype: str) -> None:
    for shape in ((), (0,), (3,), (2, 3, 4)):
        array = (np.arange(int(np.prod(shape))).reshape(shape) % 2).astype(dtype)
        found = parse(written({"a": array}))["a"]
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
        assert found.shape == shape


def test_bfloat16_is_widened() -> None:
    exact = torch.tensor([1.5, -0.0078125, 3e38, 0.0]).bfloat16()
    bits = exact.view(torch.int16).numpy()
    found = parse(msgpack.packb({"a": msgpack.ExtType(1, content(bits, "bfloat16"))}))["a"]
    assert found.dtype == np.float32
    assert np.array_equal(found, exact.float().numpy())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "cannot be parsed"),
        (b"PK\x03\x04" + bytes(100), "cannot be parsed"),
        (b"\x89HDF\r\n", "cannot be parsed"),
        (b"\x80\x04\x95" + bytes(30), "cannot be parsed"),  # a pickle: an empty map, and more
        (b"\x81\xa1a", "cannot be parsed"),
        (b"\x81\xa1a\xc1", "cannot be parsed"),
        (b"\x81\xa2\xff\xff\x01", "cannot be parsed"),
        (b"\x81\x01\x01", "cannot be parsed"),
        (b"\x81\xc4\x01a\x01", "without a name"),
        (b"\x82\xa1a\x01\xa1a\x02", "an entry twice"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(2, b"")), "unknown type 2"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, b"")), "cannot be parsed"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, b"\x93\x91\x02\xa1x\xc4\x00")), "dtype x"),
        (written({"a": msgpack.ExtType(1, content(np.zeros(3, "f4"), "object"))}), "dtype object"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(((-1,), "int8", b"")))), r"shape \[-1\]"),
        (
            b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(((1 << 62, 1 << 62), "float32", b"abcd")))),
            "has 4 bytes, expected",
        ),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(((2,) * 9, "int8", bytes(512))))), "cannot be"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(("a", "int8", b"")))), "of shape"),
        (b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(((1,), "int8", 7)))), "has 0 bytes, expected 1"),
    ],
)
def test_what_is_no_checkpoint(data: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(WavecastError, match=rf"{fault}(.|\n)*\nhint: the file is no flax checkpoint"):
        read_checkpoint(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(WavecastError, match=r"cannot be read: .*\nhint: check the path"):
            read_checkpoint(path)


def test_small_files_cannot_make_large_allocations() -> None:
    """Headers that promise millions, nested as deep as they go, and many small entries."""
    bombs = [
        b"\x81\xa1a" + b"\xdd\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\xdd\x00\x00\x10\x00" * 5000,
        b"\x81\xa1a" * 5000,
        b"\x81\xa1a" + b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\xc6\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\xc9\xff\xff\xff\xff\x01",
        b"\x81\xa1a" + b"\xdb\xff\xff\xff\xff",
        msgpack.packb({"a": [[{}] * 4000] * 100}),
        msgpack.packb({"a": {str(i): 0 for i in range(5000)}}),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        with pytest.raises(WavecastError, match="checkpoint"):
            parse(bomb)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM


def test_the_number_of_entries_is_bounded() -> None:
    with pytest.raises(WavecastError, match=f"more than {MOST_ITEMS} entries"):
        parse(msgpack.packb({str(i): [0] * 2000 for i in range(MOST_ITEMS // 2000 + 1)}))


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Change a few things, mostly in what is no array's content."""
    damaged = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        at, length = int(random.integers(len(damaged))), int(2 ** random.uniform(0, 8))
        kind = random.integers(6)
        if kind == 0:
            damaged[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            number = int(random.choice([0, 0x7F, 0x80, 0xC1, 0xC9, 0xDD, 0xDF, 0xFF]))
            damaged[at : at + 4] = bytes([number, *random.bytes(3)])
        elif kind == 2:
            del damaged[at : at + length]
        elif kind == 3:
            damaged[at:at] = random.bytes(length)
        elif kind == 4:
            damaged[at:at] = damaged[at : at + length]
        else:
            del damaged[max(1, at) :]
    return bytes(damaged)


def test_damaged_checkpoints_give_weights_or_a_clear_error() -> None:
    """Never another exception, a hang or a giant allocation; messages are one line, however strange the names."""
    data = written(training_state())
    small = written({"step": 5, "params": {"encoder": {"a": np.zeros(2, "f4")}, "sequence_model": {"b": np.ones(3)}}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = set()
    for case in range(1500):
        random = np.random.default_rng((7, case))
        try:
            arrays = parameters(parse(mutated(data if case % 2 else small, random)))
            converted = convert_state(arrays)
            assert all(tensor.dtype == torch.float32 for tensor in converted.values())
            outcomes.add("converted")
        except WavecastError as error:
            assert "\n" not in error.message
            assert error.message.isprintable()
            assert error.hint
            outcomes.add(error.message.split()[0])
    assert "converted" in outcomes
    assert len(outcomes) > 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM
