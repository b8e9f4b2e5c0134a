"""LMUFormer, plain and spiking, and windows of decisions: the law, the definition as a loop, and what is shared."""

import pytest
import torch
import torchaudio
from torch import Tensor, nn

from kit.streaming import assert_close, check_block, run
from wavecast.apps.keywords import views
from wavecast.apps.keywords.lmuformer import FEW, HOP, WINDOW, BatchNorm, Convolution, LMUFormer, keyword_features
from wavecast.apps.keywords.spiking_lmuformer import SpikingLMUFormer
from wavecast.apps.keywords.views import Views, clip_logits
from wavecast.core.recorded import Recorded
from wavecast.core.spiking import LeakyIntegrateAndFire
from wavecast.core.state import leaves
from wavecast.core.stream import Stream

NETWORKS = [LMUFormer, SpikingLMUFormer]


def small(network: type[nn.Module], **options: float) -> nn.Module:
    """A network whose normalizations are those of one that has learned something."""
    torch.manual_seed(0)
    made = network(5, mels=6, width=8, order=6, theta=10, **options).eval()
    for one in made.modules():
        if isinstance(one, nn.BatchNorm1d):
            nn.init.uniform_(one.weight, 1, 3)
            nn.init.normal_(one.bias)
            one.running_mean.normal_(0, 0.1)
            one.running_var.uniform_(0.2, 1)
    return made


def sound(frames: int, rows: int = 3, extra: int = 77) -> Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(rows, WINDOW + (frames - 1) * HOP + extra)


def features_of(network: nn.Module, x: Tensor) -> Tensor:
    return network.features(x)[0]


def decided(network: nn.Module, x: Tensor, frames: int, hop: int) -> Tensor:
    """The definition: the network applied to the features of every window by itself."""
    features = features_of(network, x)
    decisions = []
    for end in range(0, features.shape[1], hop):
        window = features[:, max(0, end - frames + 1) : end + 1]
        logits, _ = network.head(network.blocks(network.embedding(window)[0])[0])
        decisions.append(sum(logits[:, i] for i in range(window.shape[1])) / window.shape[1])
    return torch.stack(decisions, 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_law(network: type[nn.Module]) -> None:
    check_block(small(network), sound(30), silence=32_000)


def test_the_law_with_two_blocks_whose_memory_ends() -> None:
    check_block(small(LMUFormer, depth=2, taps=7), sound(30), silence=32_000)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_law_for_views(network: type[nn.Module]) -> None:
    check_block(Views(small(network), 12, 3), sound(40), silence=32_000)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("frames", "hop"), [(12, 3), (10, 4), (13, 5), (9, 2), (3, 5), (1, 1), (16, 1), (12, 16)])
@torch.inference_mode()
def test_a_decision_is_the_network_on_its_window(network: type[nn.Module], frames: int, hop: int) -> None:
    network, x = small(network).double(), sound(45, 2).double()
    view = Views(network, frames, hop).eval()
    expected = decided(network, x, frames, hop)
    assert_close(view(x)[0], expected, 1e-12)
    assert_close(run(view, x, [400, 560, 561, 3000, 3000, 4100])[0], expected, 1e-12)
    assert_close(run(view, x, range(HOP, x.shape[1], HOP))[0], expected, 1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@torch.inference_mode()
def test_the_trained_view_in_single_precision(network: type[nn.Module]) -> None:
    network, x = small(network), sound(150, 1)
    expected = decided(network, x, 128, 8)
    view = Views(network).eval()
    assert_close(view(x)[0], expected, 1e-5)
    assert expected.shape[1] == 19
    stream = Stream(view, 8 * HOP)
    assert_close(torch.cat([*stream.push(x), *stream.flush()], 1), expected, 1e-5)
    early, late = view(x[:, : WINDOW + 8 * HOP - 1])[0], view(x[:, : WINDOW + 8 * HOP])[0]
    assert (early.shape[1], late.shape[1]) == (1, 2)


@torch.inference_mode()
def test_what_windows_share_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small(LMUFormer), sound(150, 1)
    seen = []
    network.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:2].numel()))
    view = Views(network, 100, 10).eval()
    view(x[:, : WINDOW + 119 * HOP])
    _, state = view(x[:, : WINDOW + 119 * HOP], last=False)
    seen.clear()
    view(x[:, : 10 * HOP], state, last=False)
    assert seen == [10, 2 * 10]  # the new frames, and both ends of the one window
    assert not Views(small(SpikingLMUFormer), 100, 10).shared
    monkeypatch.setattr(views, "TILE", 1)
    assert_close(view(x)[0], decided(network, x, 100, 10), 1e-5)


def test_a_recording_gives_the_same() -> None:
    view = Views(small(LMUFormer), 12, 3).eval()
    x = sound(200, 1)
    plain, recorded = Stream(view, 3 * HOP), Stream(Recorded(view).eval(), 3 * HOP)
    expected = torch.cat([*plain.push(x), *plain.flush()], 1)
    assert_close(torch.cat([*recorded.push(x), *recorded.flush()], 1), expected, 1e-5)


def test_the_look_ahead_is_five_frames() -> None:
    for network in NETWORKS:
        made = small(network)
        assert (made.stride, made.lookahead, made.period) == (HOP, WINDOW - 1 + 5 * HOP, HOP)
        x = sound(30, 1, 0)
        for samples, frames in ((made.lookahead, 0), (made.lookahead + 1, 1), (made.lookahead + HOP + 1, 2)):
            assert made(x[:, :samples], last=False)[0].shape[1] == frames
        view = Views(made, 12, 3)
        assert (view.stride, view.lookahead, view.period) == (3 * HOP, WINDOW - 1, 3 * HOP)


def test_a_state_is_what_neurons_memory_and_convolutions_hold() -> None:
    network = small(SpikingLMUFormer)
    _, state = network(sound(30), last=False)
    steps = [leaf.shape[1:].numel() for leaf in leaves(state) if leaf.ndim == 2]
    neurons = sum(isinstance(one, LeakyIntegrateAndFire) for one in network.modules())
    assert neurons == 11
    assert sorted(steps)[-1] >= 32  # the membranes of the mixer
    kept = {tuple(leaf.shape[1:]) for leaf in leaves(state)}
    assert {(1, 6), (2, 6), (2, 8), (1,), (6,), (8,), (32,)} <= kept
    plain = [tuple(leaf.shape[1:]) for leaf in leaves(small(LMUFormer)(sound(30), last=False)[1])]
    assert plain.count((2, 8)) == 4
    assert (1, 6) in plain


def test_the_features_are_those_of_the_paper() -> None:
    x = sound(20, 1)
    expected = torchaudio.compliance.kaldi.fbank(
        x - x.mean(), htk_compat=True, window_type="hanning", num_mel_bins=128, sample_frequency=16_000
    )
    found, _ = keyword_features(128)(x)
    assert_close(found[0], (expected + 6.845978) / (2 * 5.5654526), 1e-4)


@torch.inference_mode()
def test_a_clip_is_filled_with_zeros_after_the_logarithm() -> None:
    network = small(LMUFormer)
    x = sound(30, 2)
    features = (features_of(network, x) * (2 * 5.5654526)) - 6.845978
    padded = (torch.cat([features, torch.zeros(2, 10, 6)], 1) + 6.845978) / (2 * 5.5654526)
    logits, _ = network.head(network.blocks(network.embedding(padded)[0])[0])
    assert_close(clip_logits(network, x, 40), logits.mean(1), 1e-5)
    cut = network.head(network.blocks(network.embedding(features_of(network, x)[:, :20])[0])[0])[0]
    assert_close(clip_logits(network, x, 20), cut.mean(1), 1e-5)


@pytest.mark.parametrize("frames", [4, FEW])
def test_a_convolution_is_that_of_torch(frames: int) -> None:
    torch.manual_seed(0)
    block, x = Convolution(4, 5), torch.randn(2, frames, 4)
    expected = nn.functional.conv1d(x.transpose(1, 2), block.weight, padding=1).transpose(1, 2)
    assert_close(block(x)[0], expected, 1e-5)
    assert_close(run(block, x, [1, 3])[0], expected, 1e-5)
    check_block(block, torch.randn(3, 40, 4))


def test_normalization_counts_valid_frames_only() -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 6, 4), torch.tensor([6, 2, 0])
    x[1, 2:], x[2] = float("nan"), 1e9
    norm, alone = BatchNorm(4).train(), nn.BatchNorm1d(4).train()
    expected = alone(torch.cat([x[0], x[1, :2]]))
    y, _ = norm(x, lengths=lengths)
    assert_close(torch.cat([y[0], y[1, :2]]), expected, 1e-5)
    assert_close(norm.function.running_mean, alone.running_mean, 1e-6)
    assert_close(norm.function.running_var, alone.running_var, 1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_learns(network: type[nn.Module]) -> None:
    """But for the biases that a normalization takes off again."""
    made = small(network, dropout=0.1).train()
    for one in made.modules():
        if isinstance(one, nn.Linear):
            nn.init.normal_(one.weight)
    made(sound(40))[0].mean(1).logsumexp(1).sum().backward()
    still = {name for name, one in made.named_parameters() if one.grad is None or one.grad.abs().sum() < 1e-9}
    assert all(name.endswith(".bias") and "norm" not in name for name in still), still


@pytest.mark.parametrize(("frames", "hop"), [(0, 8), (128, 0)])
def test_windows_without_a_frame(frames: int, hop: int) -> None:
    with pytest.raises(ValueError, match=r"windows of \d+ frames every \d+\nhint: both are at least 1"):
        Views(small(LMUFormer), frames, hop)
