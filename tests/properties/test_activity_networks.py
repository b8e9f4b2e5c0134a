"""Activity networks: encoders and heads against plain loops, sizes by arithmetic, weights from files, and errors."""

import importlib.util
from math import inf

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from kit.streaming import check_whole_only
from wavecast.apps.activity import networks
from wavecast.apps.activity.encoders import STATISTICS, FrameEncoder, load_encoder
from wavecast.apps.activity.frame_average import FrameAverage
from wavecast.apps.activity.lrcn import LRCN
from wavecast.apps.activity.temporal_inception import TemporalInception
from wavecast.apps.activity.ts_lstm import TSLSTM
from wavecast.cards import Card, save_model
from wavecast.core.errors import WavecastError
from wavecast.datamodules.modalities import Modality, join
from wavecast.training import read_recipe

RGB = [Modality("rgb")]
BUILDERS = [networks.lrcn, networks.ts_lstm, networks.temporal_inception, networks.frame_average]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shaken(module, seed=0):
    """Give a module parameters and statistics that are no special values, and put it in eval mode."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            around = 1.0 if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1) else 0.0
            tensor.copy_(around + tensor.numel() ** -0.25 * torch.rand_like(tensor).sub(0.3))
    return module.eval()


def batch_norm(x, norm):
    """Normalize (..., feature) by running statistics, as the formula is printed."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


# Networks


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("modalities", [["rgb"], ["difference:2", "rgb", "flow"]])
def test_networks_map_clips_to_logits(build, modalities):
    network = build(5, modalities, width=8, size=[48, 40], hidden=6).eval()
    frames = np.random.default_rng(0).integers(0, 256, (network.frames + 2, 48, 40, 3), np.uint8)
    clip = torch.from_numpy(join(network.modalities, frames))[None]
    y, _ = network(clip[:, -network.frames :])
    assert y.shape == (1, network.frames if build is networks.lrcn else 1, 5)
    assert network.lookahead == (0 if build is networks.lrcn else inf)
    assert network.encoder.width == 8 * len(modalities)
    assert (network.size, network.rate) == ((48, 40), None)
    assert [str(one) for one in network.modalities] == modalities
    features, _ = network.encoder(clip[:, -network.frames :])
    torch.testing.assert_close(network.head(features)[0], y)


@pytest.mark.parametrize("build", BUILDERS)
def test_networks_learn_in_every_part(build):
    network = build(3, ["rgb"], width=8, size=[32, 32], hidden=6, dropout=0.0).train()
    torch.manual_seed(0)
    y, _ = network(torch.rand(2, network.frames, 32, 32, 3))
    nn.functional.cross_entropy(y.flatten(0, 1), torch.arange(len(y.flatten(0, 1))) % 3).backward()
    still = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.abs().sum()]
    assert still == []


def test_log_probabilities_are_those_of_the_mean_over_the_frames():
    logits = 5 * torch.randn(2, 7, 4)
    expected = torch.stack([logits[:, t].softmax(-1) for t in range(7)]).mean(0)
    torch.testing.assert_close(networks.log_probabilities(logits).exp(), expected)
    torch.testing.assert_close(networks.log_probabilities(logits[:, :1]), logits[:, 0].log_softmax(-1))


def test_the_average_hears_of_no_order_and_the_others_do():
    torch.manual_seed(0)
    x = torch.rand(1, 25, 8)
    for head in (TSLSTM(8, 3), TemporalInception(8, 3), FrameAverage(8, 3)):
        y, backwards = (shaken(head)(one)[0] for one in (x, x.flip(1)))
        assert torch.allclose(y, backwards, atol=1e-5) == isinstance(head, FrameAverage)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (networks.lrcn, {"modalities": []}, "sees nothing"),
        (networks.lrcn, {"modalities": ["depth"]}, "modality 'depth'"),
        (networks.lrcn, {"modalities": ["flow", "flow:3"]}, "take each kind once"),
        (networks.lrcn, {"encoder": "resnet7"}, "hint: small, resnet101"),
        (networks.lrcn, {"encoder": "timm/resnet7"}, "timm has no encoder 'resnet7'"),
        (networks.lrcn, {"statistics": "kinetics"}, "hint: one of plain, imagenet, ucf101, hmdb51"),
        (networks.lrcn, {"size": [64]}, "give rows and columns"),
        (networks.lrcn, {"frames": 0}, "clips of 0 frames"),
        (networks.lrcn, {"rate": 0.0}, "give a positive rate"),
        (networks.ts_lstm, {"frames": 2}, "TSLSTM needs 3 or more"),
        (networks.temporal_inception, {"frames": 7}, "TemporalInception needs 8 or more"),
    ],
)
def test_networks_that_cannot_be_are_refused(build, options, message):
    with pytest.raises(ValueError, match=rf"(.|\n)*{message}"):
        build(3, **options)


# Encoders


def test_the_small_encoder_is_small_and_takes_every_size():
    encoder = FrameEncoder(RGB)
    convolutions = 16 * 3 * 25 + 9 * (32 * 16 + 32 * 32 + 64 * 32 + 3 * 64 * 64)
    assert count(encoder) == convolutions + 2 * (16 + 2 * 32 + 4 * 64) + (16 * 64 + 1) * 128
    for rows, cols in ((8, 8), (48, 64), (70, 33)):
        assert encoder(torch.rand(1, 2, rows, cols, 3))[0].shape == (1, 2, 128)


def test_frames_are_encoded_one_by_one():
    encoder = shaken(FrameEncoder([*RGB, Modality("flow", 2)], width=6)).double()
    x = torch.rand(2, 3, 20, 24, 7, dtype=torch.float64)
    whole, _ = encoder(x)
    for row in range(2):
        for t in range(3):
            frame = x[row, t].permute(2, 0, 1)[None]
            color = encoder.function.rgb[1]((frame[:, :3] - 0.5) / 0.25)
            flow = encoder.function.flow[1](frame[:, 3:] / 0.25)
            torch.testing.assert_close(whole[row, t], torch.cat([color, flow], 1)[0])
    assert encoder(x[:, :0])[0].shape == (2, 0, 12)


def test_statistics_are_those_of_the_data_set():
    torch.manual_seed(0)
    for name, known in STATISTICS.items():
        encoder = FrameEncoder([*RGB, Modality("flow", 3)], statistics=name)
        mean, deviation = (torch.tensor(one) for one in known["rgb"])
        image = torch.rand(1, 3, 4, 4)
        expected = (image - mean[:, None, None]) / deviation[:, None, None]
        torch.testing.assert_close(encoder.function.rgb[0](image), expected)
        flow = known.get("flow", ([0, 0], [0.25, 0.25]))
        assert encoder.function.flow[0].mean.flatten().tolist() == pytest.approx([*flow[0]] * 3)
        assert encoder.function.flow[0].deviation.flatten().tolist() == pytest.approx([*flow[1]] * 3)
    assert not [name for name in encoder.state_dict() if "mean" in name.split(".")[-1] and ".0." in name[:16]]


def test_two_published_encoders_give_4096_features():
    with torch.device("meta"):
        network = networks.ts_lstm(101, ["rgb", "flow:10:tvl1"], "resnet101", size=[224, 224])
        image = models.get_model("resnet101")
    assert network.encoder.width == 4096
    extra = 64 * 17 * 49  # 20 channels of flow in place of 3
    assert count(network.encoder) == 2 * (count(image) - count(image.fc)) + extra


def test_a_resnet_is_the_one_of_torchvision(tmp_path):
    torch.manual_seed(0)
    image = shaken(models.get_model("resnet18", weights=None))
    torch.save(image.state_dict(), tmp_path / "weights.pth")
    encoder = FrameEncoder(RGB, "resnet18", statistics="imagenet").eval()
    load_encoder(encoder, str(tmp_path / "weights.pth"))
    x = torch.rand(1, 2, 40, 40, 3)
    mean, deviation = (torch.tensor(one)[:, None, None] for one in STATISTICS["imagenet"]["rgb"])
    features = [image_features(image, (frame.permute(2, 0, 1) - mean) / deviation) for frame in x[0]]
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[0][0], torch.stack(features), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def image_features(image, x):
    """Run a ResNet of torchvision up to its last layer: (channel, row, col) to (features,)."""
    parts = dict(image.named_children())
    y = x[None]
    for name, part in parts.items():
        y = part(y) if name != "fc" else y
    return y.flatten()


def test_a_first_convolution_for_colors_is_spread_over_other_channels(tmp_path):
    image = models.get_model("resnet18", weights=None)
    torch.save({"state_dict": image.state_dict()}, tmp_path / "weights.pth")
    encoder = FrameEncoder([*RGB, Modality("flow", 5)], "resnet18")
    load_encoder(encoder, str(tmp_path / "weights.pth"))
    assert torch.equal(encoder.function.rgb[1].conv1.weight, image.conv1.weight)
    spread = encoder.function.flow[1].conv1.weight
    assert spread.shape == (64, 10, 7, 7)
    for channel in range(10):
        expected = sum(image.conv1.weight[:, color] for color in range(3)) / 10
        torch.testing.assert_close(spread[:, channel], expected)
    assert torch.equal(encoder.function.flow[1].layer4[1].conv2.weight, image.layer4[1].conv2.weight)


def test_every_stream_may_have_weights_of_its_own(tmp_path):
    encoders = [FrameEncoder([*RGB, Modality("difference")], width=8) for _ in range(2)]
    for kind in ("rgb", "difference"):
        torch.save(encoders[0].function.get_submodule(kind)[1].state_dict(), tmp_path / f"{kind}.pt")
    load_encoder(encoders[1], {kind: str(tmp_path / f"{kind}.pt") for kind in ("difference", "rgb")})
    for one, other in zip(encoders[0].parameters(), encoders[1].parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(WavecastError, match=r"given for rgb, .* for rgb, difference"):
        load_encoder(encoders[1], {"rgb": str(tmp_path / "rgb.pt")})


def save_recognizer(folder, name, **hyperparameters):
    """Write a frame average with fresh weights as a model; its network, and the path of its card."""
    values = {"classes": 2, "width": 8, **hyperparameters}
    network = shaken(networks.frame_average(**values))
    card = Card(f"frame_average.{name}", "frame_average", "recognize", values, classes=("a", "b"))
    save_model(network, card, folder)
    return network, str(folder / f"frame_average.{name}.yaml")


def test_streams_that_were_trained_apart_come_together(tmp_path):
    color, first = save_recognizer(tmp_path, "color", modalities=["rgb"])
    change, second = save_recognizer(tmp_path, "change", modalities=["difference:2"])
    both = FrameEncoder([Modality("difference", 2), *RGB], width=8).eval()
    load_encoder(both, {"rgb": first, "difference": second})
    x = torch.rand(1, 2, 24, 24, 9)
    expected = [change.encoder(x[..., :6])[0], color.encoder(x[..., 6:])[0]]
    torch.testing.assert_close(both(x)[0], torch.cat(expected, -1))
    alone = FrameEncoder(RGB, width=8).eval()
    load_encoder(alone, first)
    torch.testing.assert_close(alone(x[..., :3])[0], color.encoder(x[..., :3])[0])


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (([Modality("flow")],), "does not see flow: it sees rgb"),
        ((RGB, "small", 8, "imagenet"), "normalizes rgb by other statistics"),
        ((RGB, "small", 6), r"is \(8, 1024\), expected \(6, 1024\)"),
        ((RGB, "resnet18"), "missing conv1.weight|missing 1.conv1.weight"),
    ],
)
def test_a_recognizer_that_sees_otherwise_is_refused(tmp_path, encoder, message):
    _, path = save_recognizer(tmp_path, "color", modalities=["rgb"])
    with pytest.raises(WavecastError, match=message):
        load_encoder(FrameEncoder(*encoder), path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    encoder = FrameEncoder(RGB, "resnet18")
    before = encoder.function.rgb[1].conv1.weight.clone()
    tensors = models.get_model("resnet18", weights=None).state_dict()
    missing = {name: tensor for name, tensor in tensors.items() if not name.startswith("layer3.0.conv1")}
    for held, message in ((missing, r"missing layer3.0.conv1.weight"), ({**tensors, "x": before}, r"unexpected x ")):
        torch.save(held, tmp_path / "weights.pth")
        with pytest.raises(WavecastError, match=message):
            load_encoder(encoder, str(tmp_path / "weights.pth"))
    with pytest.raises(WavecastError, match="does not exist"):
        load_encoder(encoder, str(tmp_path / "nothing.pth"))
    with pytest.raises(WavecastError, match="there is no model 'nothing'"):
        load_encoder(encoder, "nothing")
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises(WavecastError, match=r"is refused: it is damaged|no torch checkpoint"):
        load_encoder(encoder, str(tmp_path / "weights.pth"))
    assert torch.equal(before, encoder.function.rgb[1].conv1.weight)


def test_the_hub_cache_is_used_and_never_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    encoder = FrameEncoder(RGB, "resnet18")
    with pytest.raises(WavecastError, match=r"no weights of resnet18 are in (.|\n)*hint: nothing is downloaded"):
        load_encoder(encoder, "cache")
    image = models.get_model("resnet18", weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(image.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    load_encoder(encoder, "cache")
    assert torch.equal(encoder.function.rgb[1].conv1.weight, image.conv1.weight)
    with pytest.raises(WavecastError, match="no weights of small"):
        load_encoder(FrameEncoder(RGB), "cache")


def test_an_encoder_of_timm(monkeypatch):
    encoder = FrameEncoder([Modality("flow", 2)], "timm/mobilenetv3_small_050").eval()
    assert encoder(torch.rand(1, 2, 32, 32, 4))[0].shape == (1, 2, encoder.width)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WavecastError, match=r"needs timm(.|\n)*pip install 'wavecast\[timm\]'"):
        FrameEncoder(RGB, "timm/mobilenetv3_small_050")


def test_frames_of_other_channels_are_refused():
    encoder = FrameEncoder([*RGB, Modality("flow", 2)])
    with pytest.raises(ValueError, match=r"frames of shape \(1, 2, 16, 16, 3\)\nhint: .*3 of rgb, 4 of flow"):
        encoder(torch.rand(1, 2, 16, 16, 3))


# Heads


@pytest.mark.parametrize("frames", [25, 16, 4])
@torch.no_grad()
def test_ts_lstm_is_its_definition(frames):
    head = shaken(TSLSTM(6, 5, hidden=4)).double()
    x = torch.randn(2, frames, 6, dtype=torch.float64)
    pooled = []
    for segment, norm in enumerate(head.norms):
        begin, end = segment * frames // 3, (segment + 1) * frames // 3
        best = torch.full((2, 6), -inf, dtype=torch.float64)
        for t in range(begin, end):
            best = torch.maximum(best, batch_norm(x[:, t], norm))
        pooled.append(best)
    state = None
    for z in pooled:
        read, state = head.lstm(z[:, None], state, last=False)
    norm, _, linear = head.classifier
    expected = batch_norm(read[:, 0], norm) @ linear.weight.T + linear.bias
    torch.testing.assert_close(head(x)[0], expected[:, None])


def test_every_frame_counts_in_ts_lstm():
    head = shaken(TSLSTM(6, 5, hidden=4)).double()
    x = torch.randn(1, 25, 6, dtype=torch.float64)
    y, _ = head(x)
    for t in range(25):
        other = x.clone()
        other[:, t] = 50 + other[:, t]
        assert not torch.allclose(head(other)[0], y), f"frame {t} is dropped"


def test_ts_lstm_takes_statistics_at_each_step():
    head = TSLSTM(3, 2, hidden=4, segments=2).train()
    x = 2 + torch.randn(5, 7, 3)
    means = [torch.zeros(3), torch.zeros(3)]
    variances = [torch.ones(3), torch.ones(3)]
    for t in range(7):
        k = int(t >= 3)
        means[k] = 0.9 * means[k] + 0.1 * x[:, t].mean(0)
        variances[k] = 0.9 * variances[k] + 0.1 * x[:, t].var(0)
    head(x)
    for k, norm in enumerate(head.norms):
        torch.testing.assert_close(norm.running_mean, means[k])
        torch.testing.assert_close(norm.running_var, variances[k])


def test_clips_do_not_meet_in_ts_lstm():
    head = shaken(TSLSTM(4, 3, hidden=5))
    x = torch.randn(2, 9, 4)
    first, _ = head(x)
    assert torch.equal(head(x)[0], first)  # nothing is carried over from one batch to the next


@pytest.mark.parametrize("frames", [25, 16, 8, 31])
@torch.no_grad()
def test_temporal_inception_is_its_definition(frames):
    head = shaken(TemporalInception(6, 5, hidden=4)).double()
    x = torch.randn(2, frames, 6, dtype=torch.float64)
    for row in range(2):
        features = []
        for feature in range(6):  # all features go through the same kernels, each for itself
            maps = x[row, :, feature][None]
            for module in head.time[:4]:
                maps = torch.cat([plain_flow(maps, flow, module.pool) for flow in module.flows])
            for flow in head.time[4:]:
                maps = plain_flow(maps, flow, 1)
            assert maps.shape == (1, 1)
            features.append(maps[0, 0])
        _, first, norm, _, _, last = head.classifier
        y = torch.relu(batch_norm(first.weight @ torch.stack(features) + first.bias, norm))
        torch.testing.assert_close(head(x)[0][row, 0], last.weight @ y + last.bias)


def plain_flow(maps, flow, pool):
    """Convolve (map, time) along time, normalize, rectify and pool, as plain loops."""
    convolution, norm, _ = flow
    weight = convolution.weight[:, :, 0]
    outputs, _, taps = weight.shape
    time = maps.shape[1]
    y = torch.zeros(outputs, time, dtype=maps.dtype)
    for t in range(time):
        for tap in range(taps):
            at = t + tap - taps // 2
            if 0 <= at < time:
                y[:, t] += weight[:, :, tap] @ maps[:, at]
    y = torch.relu(batch_norm(y.T, norm).T)
    pool = pool or time
    return torch.stack([y[:, k * pool : (k + 1) * pool].max(1).values for k in range(time // pool)], 1)


@torch.no_grad()
def test_the_frame_average_is_its_definition():
    head = shaken(FrameAverage(6, 5, hidden=4))
    x = torch.randn(2, 9, 6)
    first, _, _, last = head.layers
    for row in range(2):
        mean = sum(x[row, t] for t in range(9)) / 9
        expected = last.weight @ torch.relu(first.weight @ mean + first.bias) + last.bias
        torch.testing.assert_close(head(x)[0][row, 0], expected)
    junk = x.clone()
    junk[1, 4:] = torch.nan
    padded, _ = head(junk, lengths=torch.tensor([9, 4]))
    torch.testing.assert_close(padded, torch.cat([head(x[:1])[0], head(x[1:, :4])[0]]))


def published_sizes(features):
    """Count the parameters of the published heads for 101 classes, by arithmetic."""
    flows = sum((5 + 7) * inputs * outputs + 4 * outputs for inputs, outputs in ((1, 1), (2, 2), (4, 4), (8, 8)))
    mixing = 16 * 4 + 4 * 2 + 2 * 1 + 2 * (4 + 2 + 1)
    layers = (features + 1) * 1024 + 2 * 1024 + 1025 * 101
    lstm = 4 * 512 * (features + 512) + 4 * 512 + 3 * 512  # with peepholes
    return {
        "ts_lstm": 3 * 2 * features + lstm + 2 * 512 + 513 * 101,
        "temporal_inception": flows + mixing + layers,
        "lrcn": 4 * 256 * (features + 256) + 4 * 256 + 257 * 101,
    }


@pytest.mark.parametrize("head", [TSLSTM, TemporalInception, LRCN])
def test_published_heads_have_their_sizes(head):
    name = {TSLSTM: "ts_lstm", TemporalInception: "temporal_inception", LRCN: "lrcn"}[head]
    assert count(head(4096, 101)) == published_sizes(4096)[name]


@pytest.mark.parametrize("name", ["ts_lstm", "temporal_inception", "lrcn"])
def test_recipes_have_the_published_sizes(name):
    recipe = read_recipe(f"activity_{name}")
    data = {option: recipe["data"][option] for option in ("modalities", "size", "frames")}
    with torch.device("meta"):
        network = getattr(networks, name)(101, **data, **recipe["model"]["network"])
    streams = len(data["modalities"])
    assert network.encoder.width == 2048 * streams
    assert count(network.head) == published_sizes(2048 * streams)[name]
    assert streams == (1 if name == "lrcn" else 2)


@pytest.mark.parametrize("head", [TSLSTM(6, 3), TemporalInception(6, 3), FrameAverage(6, 3)], ids=type)
def test_heads_of_whole_clips_refuse_to_stream(head):
    check_whole_only(head, torch.randn(3, 25, 6))
    assert head.out_length(head.least - 1) == 0
    assert head.out_length(torch.tensor([head.least - 1, head.least, 40])).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="take an lrcn"):
        head(torch.randn(1, 25, 6), last=False)


@pytest.mark.parametrize("head", [TSLSTM(6, 3), TemporalInception(6, 3)], ids=type)
def test_padding_and_single_clips_stay_out_of_statistics(head):
    with pytest.raises(ValueError, match=r"no padded clips\nhint: sample as many frames"):
        head.train()(torch.randn(2, 25, 6), lengths=torch.tensor([25, 9]))
    with pytest.raises(ValueError, match=r"single clip\nhint: train with a batch_size of 2"):
        head.train()(torch.randn(1, 25, 6))


def test_fresh_weights_are_as_published():
    head = TSLSTM(64, 10, uniform=0.1)
    for name, parameter in head.named_parameters():
        assert parameter.abs().max() <= 0.1, name
        assert parameter.abs().max() > 0.05 or parameter.numel() < 20, name
    lstm = LRCN(64, 10, uniform=0.01).get_submodule("lstm")
    for name, parameter in lstm.named_parameters():
        assert parameter.abs().max() <= 0.01, name
        assert (parameter.abs().max() == 0) == (parameter.ndim == 1), name
