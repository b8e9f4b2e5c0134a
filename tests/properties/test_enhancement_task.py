"""The enhancer's loss, metrics, optimizer and schedule against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wavecast.apps.enhancement.callbacks import ReturnToBest
from wavecast.apps.enhancement.frcrn import FRCRN
from wavecast.apps.enhancement.published_loss import ideal_mask, published_loss, si_snr
from wavecast.apps.enhancement.task import EnhancementTask
from wavecast.apps.sound import metrics
from wavecast.core.errors import WavecastError
from wavecast.core.stream import latency
from wavecast.optimization import Rate, add_gradient_noise, decay_groups, gradients, plain

RATE = 16_000
ANGLE = 2 * np.pi * 440 * np.arange(RATE) / RATE


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers():
    """Sine plus a tenth of its cosine: 10 log10(1 / 0.01) = 20 dB, at any scale of the estimate."""
    clean, noise = np.sin(ANGLE), 0.1 * np.cos(ANGLE)
    for scale in (1.0, 0.01, -3.0):
        assert float(metrics.si_sdr(scale * (clean + noise), clean)) == pytest.approx(20, abs=1e-3)
    assert float(metrics.snr(clean + noise, clean)) == pytest.approx(20, abs=1e-3)
    assert float(metrics.snr(0.5 * clean, clean)) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert float(metrics.si_sdr(clean, clean)) == pytest.approx(80, abs=0.1)
    assert math.isnan(float(metrics.si_sdr(clean, 0 * clean)))


def test_metrics_work_on_batches_and_refuse_other_shapes():
    clean = torch.randn(3, 100)
    assert metrics.si_sdr(clean + 0.1 * torch.randn(3, 100), clean).shape == (3,)
    assert float(metrics.level(0.1 * torch.ones(50))) == pytest.approx(-20, abs=1e-4)
    assert float(metrics.level(torch.zeros(50))) == pytest.approx(-120)
    with pytest.raises(ValueError, match="cut both alike"):
        metrics.si_sdr(clean, clean[:, :50])


def test_perceptual_scores_rank_and_say_how_to_be_installed(monkeypatch):
    rng = np.random.default_rng(0)
    voice = np.sin(ANGLE * (1 + 0.2 * np.sin(ANGLE / 100))) * (np.sin(ANGLE / 150) > 0) * 0.3
    noisy = voice + 0.1 * rng.standard_normal(RATE)
    for score in (metrics.pesq, metrics.stoi):
        assert score(voice, voice) > score(noisy, voice) + 0.05
    assert math.isnan(metrics.stoi(voice[:1000], voice[:1000]))
    assert math.isnan(metrics.pesq(np.zeros(RATE), np.zeros(RATE)))
    with pytest.raises(ValueError, match="16000 Hz"):
        metrics.pesq(voice, voice, 44_100)

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(metrics, "import_module", missing)
    with pytest.raises(WavecastError, match="hint: pip install"):
        metrics.stoi(voice, voice)


def test_ideal_mask_turns_the_noisy_spectrum_into_the_clean_one():
    """(1 + 2i) / (1 + i) = 1.5 + 0.5i; 3 is above 2 and becomes 1, -5i below -2 and becomes -1."""
    noisy = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    clean = torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.0, -5.0]])
    expected = torch.tensor([[1.5, 0.5], [1.0, 0.5], [0.0, -1.0]])
    torch.testing.assert_close(ideal_mask(noisy, clean), expected)


def test_si_snr_removes_means():
    clean = torch.sin(torch.tensor(ANGLE))[None]
    noise = 0.1 * torch.cos(torch.tensor(ANGLE))[None]
    torch.testing.assert_close(
        si_snr(clean + noise + 0.7, 3 * clean - 0.2), torch.tensor([20.0]).double(), atol=1e-2, rtol=0
    )


class Mask(FRCRN):
    """FRCRN with a constant mask in the place of its two U-Nets."""

    def __init__(self, real, imag):
        super().__init__(channels=2, reduction=1)
        self.value = torch.tensor([real, imag])

    def mask(self, spectrum):
        return self.value.expand_as(spectrum)


def test_published_loss_of_a_constant_mask():
    """Clean is half the noisy signal, so the ideal mask is 0.5: a mask of 0.8 + 0.1i costs 640 (0.3^2 + 0.1^2) = 64.

    A real mask is a scale, so SI-SNR is the one of a perfect estimate.
    """
    noisy = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    noisy[:, 0] = 0  # which the window, zero there, cannot give back
    loss, parts = published_loss(Mask(0.8, 0.1), noisy, 0.5 * noisy)
    assert float(parts["mask"]) == pytest.approx(64, rel=1e-3)
    assert float(loss) == pytest.approx(64 - float(parts["si_snr"]), rel=1e-3)
    _, perfect = published_loss(Mask(0.8, 0.0), noisy, 0.5 * noisy)
    assert float(perfect["mask"]) == pytest.approx(640 * 0.09, rel=1e-3)
    assert float(perfect["si_snr"]) > 50 > float(parts["si_snr"])


def test_rate_rises_then_follows_a_cosine():
    """Half-way between the warm-up of 4 and step 12 the cosine is at (1 + last) / 2."""
    rate = Rate(4, 12, 0.1)
    assert [rate(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [rate(step) for step in (4, 8, 12, 99)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert Rate(0, math.inf, 0.1)(10**9) == 1


def test_weight_decay_spares_biases_or_all_vectors():
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    names = dict(network.named_parameters())

    def decayed(kind):
        groups = decay_groups(network, 0.1, kind)
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        assert sum(len(group["params"]) for group in groups) == 4
        return {name for name, p in names.items() if any(p is q for q in groups[0]["params"])}

    assert decayed("biases") == {"0.weight", "1.weight"}
    assert decayed("vectors") == {"0.weight"}


def test_gradient_noise_has_the_stated_deviation_and_depends_on_the_step_alone():
    """At step 15 the deviation is 0.3 * 16 ** -0.275 = 0.1399."""
    network = nn.Linear(300, 300)

    def noise(step):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        add_gradient_noise(network, 0.3, step)
        return network.weight.grad.clone()

    assert float(noise(15).std()) == pytest.approx(0.3 * 16**-0.275, rel=0.02)
    assert torch.equal(noise(15), noise(15))
    assert not torch.equal(noise(15), noise(16))


def test_noise_free_training_leaves_gradients_alone():
    silent = EnhancementTask("frcrn", {"channels": 2, "reduction": 1}, loss="si_snr")
    (silent(torch.randn(1, 1280)) ** 2).sum().backward()
    before = [gradient.clone() for gradient in gradients(silent)]
    silent.clip_gradients = lambda *words: None
    silent.configure_gradient_clipping(torch.optim.SGD(silent.parameters(), 0.1), 1.0, "norm")
    assert len(before) > 10
    assert all(torch.equal(old, new) for old, new in zip(before, gradients(silent), strict=True))


def test_latency_is_the_block_and_what_is_held_back():
    small = {"bands": 32, "single_bins": 8, "channels": [4, 4, 8], "layers": 1, "hidden": 8}
    network = EnhancementTask("frcrn_stream", small, loss="si_snr").network
    assert latency(network, network.period) == 512
    assert network.training


def test_losses_need_what_they_compare():
    with pytest.raises(WavecastError, match="has no mask of that kind"):
        EnhancementTask("frcrn_stream", loss="published")


def test_hyperparameters_are_plain_data():
    assert plain({"a": (1, [2, (3,)]), "b": {"c": "d"}}) == {"a": [1, [2, [3]]], "b": {"c": "d"}}


def test_official_file_is_a_warm_start(tmp_path, monkeypatch):
    """An official wrapper goes through the converter; here the converter's result is given."""
    small = {"channels": 2, "reduction": 1}
    state = {name: tensor + 1 for name, tensor in FRCRN(**small).state_dict().items()}
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "last_best_checkpoint.pt")
    monkeypatch.setattr("wavecast.apps.enhancement.frcrn_official.convert_state", lambda tensors: state)
    task = EnhancementTask("frcrn", small, "si_snr", init_from=str(tmp_path / "last_best_checkpoint.pt"))
    assert all(torch.equal(tensor.float(), state[name].float()) for name, tensor in task.network.state_dict().items())


def test_return_to_best_loads_the_best_weights_when_the_rate_falls(tmp_path):
    module = EnhancementTask("frcrn", {"channels": 2, "reduction": 1}, loss="si_snr")
    best = {name: torch.full_like(tensor, 2) for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": best}, tmp_path / "best.ckpt")

    class Fake:
        """What the callback asks of a trainer."""

        optimizers = [torch.optim.SGD(module.parameters(), lr=1.0)]
        checkpoint_callback = type("Kept", (), {"best_model_path": str(tmp_path / "best.ckpt")})()
        strategy = type("Alone", (), {"broadcast": staticmethod(lambda value: value)})()

    callback, before = ReturnToBest(), {name: t.clone() for name, t in module.state_dict().items()}
    callback.on_train_epoch_start(Fake, module)
    callback.on_train_epoch_start(Fake, module)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    again = ReturnToBest()
    again.load_state_dict(callback.state_dict())
    Fake.optimizers[0].param_groups[0]["lr"] = 0.5
    again.on_train_epoch_start(Fake, module)
    assert all(torch.equal(t, best[name]) for name, t in module.state_dict().items())
