"""NeMo's FastConformer models: from their names to ours, and back into an archive that NeMo can read.

    card, network, tokenizer = read_transcriber(Path("stt_en_fastconformer_hybrid_large_streaming_multi.nemo"))
    write_transcriber(network, card, tokenizer, Path("mine.nemo"))

What a network is made of is read off the archive's configuration; what is not supported there is refused by name. Every
tensor of the archive is used, or named in an error. Written archives say what NeMo needs to build the model and to use
it; of the training of the original nothing is left but dropout.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wavecast.apps.transcription.fastconformer import SAMPLE_RATE, FastConformer
from wavecast.apps.transcription.nemo_archive import TARGETS, NemoArchive, read_archive, write_archive
from wavecast.apps.transcription.nemo_configuration import Section
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.cards import Card, build_network, load_strict
from wavecast.core.errors import WavecastError, listed
from wavecast.core.log_mel import FLOOR

MODULES = "nemo.collections.asr.modules"
MOST_LAYERS, MOST_WIDTH, MOST_CHANNELS, MOST_TAPS, MOST_MELS, MOST_CONTEXTS = 128, 8192, 2048, 255, 512, 64
HINT = "configuration and weights are of different models, or the archive is damaged"
FILTERS = "featurizer.fb"
RENAMED = (
    (r"^features\.log_mel\.window$", "preprocessor.featurizer.window"),
    (r"^features\.log_mel\.filters$", "preprocessor.featurizer.fb"),
    (r"^encoder\.subsampling\.stage1\.convolution\.", "encoder.pre_encode.conv.0."),
    (r"^encoder\.subsampling\.stage2\.depthwise\.", "encoder.pre_encode.conv.2."),
    (r"^encoder\.subsampling\.stage2\.pointwise\.", "encoder.pre_encode.conv.3."),
    (r"^encoder\.subsampling\.stage3\.depthwise\.", "encoder.pre_encode.conv.5."),
    (r"^encoder\.subsampling\.stage3\.pointwise\.", "encoder.pre_encode.conv.6."),
    (r"^encoder\.subsampling\.out\.function\.", "encoder.pre_encode.out."),
    (r"\.norm_attention\.", ".norm_self_att."),
    (r"\.attention\.query\.", ".self_attn.linear_q."),
    (r"\.attention\.key\.", ".self_attn.linear_k."),
    (r"\.attention\.value\.", ".self_attn.linear_v."),
    (r"\.attention\.out\.", ".self_attn.linear_out."),
    (r"\.attention\.position\.", ".self_attn.linear_pos."),
    (r"\.attention\.content_bias$", ".self_attn.pos_bias_u"),
    (r"\.attention\.position_bias$", ".self_attn.pos_bias_v"),
    (r"\.norm_convolution\.", ".norm_conv."),
    (r"\.convolution\.expand\.", ".conv.pointwise_conv1."),
    (r"\.convolution\.depthwise\.", ".conv.depthwise_conv."),
    (r"\.convolution\.norm\.", ".conv.batch_norm."),
    (r"\.convolution\.contract\.", ".conv.pointwise_conv2."),
    (r"^prediction\.embedding\.", "decoder.prediction.embed."),
    (r"^prediction\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"^joint\.encoder\.", "joint.enc."),
    (r"^joint\.prediction\.", "joint.pred."),
)
"""Our names, as patterns, and the official ones."""
ADDED_AXES = {
    "conv.pointwise_conv1.weight": (2,),
    "conv.pointwise_conv2.weight": (2,),
    "conv.depthwise_conv.weight": (1,),
    "decoder_layers.0.weight": (2,),
    FILTERS: (0,),
}
"""Axes of length 1 that official tensors have and ours have not."""
OPTIONAL = ("featurizer.window", FILTERS, "num_batches_tracked")
"""What old archives lack: window and filters are computed then, a count of batches is 0."""


def read_transcriber(path: Path) -> tuple[Card, FastConformer, Tokenizer]:
    """Read an archive.

    Args:
        path: of a `.nemo` file.

    Returns:
        The card, which names no weights yet; the filled network in eval mode; its tokenizer.

    Raises:
        WavecastError: it is no archive, or not of a model that is supported.
    """
    archive = read_archive(path)
    options = hyperparameters(archive)
    card = Card(
        name=f"fastconformer.{path.stem.removeprefix('fastconformer.')}",
        architecture="fastconformer",
        task="transcribe",
        hyperparameters=options,
        sample_rate=SAMPLE_RATE,
        license="of its authors",
        origin=f"{path.name}, an archive of NeMo",
    )
    check_layers(archive.tensors, options["layers"])
    with torch.device("meta"):  # what does not fit is refused before memory is taken for what the configuration says
        official_names(archive, build_network(card))
    network = cast(FastConformer, build_network(card))
    load_strict(network, convert_state(archive, network), str(path))
    block = 0 if network.lookahead == inf else network.period
    return replace(card, block=block), network.eval(), archive.tokenizer


def write_transcriber(network: nn.Module, card: Card, tokenizer: Tokenizer, path: Path) -> None:
    """Write a network as an archive, whether it came from one or was trained here.

    Args:
        network: a FastConformer with the card's hyper-parameters.
        card: of it.
        tokenizer: of it.
        path: of the file.

    Raises:
        WavecastError: the model is no FastConformer, or the file cannot be written.
    """
    if card.architecture != "fastconformer":
        raise WavecastError(f"{card.name} is a {card.architecture}, which no archive can hold", "give a fastconformer")
    configured = configuration(card.hyperparameters, tokenizer)
    write_archive(NemoArchive(configured, tokenizer, official_state(network, configured)), path)


def hyperparameters(archive: NemoArchive) -> dict[str, Any]:
    """Read the keyword arguments of `FastConformer` off an archive's configuration.

    Raises:
        WavecastError: the configuration wants what is not supported; it is named with what is.
    """
    settings, tokens = archive.configuration, len(archive.tokenizer)
    if settings.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise WavecastError(f"the model is for {settings['sample_rate']} Hz", f"supported is {SAMPLE_RATE} Hz")
    options = {"vocabulary": tokens, **_features(Section(settings, "preprocessor"))}
    options |= _encoder(Section(settings, "encoder"), options["mels"])
    options["ctc"] = False
    if archive.target != "EncDecCTCModelBPE":
        options |= _transducer(settings, options["width"], tokens)
    if archive.target == "EncDecCTCModelBPE":
        options |= _ctc(Section(settings, "decoder"), options["width"], tokens)
    elif archive.target == "EncDecHybridRNNTCTCBPEModel":
        options |= _ctc(Section(settings, "aux_ctc.decoder"), options["width"], tokens)
    return options


def _features(section: Section) -> dict[str, Any]:
    section.among("_target_", (f"{MODULES}.AudioToMelSpectrogramPreprocessor",))
    section.among("sample_rate", (SAMPLE_RATE,), SAMPLE_RATE)
    section.close_to("window_size", 0.025, 0.02)
    section.close_to("window_stride", 0.01)
    section.among("window", ("hann",), "hann")
    section.among("n_fft", (512,), 512)
    section.close_to("preemph", 0.97)
    section.close_to("lowfreq", 0.0)
    section.close_to("highfreq", SAMPLE_RATE / 2)
    section.among("log", (True,), True)
    section.among("log_zero_guard_type", ("add",), "add")
    section.close_to("log_zero_guard_value", FLOOR)
    section.close_to("mag_power", 2.0)
    section.among("frame_splicing", (1,), 1)
    section.among("exact_pad", (False,), False)
    section.among("mel_norm", ("slaney",), "slaney")
    # Null means none here, and nothing said means per feature.
    spoken = section.among("normalize", ("per_feature", "NA", None)) if "normalize" in section else "per_feature"
    options = {
        "mels": section.whole("features", MOST_MELS, 64),
        "normalize": "per_feature" if spoken == "per_feature" else "",
        "dither": section.share("dither", 1e-5),
    }
    section.done(("pad_to", "pad_value", "rng", "nb_augmentation_prob", "nb_max_freq", "stft_conv", "use_torchaudio"))
    return options


def _encoder(section: Section, mels: int) -> dict[str, Any]:
    section.among("_target_", (f"{MODULES}.ConformerEncoder",))
    section.among("feat_in", (mels,), mels)
    section.among("feat_out", (-1,), -1)
    section.among("subsampling", ("dw_striding",))
    section.among("subsampling_factor", (8,))
    section.among("self_attention_model", ("rel_pos",), "rel_pos")
    section.among("untie_biases", (True,), True)
    section.among("reduction", (None,))
    section.among("global_tokens", (0,), 0)
    width = section.whole("d_model", MOST_WIDTH)
    kernel = section.whole("conv_kernel_size", MOST_TAPS, 31)
    channels = section.get("subsampling_conv_channels", -1)
    options = {
        "width": width,
        "layers": section.whole("n_layers", MOST_LAYERS),
        "heads": section.whole("n_heads", MOST_WIDTH, 4),
        "kernel": kernel,
        "expansion": section.whole("ff_expansion_factor", 64, 4),
        "subsampling_channels": width if channels == -1 else section.whole("subsampling_conv_channels", MOST_CHANNELS),
        "contexts": _contexts(section),
        "style": section.among("att_context_style", ("chunked_limited", "regular"), "regular"),
        "causal_subsampling": section.among("causal_downsampling", (True, False), False),
        "causal_convolution": _is_causal(section, kernel),
        "norm": section.among("conv_norm_type", ("layer_norm", "batch_norm"), "batch_norm").removesuffix("_norm"),
        "scale_input": section.among("xscaling", (True, False), True),
        "bias": section.among("use_bias", (True, False), True),
        "dropout": section.share("dropout", 0.1),
        "dropout_pre_encoder": section.share("dropout_pre_encoder", 0.1),
        "dropout_attention": section.share("dropout_att", 0.0),
    }
    section.done(
        (
            *("pos_emb_max_len", "dropout_emb", "att_context_probs", "reduction_position", "reduction_factor"),
            *("subsampling_conv_chunking_factor", "global_tokens_spacing", "global_attn_separate"),
            *("stochastic_depth_drop_prob", "stochastic_depth_mode", "stochastic_depth_start_layer"),
            *("sync_max_audio_length", "use_pytorch_sdpa", "use_pytorch_sdpa_backends"),
        )
    )
    return options


def _contexts(section: Section) -> list[list[int]]:
    value = section.get("att_context_size", [-1, -1])
    pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    for pair in pairs:
        good = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and -1 <= n <= 1 << 20 for n in pair)
        if not good or len(pairs) > MOST_CONTEXTS:
            raise section.unsupported("att_context_size", str(value), "a pair [left, right], or a list of such pairs")
    return pairs


def _is_causal(section: Section, kernel: int) -> bool:
    value = section.get("conv_context_size")
    if value in ("causal", [kernel - 1, 0]):
        return True
    if value is None or value == [(kernel - 1) // 2] * 2:
        return False
    raise section.unsupported("conv_context_size", str(value), "causal or nothing")


def _transducer(settings: Mapping[str, Any], width: int, tokens: int) -> dict[str, Any]:
    decoder, network = Section(settings, "decoder"), Section(settings, "decoder.prednet")
    decoder.among("_target_", (f"{MODULES}.RNNTDecoder",))
    decoder.among("blank_as_pad", (True,), True)
    decoder.among("normalization_mode", (None,))
    decoder.among("vocab_size", (tokens, -1), -1)
    decoder.done(("prednet", "random_state_sampling"))
    prediction_width = network.whole("pred_hidden", MOST_WIDTH)
    layers = network.whole("pred_rnn_layers", 16, 1)
    network.among("rnn_hidden_size", (prediction_width, -1), -1)
    network.among("t_max", (None,))
    network.done(("dropout", "forget_gate_bias", "weights_init_scale", "hidden_hidden_bias_scale"))
    joint, inner = Section(settings, "joint"), Section(settings, "joint.jointnet")
    joint.among("_target_", (f"{MODULES}.RNNTJoint",))
    joint.among("num_classes", (tokens, -1), -1)
    if joint.get("num_extra_outputs", 0) != 0:
        raise joint.unsupported("num_extra_outputs", joint.get("num_extra_outputs"), "0 (TDT durations are not)")
    joint.done(
        (
            *("jointnet", "vocabulary", "log_softmax", "preserve_memory", "masking_prob"),
            *("fuse_loss_wer", "fused_batch_size", "experimental_fuse_loss_wer"),
        )
    )
    inner.among("activation", ("relu",))
    inner.among("encoder_hidden", (width,), width)
    inner.among("pred_hidden", (prediction_width,), prediction_width)
    options = {
        "prediction_width": prediction_width,
        "prediction_layers": layers,
        "joint_width": inner.whole("joint_hidden", MOST_WIDTH),
        "dropout_transducer": inner.share("dropout", 0.0),
    }
    inner.done()
    return options


def _ctc(section: Section, width: int, tokens: int) -> dict[str, Any]:
    section.among("_target_", (f"{MODULES}.ConvASRDecoder",))
    section.among("feat_in", (width,), width)
    section.among("num_classes", (tokens, -1), -1)
    section.among("add_blank", (True,), True)
    section.done(("vocabulary", "init_mode"))
    return {"ctc": True}


def check_layers(tensors: Mapping[str, Tensor], expected: int) -> None:
    """Compare the number of layers before any is built.

    Raises:
        WavecastError: configuration and weights differ.
    """
    numbers = {match[1] for name in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if len(numbers) != expected:
        raise WavecastError(f"the weights have {len(numbers)} layers, encoder.n_layers is {expected}", HINT)


def convert_state(archive: NemoArchive, network: nn.Module) -> dict[str, Tensor]:
    """Rename official tensors to a state dict of the network.

    Args:
        archive: whose tensors.
        network: that they are for.

    Returns:
        A state dict that loads strictly.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed with expected shapes).
    """
    names = official_names(archive, network)
    found = {names[official]: to_ours(official, tensor) for official, tensor in archive.tensors.items()}
    return {**network.state_dict(), **found}


def official_names(archive: NemoArchive, network: nn.Module) -> dict[str, str]:
    """Find our name of every official tensor, and check that all are there, of the right shape, and no others.

    Raises:
        WavecastError: they are not; see `convert_state`.
    """
    ours = network.state_dict()
    # The last layer of the joint network comes after its dropout, if there is one.
    place = 1 if "joint.joint_net.1.weight" in archive.tensors else 2
    names = {official_name(name, archive.target, place): name for name in ours}
    shapes = {official: tuple(to_official(official, ours[name]).shape) for official, name in names.items()}
    faults = [
        f"{name} {shape} is missing"
        for name, shape in shapes.items()
        if name not in archive.tensors and not name.endswith(OPTIONAL)
    ]
    for name, tensor in archive.tensors.items():
        if name not in shapes:
            faults.append(f"{name[:80]!a} {tuple(tensor.shape)} is unknown")
        elif tuple(tensor.shape) != shapes[name]:
            faults.append(f"{name} is {tuple(tensor.shape)}, expected {shapes[name]}")
    if faults:
        raise WavecastError(f"{len(faults)} tensors do not fit the configuration: {listed(faults)}", HINT)
    return names


def official_state(network: nn.Module, configured: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the tensors of a network their official names and shapes.

    Args:
        network: a FastConformer.
        configured: its configuration as `configuration` makes it.
    """
    target = str(configured["target"]).rpartition(".")[2]
    dropout = configured["joint"]["jointnet"]["dropout"] if "joint" in configured else 0
    names = {name: official_name(name, target, 2 if dropout else 1) for name in network.state_dict()}
    return {names[name]: to_official(names[name], tensor) for name, tensor in network.state_dict().items()}


def official_name(name: str, target: str, joint_place: int) -> str:
    """Give the official name of a tensor of ours.

    Args:
        name: of ours.
        target: class of the official model, which decides where the CTC head is.
        joint_place: of the joint network's last layer in its sequence.
    """
    for pattern, official in RENAMED:
        name = re.sub(pattern, official, name)
    head = "decoder" if target == "EncDecCTCModelBPE" else "ctc_decoder"
    name = re.sub(r"^ctc\.", f"{head}.decoder_layers.0.", name)
    return re.sub(r"^joint\.output\.", f"joint.joint_net.{joint_place}.", name)


def to_official(official: str, tensor: Tensor) -> Tensor:
    """Give a tensor of ours the official shape."""
    if official.endswith(FILTERS):
        tensor = tensor.T
    for axis in added_axes(official):
        tensor = tensor.unsqueeze(axis)
    return tensor


def to_ours(official: str, tensor: Tensor) -> Tensor:
    """Give an official tensor our shape."""
    for axis in reversed(added_axes(official)):
        tensor = tensor.squeeze(axis)
    return tensor.T if official.endswith(FILTERS) else tensor


def added_axes(official: str) -> tuple[int, ...]:
    """List the axes of length 1 that an official tensor has and ours has not."""
    return next((axes for ending, axes in ADDED_AXES.items() if official.endswith(ending)), ())


def configuration(options: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Make the configuration of an archive.

    Args:
        options: keyword arguments of `FastConformer`; those that are missing have its defaults.
        tokenizer: of the model.

    Returns:
        What NeMo's models of these classes are built from, and `hyperparameters` reads.
    """
    defaults = {name: one.default for name, one in signature(FastConformer).parameters.items()}
    options = {**defaults, **options}
    pieces, transducer = list(tokenizer.pieces), bool(options["prediction_width"])
    hybrid = transducer and options["ctc"]
    target = "EncDecHybridRNNTCTCBPEModel" if hybrid else "EncDecRNNTBPEModel" if transducer else "EncDecCTCModelBPE"
    head = {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": options["width"],
        "num_classes": len(pieces),
        "vocabulary": pieces,
    }
    sections: dict[str, Any] = {
        "sample_rate": SAMPLE_RATE,
        "log_prediction": True,
        "skip_nan_grad": False,
        **dict.fromkeys(("train_ds", "validation_ds", "test_ds")),
        "tokenizer": {"dir": None, "type": "bpe"},
        "preprocessor": _preprocessor(options),
        "spec_augment": {
            "_target_": f"{MODULES}.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 10,
            "freq_width": 27,
            "time_width": 0.05,
        },
        "encoder": _encoder_section(options),
    }
    if transducer:
        sections |= _transducer_sections(options, pieces)
    else:
        sections |= {"decoder": head, "decoding": {"strategy": "greedy"}}
    if hybrid:
        sections["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": head,
            "decoding": {"strategy": "greedy"},
        }
    return {**sections, "optim": None, "labels": pieces, "target": f"{TARGETS[target]}.{target}"}


def _preprocessor(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
        "sample_rate": SAMPLE_RATE,
        "normalize": options["normalize"] or "NA",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": options["mels"],
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": options["dither"],
        "pad_to": 0,
    }


def _encoder_section(options: Mapping[str, Any]) -> dict[str, Any]:
    contexts = [list(context) for context in options["contexts"]]
    return {
        "_target_": f"{MODULES}.ConformerEncoder",
        "feat_in": options["mels"],
        "feat_out": -1,
        "n_layers": options["layers"],
        "d_model": options["width"],
        "use_bias": options["bias"],
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": options["subsampling_channels"],
        "causal_downsampling": options["causal_subsampling"],
        "ff_expansion_factor": options["expansion"],
        "self_attention_model": "rel_pos",
        "n_heads": options["heads"],
        "att_context_size": contexts[0] if len(contexts) == 1 else contexts,
        "att_context_style": options["style"],
        "xscaling": options["scale_input"],
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": options["kernel"],
        "conv_norm_type": f"{options['norm']}_norm",
        "conv_context_size": "causal" if options["causal_convolution"] else None,
        "dropout": options["dropout"],
        "dropout_pre_encoder": options["dropout_pre_encoder"],
        "dropout_emb": 0.0,
        "dropout_att": options["dropout_attention"],
    }


def _transducer_sections(options: Mapping[str, Any], pieces: list[str]) -> dict[str, Any]:
    width, hidden, dropout = options["prediction_width"], options["joint_width"], options["dropout_transducer"]
    return {
        "model_defaults": {"enc_hidden": options["width"], "pred_hidden": width, "joint_hidden": hidden},
        "decoder": {
            "_target_": f"{MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": width,
                "pred_rnn_layers": options["prediction_layers"],
                "t_max": None,
                "dropout": dropout,
            },
            "vocab_size": len(pieces),
        },
        "joint": {
            "_target_": f"{MODULES}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {
                "joint_hidden": hidden,
                "activation": "relu",
                "dropout": dropout,
                "encoder_hidden": options["width"],
                "pred_hidden": width,
            },
            "num_classes": len(pieces),
            "vocabulary": pieces,
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {
            "loss_name": "default",
            "warprnnt_numba_kwargs": {"fastemit_lambda": 0.005, "clamp": -1.0},
        },
    }
