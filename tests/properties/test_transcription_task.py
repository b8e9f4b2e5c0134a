"""The transcriber's losses against sums over all alignments, its schedule, its training step and its model files."""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from wavecast.apps.transcription.fastconformer import FastConformer
from wavecast.apps.transcription.initialization import center_inputs, set_prior, standardize_frames, start_hearing
from wavecast.apps.transcription.losses import averaged, ctc_loss, item_losses, parts, transducer_loss
from wavecast.apps.transcription.task import Noam, TranscriptionTask, read_model
from wavecast.apps.transcription.transducer import Joint
from wavecast.core.errors import WavecastError
from wavecast.core.stream import latency
from wavecast.core.subsampling import Subsampling


def collapsed(path, blank):
    return tuple(one for place, one in enumerate(path) if one != blank and (place == 0 or path[place - 1] != one))


def test_ctc_sums_over_all_alignments():
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets, lengths, counts = torch.tensor([[0, 2], [1, 0]]), torch.tensor([4, 3]), torch.tensor([2, 1])
    expected = []
    for row in range(2):
        scores = logits[row].log_softmax(-1)
        text = tuple(targets[row, : counts[row]].tolist())
        paths = [p for p in product(range(4), repeat=int(lengths[row])) if collapsed(p, 3) == text]
        expected.append(-torch.logsumexp(torch.stack([sum(scores[t, c] for t, c in enumerate(p)) for p in paths]), 0))
    both = torch.stack(expected)
    torch.testing.assert_close(ctc_loss(logits, lengths, targets, counts).double(), both.mean(), rtol=1e-5, atol=1e-6)
    by_token = ctc_loss(logits, lengths, targets, counts, "tokens")
    torch.testing.assert_close(by_token.double(), both.sum() / 3, rtol=1e-5, atol=1e-6)


def test_texts_that_cannot_be_said_in_their_frames_cost_nothing():
    """Two equal tokens need a blank between them: three frames."""
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([2]), torch.tensor([[0, 0]]), torch.tensor([2]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def walks(frames, tokens):
    """All ways through the lattice: True emits the next token, False moves to the next frame, the last one out."""
    for order in product((True, False), repeat=frames + tokens - 1):
        if sum(order) == tokens:
            yield (*order, False)


def lattice_score(scores, text, blank, emit=1.0):
    """Sum over all walks; gradients through emissions are scaled by `emit`, as FastEmit does."""
    totals = []
    for walk in walks(len(scores), len(text)):
        t = u = 0
        total = scores.new_zeros(())
        for emits in walk:
            one = scores[t, u, text[u] if emits else blank]
            total = total + (one.detach() + emit * (one - one.detach()) if emits else one)
            t, u = (t, u + 1) if emits else (t + 1, u)
        totals.append(total)
    return torch.logsumexp(torch.stack(totals), 0)


@pytest.mark.parametrize("fast_emit", [0.0, 0.3])
def test_the_transducer_sums_over_all_walks_and_fast_emit_scales_the_gradients_of_emitting(fast_emit):
    logits = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets, lengths, counts = torch.tensor([[0, 2], [1, 0]]), torch.tensor([3, 2]), torch.tensor([2, 1])
    losses = item_losses(logits, lengths, targets, counts, fast_emit)
    (found,) = torch.autograd.grad(losses.sum(), logits)
    again = logits.detach().double().requires_grad_()
    expected = torch.stack(
        [
            -lattice_score(
                again[row, : lengths[row]].log_softmax(-1),
                targets[row, : counts[row]].tolist(),
                3,
                1 + fast_emit,
            )
            for row in range(2)
        ]
    )
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected.sum(), again)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mean", ["items", "tokens"])
def test_in_parts_the_loss_and_all_gradients_are_those_of_the_whole_batch(mean):
    torch.manual_seed(0)
    joint = Joint(6, 5, 8, 7, dropout=0.0)
    frames, read = torch.randn(4, 9, 6, requires_grad=True), torch.randn(4, 5, 5, requires_grad=True)
    lengths, counts = torch.tensor([9, 4, 7, 2]), torch.tensor([4, 0, 3, 1])
    targets = torch.randint(0, 7, (4, 4))
    sources = [frames, read, *joint.parameters()]

    def gradients(loss):
        return torch.autograd.grad(3 * loss, sources)

    whole = averaged(item_losses(joint(frames, read), lengths, targets, counts), counts, mean)
    expected = gradients(whole)
    for most in (1, 8 * 9 * 5 * 2, 1 << 20):
        loss = transducer_loss(
            joint, joint.listen(frames), joint.speak(read), lengths, targets, counts, mean, most_logits=most
        )
        torch.testing.assert_close(loss, whole)
        for one, other in zip(gradients(loss), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        loss = transducer_loss(joint, joint.listen(frames), joint.speak(read), lengths, targets, counts, mean)
    torch.testing.assert_close(loss, whole)


def test_parts_are_bounded():
    lengths, counts = torch.tensor([10, 10, 10, 100, 1]), torch.tensor([1, 1, 1, 4, 0])
    assert parts(lengths, counts, 5, 200) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert parts(lengths, counts, 5, 1 << 20) == [slice(0, 5)]


def test_noam_rises_linearly_and_falls_with_the_root():
    """Width 4, warm-up 100: at step 100 the share is 4^-0.5 100^-0.5 = 0.05."""
    rate = Noam(4, 100, 0.01)
    assert rate(99) == pytest.approx(0.05)
    assert rate(0) == pytest.approx(0.0005)
    assert rate(49) == pytest.approx(0.025)
    assert rate(399) == pytest.approx(0.025)
    assert rate(10**7) == 0.01


def test_published_rate_at_its_peak():
    """Factor 5, width 512, 10,000 steps: 5 / sqrt(512 * 10,000) = 0.00221."""
    assert 5 * Noam(512, 10_000)(9_999) == pytest.approx(5 / math.sqrt(512 * 10_000))


def test_data_of_another_kind_are_refused():
    from wavecast.datamodules.enhancement import EnhancementData

    with pytest.raises(ValueError, match="EnhancementData holds no utterances"):
        TranscriptionTask().meet(EnhancementData())
    with pytest.raises(ValueError, match=r"call meet\(data\) first"):
        TranscriptionTask().encode(["a"])


def test_models_of_other_kinds_are_no_beginning(tmp_path):
    with pytest.raises(WavecastError, match="there is no model"):
        read_model("no such model")
    with pytest.raises(WavecastError, match="is a model to enhance, not to transcribe"):
        read_model("frcrn.stream16k")


def test_fresh_outputs_begin_at_the_frequencies_of_their_classes():
    head = nn.Linear(3, 3)
    set_prior(head, np.array([29.5, 9.5]), 60.0)
    torch.testing.assert_close(head.bias.detach().exp(), torch.tensor([0.3, 0.1, 0.6]))


def test_a_centered_convolution_hears_standardized_inputs():
    """Away from the edges, where the zeros around are not the mean."""
    plain = nn.Conv2d(1, 4, 3)
    centered = copy.deepcopy(plain)
    center_inputs(centered, -11.5, 4.0)
    x = torch.randn(2, 1, 9, 9)
    torch.testing.assert_close(centered(4 * x - 11.5), plain(x), rtol=1e-4, atol=1e-4)


class Delay(nn.Module):
    """A stream that keeps back a hundred samples and gives one frame every ten."""

    stride = 10

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, state, last):
        seen = (state or 0) + x.shape[1]
        before, now = (max(0, count - 100) // 10 for count in (state or 0, seen))
        return x.new_zeros(1, now - before, 3), seen


@torch.no_grad()
def test_a_fresh_network_hears_what_torch_would_let_it_drown():
    torch.manual_seed(0)
    sounds = torch.randn(4, 8, 10).repeat_interleave(8, 1).repeat_interleave(8, 2)
    features = 4 * sounds - 11.5
    subsampling = Subsampling(80, 48, 160)

    def spread():
        y = subsampling(features)[0][:, 1:-1]
        return float(y.std(0).mean() / y.abs().mean())

    drowned = spread()
    start_hearing(subsampling, centered=False)
    assert spread() > 2 * drowned


@torch.no_grad()
def test_frames_enter_the_layers_standardized():
    torch.manual_seed(0)
    network = FastConformer(20, width=16, layers=1, heads=2, subsampling_channels=4).eval()
    sound, lengths = torch.randn(3, 16_000), torch.tensor([16_000, 9_000, 12_345])
    standardize_frames(network, sound, lengths)
    subsampling = network.get_submodule("encoder.subsampling")
    rows = []
    for one, length in zip(sound, lengths, strict=True):  # each by itself, without padding
        rows.append(subsampling(network.get_submodule("features")(one[None, :length])[0])[0][0])
    frames = torch.cat(rows)
    torch.testing.assert_close(frames.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(16), rtol=1e-3, atol=0)


def test_latency_is_the_block_and_what_is_held_back():
    assert latency(Delay(), 200) == 200 + 100
    assert np.isclose(latency(Delay(), 50), 150)
