"""Enhancement data: the order of items over processes and resumed runs, pairs, hold-out by name."""

import numpy as np
import pytest
from pytorch_lightning import LightningModule, Trainer
from torch import nn, optim

from kit.sounds import RATE, hiss, voice, write_folder
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import open_pairs
from wavecast.datamodules.enhancement import (
    EnhancementData,
    Pairs,
    noise_name,
    published_gain,
    voice_name,
)
from wavecast.datamodules.holdout import held_out
from wavecast.datamodules.items import Items, Onward


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_folder(folder / "voices", voice, 6, 0.6, groups=6)
    write_folder(folder / "noises", hiss, 6, 0.6)
    lines = [f"noises/hiss{k % 2}/{k}.wav voices/voice{k}/{k}.wav" for k in range(4)]
    (folder / "pairs.scp").write_text("\n".join(lines))
    return folder


def data(sounds, **options):
    given = {"speech": [str(sounds / "voices")], "noise": [str(sounds / "noises")], "rooms": 2}
    given |= {"validation_speech": given["speech"], "validation_noise": given["noise"]}
    given |= {"seconds": 0.25, "validation_seconds": 0.25, "batch_size": 2, "items": 8, "validation_items": 5}
    return EnhancementData(**{**given, "cache": str(sounds / "cache"), **options})


class Listener(LightningModule):
    """Learns nothing; remembers the first sample of every item it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.init.zeros_(nn.Linear(1, 1).weight))
        self.heard, self.validated = [], []

    def training_step(self, batch, index):
        self.heard += [item.tobytes() for item in batch["noisy"].numpy()]
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.validated += [item.tobytes() for item in batch["noisy"].numpy()]

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.0)


def trainer(folder, **options):
    options = {"max_epochs": -1, "max_steps": 6, "num_sanity_val_steps": 0, "accumulate_grad_batches": 2, **options}
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **silent, **options)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own use of torch
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_hears_items_in_order_and_a_resumed_one_goes_on(sounds, tmp_path, workers):
    whole, fixed = Listener(), data(sounds, workers=workers)
    trainer(tmp_path).fit(whole, datamodule=fixed)
    expected = [fixed.train_source.item(k)["noisy"].tobytes() for k in range(24)]
    assert whole.heard == expected
    assert whole.validated == [fixed.validation_source.item(k)["noisy"].tobytes() for k in range(5)] * 3
    first, second = Listener(), Listener()
    stopped = trainer(tmp_path, max_steps=3)
    stopped.fit(first, datamodule=data(sounds))
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path).fit(second, datamodule=data(sounds), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.heard + second.heard == expected


def test_processes_share_out_the_items():
    shares = [list(Onward(10, rank, 3)) for rank in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert [len(Onward(10, rank, 3)) for rank in range(3)] == [4, 3, 3]


def test_held_out_voices_and_noises_are_never_trained_on(sounds):
    folder = {"speech": [str(sounds / "many")], "noise": [str(sounds / "noises")]}
    write_folder(sounds / "many", voice, 40, 0.3, groups=40)
    both = data(sounds, **folder, validation_speech=[], validation_noise=[])
    both.setup("fit")
    train, valid = both.train_source, both.validation_source
    for kind, names in (("speech", voice_name), ("noise", noise_name)):
        left, right = ({str(names(about)) for about in getattr(source, kind).attributes} for source in (train, valid))
        assert left
        assert right
        assert not left & right
    assert all(held_out(voice_name(about)) for about in valid.speech.attributes)


def test_names_of_voices_and_noises():
    assert voice_name({"speaker": "ann", "voice": "b", "id": "1"}) == {"speaker": "ann"}
    assert voice_name({"voice": "a+b"}) == {"voice": "a+b"}
    assert voice_name({"id": "1"}) == {"speaker": "1"}
    assert noise_name({"speaker": "x", "source": "s", "id": "1"}) == {"source": "s", "id": "1"}


def test_keystrokes_are_kept_apart_and_attributes_excluded(sounds):
    some = data(sounds, keys=["hiss1"], exclude={"speaker": ["voice0"]})
    some.setup("fit")
    assert {about["source"] for about in some.train_source.keys.attributes} == {"hiss1"}
    assert {about["source"] for about in some.train_source.noise.attributes} == {"hiss0"}
    assert "voice0" not in {about["speaker"] for about in some.train_source.speech.attributes}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speech": []}, "nothing to train on"),
        (
            {"validation_speech": [], "exclude": {"speaker": ["voice1", "voice2", "voice3", "voice4", "voice5"]}},
            "leaves no",
        ),
    ],
)
def test_nothing_to_learn_from_is_said(sounds, options, message):
    with pytest.raises(WavecastError, match=message):
        data(sounds, **options).setup("fit")


def test_data_without_trainer_or_set_up_is_refused(sounds):
    with pytest.raises(ValueError, match="no trainer"):
        data(sounds).train_dataloader()


def pairs(sounds, **options):
    return Pairs(*open_pairs(sounds / "pairs.scp", cache=sounds / "cache"), **options)


def test_pairs_come_in_another_order_each_time_round(sounds):
    """Crops as long as the recordings: every recording comes once in each round of four."""
    crops = pairs(sounds, seconds=0.6, seed=1)
    whole = [pairs(sounds).item(k)["noisy"].tobytes() for k in range(4)]
    rounds = [[whole.index(crops.item(k)["noisy"].tobytes()) for k in range(4 * r, 4 * r + 4)] for r in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    again = pairs(sounds, seconds=0.6, seed=1)
    assert again.item(17)["clean"].tobytes() == crops.item(17)["clean"].tobytes()


def test_crops_of_pairs_are_aligned_and_filled(sounds):
    short, long = pairs(sounds, seconds=0.25), pairs(sounds, seconds=1.0)
    whole = [pairs(sounds).item(k) for k in range(4)]
    for k in range(8):
        item = short.item(k)
        assert len(item["noisy"]) == RATE // 4
        (place,) = [
            (row, start)
            for row, pair in enumerate(whole)
            for start in range(int(0.35 * RATE) + 1)
            if pair["noisy"][start] == item["noisy"][0]
            and np.array_equal(pair["noisy"][start : start + 4000], item["noisy"])
        ]
        row, start = place
        np.testing.assert_array_equal(item["clean"], whole[row]["clean"][start : start + 4000])
        filled = long.item(k)
        assert len(filled["noisy"]) == RATE
        assert not filled["noisy"][9600:].any()


def test_levels_of_pairs(sounds):
    """`joint` keeps the ratio of noisy and clean, `published` brings the louder halves of both to -25 dB."""
    kept, joint, published = (
        pairs(sounds, seconds=0.6, level=level).item(2) for level in ("kept", "joint", "published")
    )
    gain = joint["noisy"][50] / kept["noisy"][50]
    np.testing.assert_allclose(joint["clean"], gain * kept["clean"], rtol=1e-5)
    for sound in (*published.values(), joint["noisy"]):
        power = sound**2
        assert 10 * np.log10(power[power > power.mean()].mean()) == pytest.approx(-25, abs=0.05)


def test_published_gain_of_a_constant_and_of_silence():
    """A square wave of level a has no sample above its mean power: one step, 10^(-25/20) / a."""
    square = 0.5 * np.sign(np.sin(np.arange(1000) + 0.5)).astype(np.float64)
    assert published_gain(square) == pytest.approx(10 ** (-25 / 20) / 0.5, rel=1e-4)
    assert np.isfinite(published_gain(np.zeros(100)))


def test_items_are_those_of_the_source(sounds):
    source = pairs(sounds, seconds=0.25, seed=2)
    np.testing.assert_array_equal(Items(source)[5]["noisy"], source.item(5)["noisy"])
