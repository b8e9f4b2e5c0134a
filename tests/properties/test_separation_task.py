"""The separation task: what it learns, counts and says of its checkpoints; official files as a beginning."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wavecast.apps.enhancement.task import EnhancementTask
from wavecast.apps.separation.callbacks import SpectrogramPictures
from wavecast.apps.separation.losses import pit
from wavecast.apps.separation.metrics import separated, unprocessed
from wavecast.apps.separation.task import SeparationTask
from wavecast.core.block import Block
from wavecast.core.errors import WavecastError
from wavecast.datamodules.separation import SeparationData

SMALL = {"channels": 16, "layers": 1, "width": 16, "hidden": 32, "attention": 32, "group": 32, "inner": 8}


class Gains(Block):
    """A separator of one gain an output: (batch, samples) to (batch, samples, speakers)."""

    def __init__(self, gains):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))
        self.speakers = len(gains)

    def step(self, x, state, last):
        return x[..., None] * self.gains, ()


def task(gains=None, **options):
    made = SeparationTask(network=SMALL, **options)
    if gains:
        made.network = Gains(gains)
    return made


def batch(talking=(2, 2, 1), samples=400):
    """Orthogonal sines, so that every ratio is known: item k has `talking[k]` of them."""
    angle = 2 * math.pi * torch.arange(samples) / samples
    sources = torch.stack([torch.sin(20 * angle), 0.5 * torch.sin(30 * angle)], -1).repeat(len(talking), 1, 1)
    for row, count in enumerate(talking):
        sources[row, :, count:] = 0
    return {"mixture": sources.sum(-1), "sources": sources, "real": torch.tensor([1.0, 0.0, 1.0])[: len(talking)]}


def validated(made, items):
    made.on_validation_epoch_start()
    made.validation_step(items, 0)
    sums = zip(made.means, made._sums.tolist(), strict=True)
    return {name: total / count if count else None for name, (total, count) in sums}


def test_validation_counts_gain_by_kind_and_single_speakers():
    """Outputs are the mixture: SI-SDR does not change, that of a single speaker is at its limit."""
    made = task(gains=[1.0, 0.5])
    found = validated(made, batch())
    assert found["val_si_sdr_gain"] == pytest.approx(0, abs=1e-3)
    assert found["val_si_sdr_gain_real"] == pytest.approx(0, abs=1e-3)
    assert found["val_si_sdr_gain_synthetic"] == pytest.approx(0, abs=1e-3)
    assert found["val_single"] == pytest.approx(80, abs=0.1)
    assert made._sums[:, 1].tolist() == [3, 2, 1, 1, 1]
    items = batch()
    losses = [
        pit(made(items["mixture"][k, None]), items["sources"][k, None], items["mixture"][k, None], "snr")[0].item()
        for k in range(3)
    ]
    assert found["val_loss"] == pytest.approx(sum(losses) / 3)


def test_recorded_mixtures_have_no_kind():
    items = batch((2, 2))
    del items["real"]
    assert validated(task(gains=[1.0, 0.5]), items)["val_si_sdr_gain_real"] is None


def test_the_gain_is_over_the_mixture():
    """A separator that knows the speakers: what it gains is what the mixture lacked, 6 dB and -6 dB."""
    items = batch((2,))
    before = unprocessed(items["mixture"], items["sources"])[0]
    torch.testing.assert_close(before, torch.tensor([6.02, -6.02]), atol=0.01, rtol=0)
    after, _ = separated(items["sources"].flip(-1), items["sources"])
    assert (after > 79).all()


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    made, items = task(), batch((2, 2), 800)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss, _ = pit(made(items["mixture"]), items["sources"], items["mixture"], "snr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 5


def test_network_and_data_must_agree():
    with pytest.raises(WavecastError, match="separates 2 speakers, the data have 3"):
        task().meet(SeparationData(speakers=3))
    with pytest.raises(WavecastError, match="is for 16000 Hz, the data have 8000 Hz"):
        task(sample_rate=16_000).meet(SeparationData())
    task().meet(SeparationData())


def test_the_card_says_how_the_model_is_used():
    whole, causal = task(), SeparationTask(network={**SMALL, "causal": True}, sample_rate=16_000, name="live")
    assert whole.card_fields() == {
        "sample_rate": 8_000,
        "block": 0,
        "latency_ms": None,
        "training": {"steps": 0, "hours_heard": 0.0},
    }
    fields = causal.card_fields()
    assert fields["block"] == causal.network.period
    assert fields["latency_ms"] == 1.0  # a frame of 16 samples
    saved = {}
    causal.on_save_checkpoint(saved)
    assert saved["wavecast_card"]["hyperparameters"] == {**SMALL, "causal": True}
    assert (saved["wavecast_card"]["name"], saved["wavecast_card"]["task"]) == ("live", "separate")


@pytest.mark.parametrize("parts", [False, True])
def test_official_files_are_a_warm_start(tmp_path, monkeypatch, parts):
    """One file or three in a folder go through the converter, whose result is given here."""
    donor, seen = task(), []
    if parts:
        for name in ("encoder", "masknet", "decoder"):
            torch.save({name[0]: torch.zeros(1)}, tmp_path / f"{name}.ckpt")
    else:
        torch.save({"model": {"module.a": torch.zeros(1)}, "step": 1}, tmp_path / "last_best_checkpoint.pt")

    def convert(official):
        seen.extend(official)
        return donor.network.state_dict()

    monkeypatch.setattr("wavecast.apps.separation.mossformer2_official.convert_state", convert)
    begun = task(init_from=str(tmp_path if parts else tmp_path / "last_best_checkpoint.pt"))
    assert sorted(seen) == (["decoder.d", "encoder.e", "masknet.m"] if parts else ["module.a"])
    for name, tensor in donor.network.state_dict().items():
        assert torch.equal(begun.network.state_dict()[name], tensor)


def test_official_files_of_other_networks_are_refused(tmp_path):
    torch.save({"model": {"unet.a": torch.zeros(1)}}, tmp_path / "last_best_checkpoint.pt")
    with pytest.raises(WavecastError, match="not a MossFormer2 for separation"):
        task(init_from=str(tmp_path / "last_best_checkpoint.pt"))
    with pytest.raises(WavecastError, match="no official weights of frcrn_stream"):
        EnhancementTask(init_from=str(tmp_path / "last_best_checkpoint.pt"))


def test_without_matplotlib_one_line_says_so(monkeypatch, tmp_path, caplog):
    def refuse(*words):
        raise WavecastError("--plot needs matplotlib", "install it")

    monkeypatch.setattr("wavecast.apps.sound.callbacks.draw_sounds", refuse)
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, log_dir=str(tmp_path), global_step=7)
    pictures, items = SpectrogramPictures(count=1), batch()
    for _ in range(2):
        pictures.on_validation_batch_end(trainer, task(), items["sources"], items, 0)
        pictures.on_validation_epoch_end(trainer, task())
    assert [record.message.splitlines()[0] for record in caplog.records] == ["no pictures: --plot needs matplotlib"]


def test_pictures_name_every_sound():
    items = batch()
    named = SpectrogramPictures().sounds(items, items["sources"].flip(-1), 1)
    assert list(named) == ["mixture", "output 1", "speaker 1", "output 2", "speaker 2"]
    assert torch.equal(named["output 1"], items["sources"][1, :, 1])
