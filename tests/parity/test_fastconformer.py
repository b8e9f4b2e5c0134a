"""FastConformer as NeMo computes it: the recorded outputs of an archive that NeMo wrote, offline and live; and back."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import seeded_signal
from torch import Tensor

from wavecast.apps.transcription.decoding import Decoder, GreedyCTC, GreedyTransducer, Tokens
from wavecast.apps.transcription.fastconformer import FastConformer
from wavecast.apps.transcription.fastconformer_official import (
    configuration,
    convert_state,
    hyperparameters,
    official_state,
    read_transcriber,
    write_transcriber,
)
from wavecast.apps.transcription.nemo_archive import NemoArchive, read_archive, write_archive
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.cards import Card, build_network
from wavecast.core.errors import WavecastError
from wavecast.core.log_mel import LogMel

ARCHIVE = Path(__file__).with_name("fastconformer_streaming_tiny.nemo")
LOOKAHEADS = (0, 1, 6, 13)
PIECES = ["<unk>", *(f"▁{letter}" for letter in "abcdefgh"), *"abcdefgh"]


@pytest.fixture(scope="module")
def record() -> dict[str, np.ndarray]:
    with np.load(ARCHIVE.with_suffix(".npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def signal() -> Tensor:
    return torch.from_numpy(seeded_signal(96777))[None]


@pytest.fixture(scope="module")
def archive() -> NemoArchive:
    return read_archive(ARCHIVE)


@pytest.fixture(scope="module")
def model() -> tuple[FastConformer, Tokenizer]:
    _, network, tokenizer = read_transcriber(ARCHIVE)
    return network, tokenizer


def relative(found: Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def in_pieces(total: int, seed: int) -> list[tuple[int, int]]:
    """Cut a signal at random places: some pieces are a few samples, some empty, some seconds."""
    random = np.random.default_rng(seed)
    cuts = np.cumsum((2 ** random.uniform(0, 15, 200)).astype(int))
    inside = sorted([*cuts[cuts < total].tolist(), total // 2, total // 2])
    return list(pairwise([0, *inside, total]))


def decoded(decoder: Decoder, frames: Tensor, pieces: list[tuple[int, int]]) -> Tokens:
    """Decode frames (1, time, width) piece by piece."""
    state, tokens = decoder.begin(1), Tokens()
    for start, end in pieces:
        (found,), state = decoder.step(frames[:, start:end], state)
        tokens.extend(found)
    tokens.extend(decoder.pending(state)[0])
    return tokens


@torch.inference_mode()
def test_the_features(model: tuple[FastConformer, Tokenizer], signal: Tensor, record: dict[str, np.ndarray]) -> None:
    features, _ = model[0].get_submodule("features")(signal)
    assert relative(features[0].T, record["log_mel"]) < 1e-5


@torch.inference_mode()
def test_stored_filters_and_window_are_those_that_are_computed(archive: NemoArchive) -> None:
    """NeMo's come from librosa in another precision: the largest of both is 0.025."""
    computed = LogMel()
    stored = archive.tensors["preprocessor.featurizer.fb"][0].T
    assert (computed.filters - stored).abs().max() < 1e-5 * stored.max()
    assert (computed.window - archive.tensors["preprocessor.featurizer.window"]).abs().max() < 1e-6


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@torch.inference_mode()
def test_the_recorded_outputs(
    model: tuple[FastConformer, Tokenizer], signal: Tensor, record: dict[str, np.ndarray], lookahead: int
) -> None:
    """Frames of the file, and live in random pieces; classes, tokens, their frames and the text."""
    network, tokenizer = model
    assert (70, lookahead) in network.contexts
    network.choose_context(70, lookahead)
    assert network.period == 1280 * (lookahead + 1)
    offline, _ = network(signal)
    state, outputs = None, []
    pieces = in_pieces(signal.shape[1], lookahead)
    for start, end in pieces:
        y, state = network(signal[:, start:end], state, last=end == signal.shape[1] and (start, end) == pieces[-1])
        outputs.append(y)
    live = torch.cat(outputs, 1)
    expected = {name: record[f"lookahead{lookahead}_{name}"] for name in ("encoder", "ctc_argmax", "rnnt_tokens")}
    frames, text = record[f"lookahead{lookahead}_rnnt_frames"], str(record[f"lookahead{lookahead}_rnnt_text"])
    for y in (offline, live):
        assert relative(y[0].T, expected["encoder"]) < 1e-5
        assert np.array_equal(network.ctc(y)[0].argmax(-1).numpy(), expected["ctc_argmax"])
        found = decoded(GreedyTransducer(network.prediction, network.joint), y, [(0, 20), (20, 21), (21, 77)])
        assert found.ids == expected["rnnt_tokens"].tolist()
        assert found.frames == frames.tolist()
        assert tokenizer.decode(found.ids) == text


@torch.inference_mode()
def test_the_recorded_decoding(model: tuple[FastConformer, Tokenizer], record: dict[str, np.ndarray]) -> None:
    """Of frames that were drawn at random, so that symbols vary more than those of an untrained encoder."""
    network, tokenizer = model
    frames = torch.from_numpy(record["decoder_input"]).T[None].contiguous()
    assert np.array_equal(network.ctc(frames)[0].argmax(-1).numpy(), record["decoder_ctc_argmax"])
    for pieces in ([(0, 60)], [(i, i + 1) for i in range(60)], [(0, 7), (7, 7), (7, 60)]):
        found = decoded(GreedyTransducer(network.prediction, network.joint), frames, pieces)
        assert found.ids == record["decoder_rnnt_tokens"].tolist()
        assert found.frames == record["decoder_rnnt_frames"].tolist()
        assert tokenizer.decode(found.ids) == str(record["decoder_rnnt_text"])
        merged = decoded(GreedyCTC(network.ctc, network.blank), frames, pieces)
        assert merged.ids == collapsed(record["decoder_ctc_argmax"], network.blank)


def collapsed(classes: np.ndarray, blank: int) -> list[int]:
    """Merge repetitions and drop blanks."""
    before = [blank, *classes[:-1].tolist()]
    return [one for one, last in zip(classes.tolist(), before, strict=True) if one not in (last, blank)]


def test_every_tensor_is_used_once(archive: NemoArchive) -> None:
    """Sums of cubes tell permutations from losses; what is renamed back is what was there."""
    network = build_network(card_of(hyperparameters(archive)))
    state = convert_state(archive, network)
    assert state.keys() == network.state_dict().keys()
    assert len(state) == len(archive.tensors) == 138
    cubes = [sum(t.double().pow(3).sum().item() for t in group) for group in (state.values(), archive.tensors.values())]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)
    network.load_state_dict(state)
    back = official_state(network, archive.configuration)
    assert back.keys() == archive.tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in archive.tensors.items())


def test_the_large_model_has_its_published_size() -> None:
    """The streaming hybrid of 1024 byte pairs: parameters of encoder, prediction, joint and CTC head."""
    with torch.device("meta"):
        network = build_network(card_of({"vocabulary": 1024, "prediction_width": 640}))
    parts = [network.get_submodule(name) for name in ("encoder", "prediction", "joint", "ctc")]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts == [108_893_184, 3_937_920, 1_395_585, 525_825]
    assert sum(parameter.numel() for parameter in network.parameters()) == 114_752_514


def test_the_configuration_that_is_written_is_the_one_that_was_read(archive: NemoArchive) -> None:
    """Section by section, where NeMo's own has something that a model is built from."""
    ours, theirs = configuration(hyperparameters(archive), archive.tokenizer), archive.configuration
    for place in ("sample_rate", "model_defaults", "preprocessor", "decoder", "joint", "labels", "target"):
        assert ours[place] == theirs[place], place
    assert ours["aux_ctc"]["decoder"] == theirs["aux_ctc"]["decoder"]
    training = {name for name in theirs["encoder"] if name.startswith(("stochastic", "att_context_probs"))}
    assert ours["encoder"] == {
        **{name: value for name, value in theirs["encoder"].items() if name not in training},
        "untie_biases": True,
    }


def card_of(options: dict) -> Card:
    return Card("fastconformer.mine", "fastconformer", "transcribe", options, 16_000)


BASE = {
    "vocabulary": len(PIECES),
    "width": 16,
    "layers": 2,
    "heads": 2,
    "subsampling_channels": 8,
    "kernel": 5,
    "contexts": [[6, 1], [4, 0]],
}
SHAPES = {
    "hybrid": {"prediction_width": 12, "joint_width": 10},
    "transducer": {"ctc": False, "prediction_width": 12, "joint_width": 10, "prediction_layers": 2},
    "ctc": {"contexts": [[8, 3]]},
    "no dropout": {"prediction_width": 12, "joint_width": 10, "dropout_transducer": 0.0},
    "offline": {
        "contexts": [[-1, -1]],
        "style": "regular",
        "causal_subsampling": False,
        "causal_convolution": False,
        "norm": "batch",
        "normalize": "per_feature",
        "scale_input": False,
        "bias": False,
    },
    "regular": {"contexts": [[10, 2]], "style": "regular", "mels": 40, "expansion": 2, "dither": 0.0},
}


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_network_of_our_own_becomes_an_archive_and_comes_back(tmp_path: Path, shape: str, signal: Tensor) -> None:
    """Of every kind, with no archive behind it: equal configuration, tokenizer, numbers and output."""
    torch.manual_seed(0)
    card, tokenizer = card_of({**BASE, **SHAPES[shape]}), Tokenizer.from_pieces(PIECES)
    network = build_network(card).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    write_transcriber(network, card, tokenizer, tmp_path / "mine.nemo")
    read_card, read_network, read_tokenizer = read_transcriber(tmp_path / "mine.nemo")
    assert (read_card.name, read_card.task, read_card.sample_rate) == ("fastconformer.mine", "transcribe", 16_000)
    assert read_tokenizer.model == tokenizer.model
    for name, tensor in network.state_dict().items():
        assert torch.equal(read_network.state_dict()[name], tensor), name
    x = signal[:, :20_000]
    assert torch.equal(read_network(x)[0], network(x)[0])
    assert read_network.contexts == network.contexts
    write_transcriber(read_network, read_card, read_tokenizer, tmp_path / "again.nemo")
    assert (tmp_path / "again.nemo").read_bytes() == (tmp_path / "mine.nemo").read_bytes()


def written(options: dict, **sections: dict) -> NemoArchive:
    """Make an archive of a small network, some of whose sections hold other values."""
    tokenizer = Tokenizer.from_pieces(PIECES)
    settings = configuration({**BASE, **options}, tokenizer)
    tensors = official_state(build_network(card_of({**BASE, **options})), settings)
    for place, changes in sections.items():
        *outer, last = place.split("__")
        section = settings
        for name in outer:
            section = section[name]
        section[last] = {**section[last], **changes}
    return NemoArchive(settings, tokenizer, tensors)


HYBRID = SHAPES["hybrid"]


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"encoder": {"subsampling": "vggnet"}}, "encoder.subsampling is 'vggnet', supported is dw_striding"),
        ({"encoder": {"subsampling": None}}, "encoder.subsampling is None"),
        ({"encoder": {"subsampling_factor": 4}}, "encoder.subsampling_factor is 4, supported is 8"),
        ({"encoder": {"self_attention_model": "abs_pos"}}, "encoder.self_attention_model is 'abs_pos'"),
        ({"encoder": {"att_context_style": "chunked_limited_with_rc"}}, "encoder.att_context_style is"),
        ({"encoder": {"att_context_size": [70, 13, 2]}}, "encoder.att_context_size is"),
        ({"encoder": {"att_context_size": [[70, "a"]]}}, "encoder.att_context_size is"),
        ({"encoder": {"conv_norm_type": "group_norm4"}}, "encoder.conv_norm_type is 'group_norm4'"),
        ({"encoder": {"conv_context_size": [1, 1]}}, "encoder.conv_context_size is"),
        ({"encoder": {"reduction": "striding"}}, "encoder.reduction is 'striding', supported is nothing"),
        ({"encoder": {"global_tokens": 2}}, "encoder.global_tokens is 2, supported is 0"),
        ({"encoder": {"untie_biases": False}}, "encoder.untie_biases is False"),
        ({"encoder": {"n_layers": 10**9}}, "encoder.n_layers is 1000000000, supported is 1 to"),
        ({"encoder": {"d_model": True}}, "encoder.d_model is True"),
        ({"encoder": {"d_model": None}}, "encoder.d_model is None"),
        ({"encoder": {"_target_": "nemo.collections.asr.modules.SqueezeformerEncoder"}}, "encoder._target_ is"),
        ({"encoder": {"magic": 3}}, "encoder.magic is 3, and nothing is known of it"),
        ({"encoder": {"dropout": 2}}, "encoder.dropout is 2, supported is 0 to 1"),
        ({"preprocessor": {"normalize": "all_features"}}, "preprocessor.normalize is 'all_features'"),
        ({"preprocessor": {"window_stride": 0.02}}, "preprocessor.window_stride is 0.02, supported is 0.01"),
        ({"preprocessor": {"log_zero_guard_type": "clamp"}}, "preprocessor.log_zero_guard_type is 'clamp'"),
        ({"preprocessor": {"frame_splicing": 3}}, "preprocessor.frame_splicing is 3, supported is 1"),
        ({"preprocessor": {"features": 64}}, "encoder.feat_in is 80, supported is 64"),
        ({"joint": {"num_extra_outputs": 5}}, "TDT durations"),
        ({"joint__jointnet": {"activation": "tanh"}}, "joint.jointnet.activation is 'tanh', supported is relu"),
        ({"joint": {"num_classes": 5}}, "joint.num_classes is 5, supported is 17 or -1"),
        ({"decoder": {"_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder"}}, "decoder._target_ is"),
        ({"decoder": {"blank_as_pad": False}}, "decoder.blank_as_pad is False"),
        ({"aux_ctc__decoder": {"num_classes": 5}}, "aux_ctc.decoder.num_classes is 5"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(sections: dict, fault: str) -> None:
    with pytest.raises(WavecastError) as error:
        hyperparameters(written(HYBRID, **sections))
    assert fault in error.value.message
    assert "another model" in error.value.hint


def test_what_the_configuration_leaves_out_is_what_nemo_takes() -> None:
    archive = written({**HYBRID, "contexts": [[-1, -1]], "style": "regular", "norm": "batch", "kernel": 31})
    wanted = hyperparameters(archive)
    left_out = ("att_context_size", "att_context_style", "conv_norm_type", "conv_kernel_size", "ff_expansion_factor")
    for name in (*left_out, "use_bias", "xscaling", "untie_biases", "self_attention_model", "dropout", "feat_out"):
        del archive.configuration["encoder"][name]
    assert hyperparameters(archive) == wanted
    del archive.configuration["preprocessor"]["normalize"]
    assert hyperparameters(archive)["normalize"] == "per_feature"
    archive.configuration["preprocessor"]["normalize"] = None
    assert hyperparameters(archive)["normalize"] == ""


def test_missing_sections_are_named() -> None:
    for name in ("preprocessor", "encoder", "decoder", "joint"):
        archive = written(HYBRID)
        del archive.configuration[name]
        with pytest.raises(WavecastError, match=f"the configuration has no section {name}"):
            hyperparameters(archive)


def test_faults_of_the_weights_are_listed() -> None:
    archive = written(HYBRID)
    network = build_network(card_of(hyperparameters(archive)))
    tensors = dict(archive.tensors)
    del tensors["encoder.layers.1.self_attn.linear_pos.weight"]
    tensors["encoder.extra"] = torch.zeros(3)
    tensors["joint.joint_net.2.weight"] = torch.zeros(17, 10)
    with pytest.raises(WavecastError) as error:
        convert_state(NemoArchive(archive.configuration, archive.tokenizer, tensors), network)
    message = error.value.message
    assert "3 tensors do not fit the configuration" in message
    assert "encoder.layers.1.self_attn.linear_pos.weight (16, 16) is missing" in message
    assert "'encoder.extra' (3,) is unknown" in message
    assert "joint.joint_net.2.weight is (17, 10), expected (18, 10)" in message


def test_what_old_archives_lack_is_computed() -> None:
    archive = written(SHAPES["offline"])
    network = build_network(card_of(hyperparameters(archive)))
    optional = ("featurizer.window", "featurizer.fb", "num_batches_tracked")
    tensors = {name: tensor for name, tensor in archive.tensors.items() if not name.endswith(optional)}
    assert len(archive.tensors) - len(tensors) == 4
    state = convert_state(NemoArchive(archive.configuration, archive.tokenizer, tensors), network)
    network.load_state_dict(state)
    assert torch.equal(state["features.log_mel.filters"], LogMel().filters)


def test_layers_are_counted_before_they_are_built(tmp_path: Path) -> None:
    archive = written(HYBRID, encoder={"n_layers": 100})
    write_archive(archive, tmp_path / "a.nemo")
    with pytest.raises(WavecastError, match=r"the weights have 2 layers, encoder\.n_layers is 100"):
        read_transcriber(tmp_path / "a.nemo")


VALUES = (
    0,
    1,
    -1,
    3,
    64,
    8192,
    10**30,
    0.5,
    True,
    None,
    "",
    "causal",
    [],
    [1],
    {},
    [[70, 13]],
    "${model.labels}",
    ".nan",
)


def test_damaged_configurations_give_a_network_or_a_clear_error(tmp_path: Path) -> None:
    """Any value at any place of what a network is built from; giant sizes are refused before they are built."""
    path, outcomes = tmp_path / "a.nemo", set()
    for case in range(150):
        random = np.random.default_rng((13, case))
        archive = written(HYBRID)
        for _ in range(int(random.integers(1, 3))):
            section = archive.configuration[
                str(random.choice(["encoder", "preprocessor", "decoder", "joint", "aux_ctc"]))
            ]
            while inner := [value for value in section.values() if isinstance(value, dict) and value]:
                if random.random() < 0.3:
                    break
                section = inner[int(random.integers(len(inner)))]
            section[str(random.choice(list(section)))] = VALUES[int(random.integers(len(VALUES)))]
        try:
            write_archive(archive, path)
            read_transcriber(path)
            outcomes.add("read")
        except WavecastError as error:
            assert "\n" not in error.message
            assert error.message.isprintable()
            outcomes.add(error.message.replace(str(path), "")[:30])
        except Exception as error:
            raise AssertionError(f"case {case}") from error
    assert "read" in outcomes
    assert len(outcomes) > 20
