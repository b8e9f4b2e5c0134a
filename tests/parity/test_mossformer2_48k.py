"""MossFormer2 for 48 kHz: the recorded mask of the release, its names, and a plain definition from end to end."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from parity.seeded import seeded_state
from torch import Tensor

from kit.streaming import assert_close, check_whole_only
from wavecast.apps.enhancement.mossformer2_48k import (
    HOP,
    SAMPLE_RATE,
    WINDOW,
    MossFormer2Enhancer,
    SharedMask,
    fill_last_window,
)
from wavecast.apps.enhancement.mossformer2_48k_official import (
    DEAD_PARAMETERS,
    LIVE_PARAMETERS,
    convert_state,
    hyperparameters,
)
from wavecast.core.errors import WavecastError
from wavecast.core.windows import Windows

HERE = Path(__file__).parent
MANIFEST = HERE / "mossformer2_se_48k.json"
STACK = "mossformer.mdl.intra_mdl.mossformerM."


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in seeded_state(MANIFEST).items()}


@pytest.fixture(scope="module")
def two_layers(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official tensors of the first two layers, and all outside the layers."""
    kept = ("layers.0.", "layers.1.", "fsmn.0.", "fsmn.1.")
    return {
        name: t for name, t in official.items() if STACK not in name or name.startswith(tuple(STACK + k for k in kept))
    }


def small_network(**options: float) -> MossFormer2Enhancer:
    torch.manual_seed(0)
    network = MossFormer2Enhancer(
        layers=1, width=16, hidden=32, attention=32, group=16, inner=8, dropout=0.0, **options
    ).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def tones(samples: int, rows: int = 1) -> Tensor:
    torch.manual_seed(1)
    t = torch.arange(samples, dtype=torch.float64) / SAMPLE_RATE
    sound = sum(torch.sin(2 * math.pi * f * t + f) for f in (220.0, 1760.0, 9000.0, 15000.0))
    return 0.1 * sound + 0.02 * torch.randn(rows, samples, dtype=torch.float64)


@torch.inference_mode()
def test_the_recorded_mask(official: dict[str, Tensor]) -> None:
    """24 layers round: in fp64 the mask is 1.2e-5 from the record, in fp32, angles of positions included, 1.6e-5."""
    network = MossFormer2Enhancer(**hyperparameters(official)).eval()
    network.load_state_dict(convert_state(official))
    features = torch.from_numpy(np.random.default_rng([48, 0]).standard_normal((1, 200, 180)).astype("f4"))
    single, _ = network.mossformer(features)
    double, _ = network.double().mossformer(features.double())
    expected = torch.from_numpy(np.load(HERE / "mossformer2_se_48k.npz")["output"])
    assert single.shape == (1, 200, 961, 1)
    assert_close(double[..., 0], expected.double(), 1.2e-5)
    assert_close(single.double(), double, 2e-5)
    assert_close(single[..., 0], expected, 2e-5)


def test_parameters(official: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MossFormer2Enhancer().parameters()) == LIVE_PARAMETERS
    assert sum(t.numel() for t in official.values()) == LIVE_PARAMETERS + DEAD_PARAMETERS == 55_262_154
    assert len(official) + len(json.loads(MANIFEST.read_text())["constants"]) == 929


def test_converting_keeps_every_living_number_once(two_layers: dict[str, Tensor]) -> None:
    """Sums of cubes tell permutations apart from losses."""
    state = convert_state(two_layers)
    MossFormer2Enhancer(layers=2).load_state_dict(state, strict=True)
    living = [t[:512] if ".conv1d_out." in name else t for name, t in two_layers.items()]
    cubes = [sum(t.double().pow(3).sum().item() for t in group) for group in (living, state.values())]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)
    assert state["mossformer.masks.function.split.weight"].untyped_storage().nbytes() == 4 * 512 * 512


def test_positions_that_files_store_are_checked(two_layers: dict[str, Tensor]) -> None:
    rotary = torch.tensor([10000 ** (-2 * j / 32) for j in range(16)])
    stored = {
        "mossformer.pos_enc.inv_freq": torch.tensor([10000 ** (-2 * j / 512) for j in range(256)]),
        f"{STACK}layers.0.rotary_pos_emb.freqs": rotary,
    }
    expected = convert_state(two_layers)
    found = convert_state({f"module.{name}": t for name, t in {**two_layers, **stored}.items()})
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(WavecastError, match=r"layers\.0\.rotary_pos_emb\.freqs is not"):
        convert_state({**two_layers, f"{STACK}layers.0.rotary_pos_emb.freqs": 1.01 * rotary})


def test_faults_are_listed(two_layers: dict[str, Tensor]) -> None:
    faulty = {name: t for name, t in two_layers.items() if name != "mossformer.prelu.weight"}
    faulty["mossformer.extra"] = torch.zeros(3)
    faulty["mossformer.conv1d_out.bias"] = torch.zeros(512)
    with pytest.raises(WavecastError) as error:
        convert_state(faulty)
    message = str(error.value)
    assert "3 tensors do not fit MossFormer2_SE_48K" in message
    assert "mossformer.prelu.weight (1,) is missing" in message
    assert "mossformer.extra (3,) is unknown" in message
    assert "mossformer.conv1d_out.bias is (512,), expected (1024,)" in message
    assert "hint: the file is not MossFormer2_SE_48K" in message


def definition(network: MossFormer2Enhancer, x: Tensor) -> Tensor:
    """One signal (samples,), by torchaudio's features and a loop over frames."""
    samples = len(x)
    x = torch.nn.functional.pad(x, (0, max(WINDOW - samples, (WINDOW - samples) % HOP)))
    bank = torchaudio.compliance.kaldi.fbank(
        32768 * x[None],
        num_mel_bins=60,
        frame_length=40,
        frame_shift=8,
        sample_frequency=SAMPLE_RATE,
        window_type="hamming",
    )
    first = torchaudio.functional.compute_deltas(bank.T).T
    second = torchaudio.functional.compute_deltas(first.T).T
    mask = network.mossformer(torch.cat([bank, first, second], 1)[None])[0][0, ..., 0]
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * torch.arange(WINDOW, dtype=x.dtype) / (WINDOW - 1))
    y, weight = torch.zeros_like(x), torch.zeros_like(x)
    for frame in range(len(mask)):
        at = slice(frame * HOP, frame * HOP + WINDOW)
        spectrum = torch.fft.fft(x[at] * window)
        both_sides = torch.cat([mask[frame], mask[frame, 1:-1].flip(0)])
        y[at] += torch.fft.ifft(spectrum * both_sides).real * window
        weight[at] += window**2
    return (y / weight)[:samples]


@pytest.mark.parametrize("samples", [1000, WINDOW, WINDOW + 1, 10 * HOP, 20_000])
@torch.inference_mode()
def test_the_definition_from_end_to_end(samples: int) -> None:
    network = small_network().double()
    x = tones(samples)
    y, _ = network(x)
    assert_close(y, definition(network, x[0])[None], 1e-6)


@torch.inference_mode()
def test_nothing_is_lost_at_the_end() -> None:
    """Where the mask is 1 the input comes out, to the last sample of what the framing leaves over."""
    network = small_network().double()
    network.mask = lambda x: x.new_ones(1, (x.shape[1] - WINDOW) // HOP + 1, WINDOW // 2 + 1)
    for samples in (1, HOP, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + HOP - 1, WINDOW + HOP, 5 * WINDOW + 7):
        x = tones(samples)
        assert_close(network(x)[0], x, 1e-12)
        filled = fill_last_window(x)
        assert (filled.shape[1] - WINDOW) % HOP == 0
        assert filled.shape[1] - samples < HOP or samples < WINDOW


@torch.inference_mode()
def test_the_ends_are_as_loud_as_the_middle() -> None:
    """One window alone is divided by its edge; with the plan's zeros on both sides, several reach every sample."""
    network = small_network()
    torch.manual_seed(0)
    jagged = torch.rand(1, 1, WINDOW // 2 + 1)
    network.mask = lambda x: jagged.expand(1, (x.shape[1] - WINDOW) // HOP + 1, -1)
    x = torch.randn(1, 50 * HOP)
    windows = Windows(network, network.plan)
    windows.push(x)
    (y,) = windows.flush()
    bare, _ = network(x)
    middle = y[:, 5000:-5000].std()
    ends = [torch.cat([one[:, :40], one[:, -40:]], 1).std() / middle for one in (y, bare)]
    assert ends[0] < 1.3 < 2 < ends[1]


def test_every_parameter_learns() -> None:
    network = small_network().train()
    clean = tones(12_000, rows=2).float()
    y, _ = network(clean + 0.1 * torch.randn(2, 12_000))
    (y - clean).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_whole_signals_only() -> None:
    network = small_network()
    check_whole_only(network, tones(12_000, rows=2))
    check_whole_only(SharedMask(network), tones(12_000, rows=2))
    with pytest.raises(ValueError, match=r"frcrn\.stream16k"):
        network(torch.randn(1, WINDOW), last=False)
    with pytest.raises(ValueError, match="equal length"):
        network(torch.randn(2, 4000), lengths=torch.tensor([4000, 2000]))


@torch.no_grad()
def test_channels_do_not_hear_each_other() -> None:
    network = small_network()
    x = tones(9000, rows=3).float()
    together, _ = network(x)
    for row in range(3):
        assert torch.equal(network(x[row : row + 1])[0], together[row : row + 1])
    with torch.enable_grad():
        assert_close(network(x)[0].detach(), together, 1e-5)


@torch.inference_mode()
def test_dither_is_seeded() -> None:
    x = tones(9000).float()
    quiet = [small_network(dither=1.0, seed=seed)(1e-4 * x)[0] for seed in (0, 0, 1)]
    assert torch.equal(quiet[0], quiet[1])
    assert not torch.equal(quiet[0], quiet[2])
    assert not torch.equal(quiet[0], small_network()(1e-4 * x)[0])
