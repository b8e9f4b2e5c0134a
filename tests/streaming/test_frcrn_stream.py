"""The streaming enhancer: the law end to end, and the bounds its card promises."""

import pytest
import torch

from kit.streaming import check_block
from wavecast.apps.enhancement.frcrn_stream import FRCRNStream
from wavecast.core.stream import Stream


def small(memory: str = "fsmn", excitation: str = "none") -> FRCRNStream:
    """The same network, narrow and with short frames."""
    torch.manual_seed(0)
    return FRCRNStream(
        window=32,
        bands=16,
        single_bins=8,
        channels=(4, 6, 8),
        layers=2,
        hidden=8,
        times=3,
        memory=memory,
        excitation=excitation,
    )


@pytest.mark.parametrize(
    ("memory", "excitation"), [("fsmn", "none"), ("tcnca", "none"), ("fsmn", "se"), ("fsmn", "scse")]
)
def test_the_network_keeps_the_law(memory, excitation):
    check_block(small(memory, excitation), 0.1 * torch.randn(3, 32 * 16 + 5), examples=8, silence=20_000)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="hint: memory is fsmn or tcnca, excitation one of none, se, scse"):
        small("lstm")


def test_the_shipped_size_keeps_its_bounds():
    network = FRCRNStream()
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
    assert network.period == 256
    assert (network.period + network.lookahead + 1) / network.sample_rate <= 0.048
    assert network.out_length(12345) == 12345


def test_latency_is_one_window():
    stream = Stream(FRCRNStream().eval(), 256)
    out = [sum(piece.shape[1] for piece in stream.push(torch.randn(1, 256))) for _ in range(6)]
    assert out == [0, 256, 256, 256, 256, 256]


def test_silence_stays_silent_and_a_click_is_not_answered_before_it_comes():
    network = FRCRNStream().eval()
    with torch.no_grad():
        assert torch.equal(network(torch.zeros(1, 4000))[0], torch.zeros(1, 4000))
        x = torch.zeros(1, 4000)
        x[0, 2048] = 1
        y, _ = network(x)
    assert y[0, : 2048 - 511].abs().max() == 0
    assert y[0, 1792:2560].abs().max() > 0


def test_loudness_does_not_change_what_is_heard():
    network = FRCRNStream().eval()
    x = 0.1 * torch.randn(1, 8000)
    with torch.no_grad():
        loud, quiet = network(x)[0], network(0.01 * x)[0]
    assert (loud - 100 * quiet).abs().max() <= 1e-2 * loud.abs().max()
