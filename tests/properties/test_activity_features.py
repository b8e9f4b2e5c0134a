"""Features of videos on disk: content-addressed, resumed, made anew when damaged, refused for another encoder."""

import json
import shutil

import numpy as np
import pytest
import torch

from kit.videos import moving_block, write_video
from wavecast.apps.activity.features import encode, facts, fingerprint, make_features
from wavecast.apps.activity.networks import frame_average
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clip_sampling import uniform_clip
from wavecast.datamodules.feature_files import FACTS, FeatureFolder, content_hash


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return frame_average(3, ["rgb", "difference"], width=5, size=[16, 16], frames=4)


@pytest.fixture
def videos(tmp_path):
    """Three videos that differ."""
    (tmp_path / "videos").mkdir()
    return [write_video(tmp_path / "videos" / f"{k}.mkv", np.roll(moving_block(9 + k), k, 1)) for k in range(3)]


def test_features_are_what_the_encoder_makes_of_the_clip(tmp_path, network, videos):
    made = make_features(network, videos, tmp_path / "features")
    assert (made.new, made.kept, made.failed) == (3, 0, {})
    folder = FeatureFolder(tmp_path / "features")
    assert (folder.facts["frames"], folder.facts["width"]) == (4, 10)
    for video in videos:
        clip, _ = uniform_clip(video, 4, (16, 16), network.modalities)
        network.eval()
        with torch.no_grad():
            expected = network.encoder(torch.from_numpy(clip)[None])[0][0].numpy()
            logits = network.head(torch.from_numpy(folder.read(video))[None])[0]
            torch.testing.assert_close(logits, network(torch.from_numpy(clip)[None])[0])
        np.testing.assert_allclose(folder.read(video), expected, rtol=1e-5, atol=1e-6)
        assert folder.read(video).dtype == np.float32


def test_a_run_goes_on_where_it_stopped(tmp_path, network, videos, monkeypatch):
    encoded = []

    def stopping(network, clip):
        encoded.append(clip)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(network, clip)

    monkeypatch.setattr("wavecast.apps.activity.features.encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_features(network, videos, tmp_path / "features")
    made = make_features(network, videos, tmp_path / "features")
    assert (made.new, made.kept) == (2, 1)
    assert len(encoded) == 4
    assert make_features(network, videos, tmp_path / "features").kept == 3
    assert not list((tmp_path / "features").rglob("*.part"))


def test_videos_are_known_by_their_content(tmp_path, network, videos):
    make_features(network, videos[:1], tmp_path / "features")
    copy = shutil.copy(videos[0], tmp_path / "another name.mkv")
    assert make_features(network, [tmp_path / copy], tmp_path / "features").kept == 1
    shutil.copy(videos[1], videos[0])
    folder = FeatureFolder(tmp_path / "features")
    assert folder.find(videos[0]) is None
    with pytest.raises(WavecastError, match=r"has no features of .*0.mkv(.|\n)*hint: run the training again"):
        folder.read(videos[0])


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "other shape", "other array", "bare array"])
def test_what_is_damaged_is_found_and_made_anew(tmp_path, network, videos, damage):
    make_features(network, videos[:2], tmp_path / "features")
    folder = FeatureFolder(tmp_path / "features")
    path, before = folder.path_of(videos[0]), folder.read(videos[0])
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    if damage == "other shape":
        np.savez(path, features=before[:2])
    elif damage == "other array":
        np.savez(path, something=before)
    elif damage == "bare array":
        with path.open("wb") as file:
            np.save(file, before)
    else:
        path.write_bytes({"cut": content[:90], "flipped": bytes(flipped), "empty": b"", "text": b"features"}[damage])
    assert folder.find(videos[0]) is None
    made = make_features(network, videos[:2], tmp_path / "features")
    assert (made.new, made.kept) == (1, 1)
    np.testing.assert_array_equal(folder.read(videos[0]), before)


def test_one_bad_video_does_not_stop_the_others(tmp_path, network, videos):
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(videos[0].read_bytes()[:300])
    missing = tmp_path / "missing.mkv"
    made = make_features(network, [broken, videos[0], missing, videos[1]], tmp_path / "features")
    assert made.new == 2
    assert list(made.failed) == [broken, missing]
    assert "cannot read" in made.failed[missing].message
    assert made.failed[missing].hint


def test_another_encoder_needs_another_folder(tmp_path, network, videos):
    make_features(network, videos[:1], tmp_path / "features")
    torch.manual_seed(1)
    other = frame_average(3, ["rgb"], width=5, size=[16, 16], frames=4)
    with pytest.raises(
        WavecastError, match=r"of another encoder: sha256 .*modalities (.|\n)*hint: name another folder"
    ):
        make_features(other, videos, tmp_path / "features")
    assert make_features(other, videos[:1], tmp_path / "others").new == 1


def test_the_fingerprint_tells_weights_and_statistics_apart(network):
    before = fingerprint(network.encoder)
    assert before == fingerprint(network.encoder)
    first = next(network.encoder.parameters())
    with torch.no_grad():
        kept = first[0, 0, 0, 0].clone()
        first[0, 0, 0, 0] += 1e-3
        assert fingerprint(network.encoder) != before
        first[0, 0, 0, 0] = kept
    assert fingerprint(network.encoder) == before
    kinds = [frame_average(3, width=5, statistics=name) for name in ("plain", "imagenet")]
    kinds[1].load_state_dict(kinds[0].state_dict())
    assert facts(kinds[0])["sha256"] != facts(kinds[1])["sha256"]


def test_encoding_leaves_the_network_as_it_was(network):
    network.train()
    kept = [buffer.clone() for buffer in network.encoder.buffers()]
    encode(network, np.zeros((4, 16, 16, 6), np.float32))
    assert network.training
    assert network.encoder.training
    for before, after in zip(kept, network.encoder.buffers(), strict=True):
        assert torch.equal(before, after)


def test_folders_of_frames_are_videos(tmp_path, network):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for k in range(3):
            (tmp_path / name / f"img_{k:05d}.jpg").write_bytes(bytes([k]))
    (tmp_path / "c" / "img_00002.jpg").rename(tmp_path / "c" / "img_00003.jpg")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path / "c")
    clip = np.random.default_rng(0).random((4, 16, 16, 6), np.float32)
    made = make_features(network, [tmp_path / "a", tmp_path / "b"], tmp_path / "features", sample=lambda video: clip)
    assert (made.new, made.kept) == (1, 1)
    np.testing.assert_array_equal(FeatureFolder(tmp_path / "features").read(tmp_path / "b"), encode(network, clip))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no features: .* cannot be read\nhint: name a folder"),
        ("{", r"is damaged: it is not JSON\nhint: remove"),
        ("[1]", "tells no frames and width"),
        (json.dumps({"frames": 3}), "tells no frames and width"),
    ],
)
def test_folders_without_features_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / FACTS).write_text(content)
    with pytest.raises(WavecastError, match=message):
        FeatureFolder(tmp_path)


def test_features_of_another_shape_are_not_written(tmp_path, videos):
    folder = FeatureFolder.begin(tmp_path / "features", {"frames": 3, "width": 2})
    with pytest.raises(ValueError, match=r"of shape \(2, 2\)\nhint: this folder holds \(3, 2\)"):
        folder.write(videos[0], np.zeros((2, 2), np.float32))
    assert folder.find(videos[0]) is None


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, network, videos):
    (tmp_path / "file").write_text("")
    with pytest.raises(WavecastError, match=r"cannot write .*file"):
        make_features(network, videos, tmp_path / "file" / "features")
