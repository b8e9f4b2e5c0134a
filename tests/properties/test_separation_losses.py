"""Permutation-invariant losses and scores against plain loops and closed forms."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from wavecast.apps.separation.losses import best_order, pair_losses, pit, reorder
from wavecast.apps.separation.metrics import separated, unprocessed
from wavecast.apps.sound.metrics import si_sdr


def signals(batch=3, samples=200, speakers=2, seed=0, dtype=torch.float64):
    """Estimates that are the sources in another order, scaled and with noise; the sources; their sum."""
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(batch, samples, speakers, generator=generator, dtype=dtype)
    noise = torch.randn(batch, samples, speakers, generator=generator, dtype=dtype)
    return 0.3 * sources.roll(1, -1) + 0.1 * noise, sources, sources.sum(-1)


def si_snr_loop(estimate, source):
    """Minus SI-SNR in dB, as the formula has it: means removed, projection on the source, ratio of powers."""
    estimate, source = estimate - estimate.mean(), source - source.mean()
    wanted = np.dot(estimate, source) / (np.dot(source, source) + 1e-8) * source
    noise = estimate - wanted
    return -10 * math.log10(np.dot(wanted, wanted) / (np.dot(noise, noise) + 1e-8) + 1e-8)


def snr_loop(estimate, source):
    noise = estimate - source
    return 10 * math.log10(np.dot(noise, noise) / (np.dot(source, source) + 1e-8) + 1e-3)


def silence_loop(kind, outputs, output, mixture):
    """An output that should be silent, beside the mixture, or beside all outputs where no scale counts."""
    whole = np.sum(outputs**2) + 1e-8 if kind == "si_snr" else np.dot(mixture, mixture) + 1e-8 * len(mixture)
    return 10 * math.log10(np.dot(output, output) / whole + 1e-3)


@pytest.mark.parametrize("speakers", [1, 2, 3])
@pytest.mark.parametrize(("kind", "loop"), [("si_snr", si_snr_loop), ("snr", snr_loop)])
def test_the_loss_is_that_of_the_best_of_all_orders(kind, loop, speakers):
    estimate, sources, mixture = signals(speakers=speakers)
    sources[1, :, 0] = 0  # whoever does not speak
    loss, order = pit(estimate, sources, mixture, kind)
    expected = []
    for row in range(3):
        out, wanted, whole = (x[row].numpy() for x in (estimate, sources, mixture))
        costs = {}
        for outputs in permutations(range(speakers)):
            pairs = [(out[:, i], wanted[:, j]) for j, i in enumerate(outputs)]
            costs[outputs] = np.mean([loop(a, b) if b.any() else silence_loop(kind, out, a, whole) for a, b in pairs])
        best = min(costs, key=costs.get)
        expected.append(costs[best])
        assert tuple(order[row].tolist()) == best
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize("kind", ["si_snr", "snr"])
def test_the_loss_does_not_depend_on_the_order_of_outputs_or_sources(kind):
    estimate, sources, mixture = signals(speakers=3)
    loss, order = pit(estimate, sources, mixture, kind)
    shuffled, other = pit(estimate[..., [2, 0, 1]], sources[..., [1, 0, 2]], mixture, kind)
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(
        reorder(estimate, order)[..., [1, 0, 2]], reorder(estimate[..., [2, 0, 1]], other), rtol=0, atol=0
    )


@pytest.mark.parametrize("talking", [1, 2])
def test_si_snr_ignores_the_scale_and_snr_does_not(talking):
    estimate, sources, mixture = signals()
    sources[:, :, talking:] = 0
    for kind, same in (("si_snr", True), ("snr", False)):
        loss, louder = (pit(scale * estimate, sources, mixture, kind)[0] for scale in (1.0, 3.0))
        assert math.isclose(loss, louder, rel_tol=1e-6) == same


def test_perfect_outputs_reach_the_limit_and_a_single_speaker_wants_silence():
    """Nothing is asked for beyond 30 dB; the mixture on both outputs costs 0 dB where silence is wanted."""
    _, sources, mixture = signals()
    loss, _ = pit(sources.flip(-1), sources, mixture, "snr")
    assert float(loss) == pytest.approx(-30, abs=1e-4)
    alone = torch.stack([mixture, torch.zeros_like(mixture)], -1)
    assert float(pit(alone.flip(-1), alone, mixture, "snr")[0]) == pytest.approx(-30, abs=1e-4)
    both = torch.stack([mixture, mixture], -1)
    assert float(pit(both, alone, mixture, "snr")[0]) == pytest.approx(-15, abs=0.01)


def test_items_below_the_threshold_are_dropped():
    estimate, sources, mixture = signals(batch=2)
    estimate[0] = sources[0]
    losses = best_order(pair_losses(estimate, sources, mixture, "snr"))[0]
    assert float(losses[0]) < -20 < float(losses[1])
    assert pit(estimate, sources, mixture, "snr", threshold=-20)[0] == losses[1]
    estimate.requires_grad_()
    done, _ = pit(estimate, sources, mixture, "snr", threshold=20)
    done.backward()
    assert done.item() == 0
    assert not estimate.grad.any()


@pytest.mark.parametrize("kind", ["si_snr", "snr"])
def test_gradients(kind):
    """Where one source is silent, too; and they stay finite for outputs and mixtures of silence."""
    estimate, sources, mixture = signals(batch=2, samples=12)
    sources[0, :, 1] = 0

    def loss(x):
        return pit(x, sources, mixture, kind)[0]

    assert torch.autograd.gradcheck(loss, estimate.requires_grad_())
    for scale in (0.0, 1.0):
        silent = torch.zeros(2, 12, 2, requires_grad=True)
        pit(silent, scale * sources.float(), scale * mixture.float(), kind)[0].backward()
        assert silent.grad.isfinite().all()


def test_scores_are_those_of_the_best_assignment():
    estimate, sources, mixture = signals(speakers=3)
    measured, outputs = separated(estimate, sources)
    torch.testing.assert_close(outputs, estimate.roll(-1, -1), rtol=0, atol=0)
    for row in range(3):
        for speaker in range(3):
            expected = si_sdr(estimate[row, :, (speaker + 1) % 3], sources[row, :, speaker])
            assert float(measured[row, speaker]) == pytest.approx(float(expected))
            before = si_sdr(mixture[row], sources[row, :, speaker])
            assert float(unprocessed(mixture, sources)[row, speaker]) == pytest.approx(float(before))


def test_a_silent_source_has_no_score_and_takes_what_is_left():
    estimate, sources, mixture = signals()
    sources[:, :, 0] = 0
    measured, outputs = separated(estimate, sources)
    assert measured[:, 0].isnan().all()
    assert unprocessed(mixture, sources)[:, 0].isnan().all()
    torch.testing.assert_close(outputs, estimate.flip(-1), rtol=0, atol=0)  # speaker 1 is on output 0
    assert (measured[:, 1] > 8).all()
