"""Training data of the forecaster: published counts, splits that do not leak, normalization, order, memory."""

import numpy as np
import pytest
from pytorch_lightning import LightningModule, Trainer
from torch import nn, optim

from wavecast.core.errors import WavecastError
from wavecast.datamodules.atmosphere import synthetic_atmosphere, write_weatherbench2
from wavecast.datamodules.weather import WeatherData
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_values import FieldArray
from wavecast.datamodules.weather_windows import Extras, Normalization, Shuffled, Windows, measure

HOURS = 24 * 24
SPLITS = {"train": (1, 19), "validation": (20, 21), "test": (22, 24)}
NAMES = ["2m_temperature", "10m_u_component_of_wind"]


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """24 days from 2019-03-01, hourly."""
    path = tmp_path_factory.mktemp("month") / "month.nc"
    fields = synthetic_atmosphere("2019-03-01", HOURS, 6, 8, variables=NAMES)
    ground = np.random.default_rng(0).random((6, 8), np.float32)
    fields["land_sea_mask"] = (("latitude", "longitude"), ground, {"units": "1"})
    fields.to_netcdf(path, engine="h5netcdf")
    return path


def day(number):
    return f"2019-03-{number:02d}"


def data(path, **options):
    spans = {split: (day(first), day(last)) for split, (first, last) in SPLITS.items()}
    return WeatherData(
        str(path), **{**spans, "variables": NAMES, "history": 4, "horizon": 3, "batch_size": 8, **options}
    )


def truth(month):
    with open_fields(month, NAMES) as fields:
        return fields.read(0, HOURS), fields.times


@pytest.mark.parametrize(("memory_gb", "where"), [(1.0, "in"), (0.0, "not in")])
def test_windows_are_cut_from_the_file(month, memory_gb, where, caplog):
    """Item k of a split: instants k .. k + 3 in, k + 4 .. k + 6 out, standardized by the training days."""
    caplog.set_level("INFO")
    whole, times = truth(month)
    some = data(month, memory_gb=memory_gb)
    some.setup("fit")
    some.setup("test")
    assert f"windows, {where} memory" in caplog.text
    train = whole[: 19 * 24].astype(np.float64)
    mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
    for split, (first, last) in SPLITS.items():
        begin, count = (first - 1) * 24, (last - first + 1) * 24
        windows = some.windows[split]
        assert len(windows) == count - 4 - 3 + 1
        for k in (0, 5, len(windows) - 1):
            item = windows.item(k)
            np.testing.assert_allclose(item["inputs"], (whole[begin + k :][:4] - mean) / std, atol=2e-5)
            np.testing.assert_allclose(item["targets"], (whole[begin + k + 4 :][:3] - mean) / std, atol=2e-5)
            assert item["inputs"].dtype == item["targets"].dtype == np.float32
            assert item["times"] == times[begin + k + 3].astype("datetime64[ns]").astype(np.int64)
        with pytest.raises(IndexError):
            windows.item(len(windows))


def test_no_window_crosses_a_split(month):
    some = data(month)
    some.setup("fit")
    some.setup("test")
    seen = {}
    for split, windows in some.windows.items():
        ends = [int(windows.item(k)["times"]) // 3_600_000_000_000 for k in (0, len(windows) - 1)]
        seen[split] = set(range(ends[0] - 3, ends[1] + 3 + 1))
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert len(seen["train"]) == 19 * 24


class Hours:
    """Stands in for hourly fields of one number each, so that years can be counted without a file."""

    where, stride, channels = "hours", 1, ["t"]
    latitudes = longitudes = np.zeros(1)

    def __init__(self, first, last):
        self.times = np.arange(f"{first}-01-01", f"{last + 1}-01-01", dtype="datetime64[h]").astype("datetime64[ns]")


@pytest.mark.parametrize(
    ("years", "instants", "published"), [((2010, 2015), 52_583, 52_559), ((2017, 2018), 17_519, 17_495)]
)
def test_published_numbers_of_windows(monkeypatch, years, instants, published):
    """OpenSTL at 12 + 12 hours: the last hour is dropped, and one window that would still fit."""
    from wavecast.datamodules import weather

    def opened(self, split):
        fields = Hours(*years)
        self._opened[split] = fields, 0, len(fields.times) - 1
        assert len(fields.times) - 1 == instants

    monkeypatch.setattr(weather.WeatherData, "_open", opened)
    monkeypatch.setattr(
        weather.WeatherData, "_measure", lambda self, split: Normalization(("t",), np.zeros(1), np.ones(1))
    )
    some = WeatherData("x", test=years, protocol="openstl", memory_gb=0, normalization={"t": [0.0, 1.0]})
    some.setup("test")
    assert len(some.windows["test"]) == published


def test_openstl_drops_leaks_and_says_so(month, caplog):
    """Each split by its own mean and deviation, one instant and one window less, validation on the test split."""
    whole, _ = truth(month)
    some = data(month, protocol="openstl")
    some.setup("fit")
    assert set(some.windows) == {"train", "test"}
    assert "validates on the test split" in caplog.text
    tested = whole[21 * 24 : 24 * 24 - 1].astype(np.float64)
    windows = some.windows["test"]
    assert len(windows) == len(tested) - 4 - 3
    expected = (tested[:4] - tested.mean((0, 1, 2))) / tested.std((0, 1, 2))
    np.testing.assert_allclose(windows.item(0)["inputs"], expected, atol=2e-5)
    train = whole[: 19 * 24 - 1].astype(np.float64)
    np.testing.assert_allclose(some.normalization.std, train.std((0, 1, 2)), rtol=1e-6)


def test_openstl_keeps_the_last_instant_of_thinned_splits(month):
    """Every sixth hour of 0 .. 455, without hour 455: the same 76 instants as with it."""
    some = data(month, protocol="openstl", step=6)
    some.setup("fit")
    assert len(some.windows["train"]) == 19 * 4 - 4 - 3


def test_measure_is_mean_and_deviation_for_any_cut():
    rng = np.random.default_rng(0)
    x = rng.normal([1e5, 270.0, 0.0], [700, 15, 1e-3], (300, 4, 3)).astype(np.float32)
    for cuts in ([], [1], [7, 150, 299]):
        found = measure(np.split(x, cuts), ["a", "b", "c"])
        np.testing.assert_allclose(found.mean, x.astype(np.float64).mean((0, 1)), rtol=1e-12)
        np.testing.assert_allclose(found.std, x.astype(np.float64).std((0, 1)), rtol=1e-10)
    again = Normalization.from_plain(found.plain(), ["c", "a"])
    np.testing.assert_array_equal(again.std, found.std[[2, 0]])
    np.testing.assert_allclose(found.denormalize(found.normalize(x)), x, rtol=1e-5, atol=1e-8)
    with pytest.raises(WavecastError, match="b never changes"):
        measure([x * [1, 0, 1] + [0, 5, 0]], ["a", "b", "c"])
    with pytest.raises(WavecastError, match="no mean and deviation of d"):
        Normalization.from_plain(found.plain(), ["d"])


def test_a_given_normalization_is_used_and_the_training_split_not_read(month):
    some = data(month, normalization={NAMES[0]: [280.0, 10.0], NAMES[1]: [1.0, 2.0]}, train=None)
    some.setup("test")
    assert list(some.windows) == ["test"]
    whole, _ = truth(month)
    np.testing.assert_allclose(
        some.windows["test"].item(0)["inputs"][..., 0], (whole[21 * 24 :][:4, ..., 0] - 280) / 10, atol=1e-5
    )


def test_extras_are_sun_season_place_and_ground(month):
    some = data(month, extras=["hour", "day", "latitude", "longitude", "land_sea_mask"])
    some.setup("fit")
    names = some.input_channels
    assert names[2:] == [f"{x}_{y}" for x in ("hour", "day", "latitude", "longitude") for y in ("sin", "cos")] + [
        "land_sea_mask"
    ]
    inputs, known = (some.windows["train"].item(6)[name] for name in ("inputs", "known"))
    np.testing.assert_array_equal(inputs[..., 2:], known[:4])
    np.testing.assert_array_equal(some.windows["train"].item(7)["inputs"][-1, ..., 2:], known[4])
    at = {name: inputs[..., place] for place, name in enumerate(names)}
    np.testing.assert_allclose(at["hour_sin"][0], 1, atol=1e-6)  # 6 h
    np.testing.assert_allclose(at["hour_cos"][0], 0, atol=1e-6)
    turn = 2 * np.pi * (59 + 6 / 24) / 365.2425  # 1 March is the 60th day
    np.testing.assert_allclose(at["day_sin"][0], np.sin(turn), atol=1e-6)
    latitudes = np.radians(np.array(some.describe()["latitudes"]))
    np.testing.assert_allclose(at["latitude_sin"][0][:, 3], np.sin(latitudes), atol=1e-6)
    np.testing.assert_allclose(at["longitude_cos"][0][2], np.cos(np.arange(8) * np.pi / 4), atol=1e-6)
    assert at["land_sea_mask"][0].mean() == pytest.approx(0, abs=1e-6)
    assert at["land_sea_mask"][0].std() == pytest.approx(1, abs=1e-6)
    assert set(some.describe()["normalization"]) == {*NAMES, "land_sea_mask"}
    with pytest.raises(WavecastError, match="no lakes"):
        data(month, extras=["lakes"]).setup("fit")
    with pytest.raises(WavecastError, match="no extra input moon"):
        Extras(["moon"], np.zeros(2), np.zeros(2))


def test_constants_come_from_another_file_too(month, tmp_path):
    ground = synthetic_atmosphere("2019-01-01", 1, 6, 8, variables=["sp"])
    write_weatherbench2(ground, tmp_path / "ground.zarr")
    some = data(month, extras=["surface_pressure"], constants=str(tmp_path / "ground.zarr"))
    some.setup("fit")
    plane = some.windows["train"].item(0)["inputs"][0, ..., 2]
    values = ground["surface_pressure"].values[0].astype(np.float64)
    np.testing.assert_allclose(plane, (values - values.mean()) / values.std(), atol=1e-5)
    other = synthetic_atmosphere("2019-01-01", 1, 4, 8, variables=["sp"])
    write_weatherbench2(other, tmp_path / "other.zarr")
    with pytest.raises(WavecastError, match="on another grid"):
        data(month, extras=["surface_pressure"], constants=str(tmp_path / "other.zarr")).setup("fit")


def test_what_does_not_fit_in_memory_is_read_window_by_window(month, monkeypatch):
    """With no memory granted, nothing larger than a block is read, and an item reads its own instants alone."""
    some = data(month, memory_gb=0)
    some.setup("fit")
    read = []
    original = FieldArray.read
    monkeypatch.setattr(FieldArray, "read", lambda self, a, b: read.append((self.name, a, b)) or original(self, a, b))
    some.windows["validation"].item(2)
    assert sorted(read) == sorted((name, 19 * 24 + 2, 19 * 24 + 9) for name in NAMES)


class Listener(LightningModule):
    """Learns nothing; remembers the times of every item it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.init.zeros_(nn.Linear(1, 1).weight))
        self.seen, self.validated, self.tested = [], [], []

    def training_step(self, batch, index):
        assert batch["inputs"].shape[1:] == (4, 6, 8, 2)
        self.seen += batch["times"].tolist()
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.validated += batch["times"].tolist()

    def test_step(self, batch, index):
        self.tested += batch["times"].tolist()

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.0)


def trainer(folder, **options):
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": -1, "max_steps": 6, "num_sanity_val_steps": 0, **options}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **silent, **options)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own use of torch
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
def test_a_run_goes_through_the_windows_and_a_resumed_one_goes_on(month, tmp_path):
    whole, some = Listener(), data(month, items=16)
    trainer(tmp_path).fit(whole, datamodule=some)
    shuffled = Shuffled(some.windows["train"])
    assert whole.seen == [int(shuffled.item(k)["times"]) for k in range(48)]
    assert whole.validated == [int(some.windows["validation"].item(k)["times"]) for k in range(42)] * 3
    trainer(tmp_path).test(whole, datamodule=some, verbose=False)
    assert len(whole.tested) == len(some.windows["test"])
    first, second = Listener(), Listener()
    stopped = trainer(tmp_path, max_steps=2)
    stopped.fit(first, datamodule=data(month, items=16))
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path).fit(second, datamodule=data(month, items=16), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.seen + second.seen == whole.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_worker_reads_the_file_itself(month, tmp_path):
    listener, some = Listener(), data(month, items=16, workers=1, memory_gb=0.0)
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(listener, datamodule=some)
    shuffled = Shuffled(some.windows["train"])
    assert listener.seen == [int(shuffled.item(k)["times"]) for k in range(16)]


def test_each_round_brings_every_window_once(month):
    some = data(month)
    some.setup("fit")
    windows = some.windows["train"]
    shuffled = Shuffled(windows, seed=1)
    rounds = [[int(shuffled.item(r * len(windows) + k)["times"]) for k in range(len(windows))] for r in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == [int(windows.item(k)["times"]) for k in range(len(windows))]
    assert rounds[0] != rounds[1]


def test_files_between_splits_need_not_exist(tmp_path):
    """Years are opened split by split: a gap between them is no gap in the data."""
    for year in (2010, 2013):
        folder = tmp_path / "2m_temperature"
        folder.mkdir(exist_ok=True)
        part = synthetic_atmosphere(f"{year}-01-01", 30, 4, 4, variables=["t2m"])
        part.to_netcdf(folder / f"2m_temperature_{year}_90deg.nc", engine="h5netcdf")
    some = WeatherData(str(tmp_path), train=(2010, 2010), test=(2013, 2013), history=2, horizon=2)
    some.setup("test")
    assert len(some.windows["test"]) == 27


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": None}, "no span of time to train on"),
        ({"validation": None}, "no span of time to validate on"),
        ({"train": (day(1), day(20))}, "train and validation overlap in time"),
        ({"train": ("2020", "2021")}, "has no times in 2020 to 2021"),
        ({"train": (day(25), day(26))}, "has nothing from 2019-03-25"),
        ({"train": ("2019-13", "2019-14")}, "is no span of time"),
        ({"train": ("March", "April")}, "is no year or date"),
        ({"validation": (f"{day(20)}T00", f"{day(20)}T05")}, "no window of 4 \\+ 3 instants fits into 6"),
        ({"horizon": 0}, "no window of 4 \\+ 0"),
        ({"variables": ["t2m", "snow_depth"]}, "has no snow_depth"),
    ],
)
def test_what_cannot_be_trained_on_is_said(month, options, message):
    with pytest.raises(WavecastError, match=message):
        data(month, **options).setup("fit")


def test_data_without_trainer_or_set_up_is_refused(month):
    for act in (data(month).train_dataloader, data(month).describe):
        with pytest.raises(ValueError, match="hint: "):
            act()


def test_windows_are_independent_copies_of_the_targets(month):
    with open_fields(month, NAMES) as fields:
        normalization = Normalization(tuple(fields.channels), np.zeros(2), np.ones(2))
        extras = Extras([], fields.latitudes, fields.longitudes)
        windows = Windows(fields, fields.channels, 0, 24, 2, 2, normalization, extras, in_memory=True)
        windows.item(0)["targets"][:] = 0
        assert windows.item(0)["targets"].any()
