"""Damaged recordings are read as far as they go, or refused with a reason; scripts/fuzz_audio.py reads far more."""

import numpy as np
import pytest

from kit.mutations import FORMATS, FRAMES, MOST_READS, READ, Mutations, read_case, read_to_the_end, whole_recordings
from wavecast.datamodules.audio_files import AudioInfo, AudioReader, load_audio
from wavecast.main import main

CASES = 140  # of each format


@pytest.fixture(scope="module")
def mutations():
    return Mutations(seed=0)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_recordings_are_whole(tmp_path, name):
    """What is mutated is good to begin with."""
    (tmp_path / "x").write_bytes(whole_recordings()[name])
    x, _ = load_audio(tmp_path / "x")
    assert FRAMES <= x.shape[1] < FRAMES + 2048
    assert np.abs(x).max() > 0.2
    read_case(whole_recordings()[name], tmp_path / "y")


def test_cases_are_made_of_their_number_alone(mutations):
    assert mutations.case(17) == Mutations(seed=0).case(17)
    assert mutations.case(17) != mutations.case(17 + len(FORMATS))
    assert Mutations(seed=1).case(17) != mutations.case(17)


@pytest.mark.parametrize("number", range(len(FORMATS)), ids=list(FORMATS))
def test_damaged_recordings_are_read_or_refused(mutations, tmp_path, number):
    for case in range(number, CASES * len(FORMATS), len(FORMATS)):
        name, data = mutations.case(case)
        try:
            read_case(data, tmp_path / "damaged")
        except Exception as error:
            raise AssertionError(f"case {case} ({name}) of seed 0") from error


class Endless(AudioReader):
    """A reader at fault: of blocks that never end, or of another shape."""

    def __init__(self, shape):
        super().__init__(AudioInfo(16000, 2, None, "WAV", "PCM_16"))
        self.block = np.zeros(shape, np.float32)
        self.count = 0

    def read(self, frames):
        self.count += 1
        return self.block


@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (2, READ + 1)])
def test_faults_of_a_reader_are_found(shape):
    reader = Endless(shape)
    with pytest.raises(AssertionError):
        read_to_the_end(reader)
    assert reader.count == (MOST_READS if shape == (2, 1) else 1)


def test_a_folder_of_damaged_recordings_is_enhanced_as_far_as_it_goes(mutations, tmp_path, capsys):
    """End to end: every file is done or named in an error, and nothing half-written is left."""
    suffixes = {"flac": ".flac", "vorbis": ".ogg", "wav": ".wav", "m4a": ".m4a"}
    (tmp_path / "in").mkdir()
    for case in range(4 * len(FORMATS)):
        name, data = mutations.case(case)
        if name in suffixes:
            (tmp_path / "in" / f"{case}{suffixes[name]}").write_bytes(data)
    code = main(["enhance", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr()
    inputs = {path.name.split(".")[0] for path in (tmp_path / "in").iterdir()}
    done = {path.name.split(".")[0] for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert len(done) == len(list((tmp_path / "out").iterdir()))
    assert "fault of wavecast" not in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    failed = inputs - done
    assert done, failed
    assert failed, done
    assert code == 1
    assert all(f"/{name}." in said.err for name in failed)
    for path in (tmp_path / "out").iterdir():
        assert np.isfinite(load_audio(path)[0]).all()
