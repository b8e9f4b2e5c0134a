"""`wavecast train transcription`: recipes, word error rates, resuming, warm starts, two processes; and `evaluate`."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
import torch

from kit.ranks import launch
from kit.sounds import RATE, hiss, voice, write_folder
from kit.training import rows, write_recipe
from wavecast import training
from wavecast.apps.transcription.fastconformer_official import write_transcriber
from wavecast.apps.transcription.tokenizer import load_tokenizer
from wavecast.cards import find_model, load_network
from wavecast.main import main

NETWORK = {
    "width": 16,
    "layers": 1,
    "heads": 2,
    "subsampling_channels": 4,
    "contexts": [[14, 1], [12, 3]],
    "prediction_width": 8,
    "joint_width": 8,
}
TINY = {
    "seed_everything": 1,
    "model": {"network": NETWORK, "pieces": 20, "schedule": "constant", "learning_rate": 3e-3},
    "data": {"held_out": ["ann"], "batch_seconds": 2.0, "batches": 4, "rooms": 2, "leave_out": ""},
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": 1},
}
WORDS = ["red", "green", "blue", "one", "two", "three", "up", "down"]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A CSV of 16 utterances by four voices, a folder of noises, and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("spoken")
    write_folder(folder / "noises", hiss, 2, 0.8)
    with (folder / "talks.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["path", "text", "speaker", "language"])
        for number in range(16):
            soundfile.write(folder / f"{number}.wav", voice(number, 0.5 + 0.03 * number), RATE, subtype="PCM_16")
            text = f"{WORDS[number % 8]} {WORDS[(3 * number + number // 8 + 1) % 8]}"
            writer.writerow([f"{number}.wav", text, ["ann", "bob", "cyd", "dot"][number // 4], "en"])
    return folder


def recipe(spoken, **changes):
    """Write the tiny recipe with changes; the words that name it and its data."""
    data = [f"--data.speech=[{spoken / 'talks.csv'}]", f"--data.noise=[{spoken / 'noises'}]"]
    return [*write_recipe(TINY, **changes), *data]


def train(*words):
    return main(["train", "transcription", *words, "--quiet"])


def loaded(run):
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_checkpoint_is_a_model_with_its_tokenizer_and_the_log_has_the_rates_of_both_heads(work, spoken):
    words = recipe(spoken, trainer={"max_epochs": 2}, model={"ctc_only_steps": 5, "name": "mine"})
    assert train(*words, "--run", "run") == 0
    logged = [row for row in rows(Path("run/metrics.csv")) if row["val_loss"]]
    assert len(logged) == 2
    for row in logged:
        assert float(row["val_wer"]) == float(row["val_wer_real"]) > 0
    assert not logged[0].get("val_wer_transducer")  # the transducer rests for the first five steps
    assert float(logged[1]["val_wer_transducer_real"]) > 0
    assert float(logged[1]["val_wer_transducer"]) == float(logged[1]["val_wer_transducer_real"])
    card = find_model("run", "transcribe")
    assert (card.name, card.architecture, card.sample_rate) == ("mine", "fastconformer", RATE)
    assert card.hyperparameters == {**NETWORK, "vocabulary": 20}
    assert card.block == 2560
    assert card.latency_ms == pytest.approx(2 * 160, abs=160)
    assert len(load_tokenizer(card)) == 20
    saved = loaded("run")["state_dict"]
    network = load_network(find_model("run/checkpoints/last.ckpt"))
    assert all(torch.equal(tensor, saved[f"network.{name}"]) for name, tensor in network.state_dict().items())


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(work, spoken):
    """In the middle of the second epoch, with dropout, look-aheads, masks, dither, averaged weights, both losses."""
    changes = {"model": {"average_decay": 0.5, "ctc_only_steps": 2}, "trainer": {"max_steps": 9, "max_epochs": -1}}
    changes["checkpoint"] = {"save_top_k": -1}  # else the last one is written only when validation got better
    words = recipe(spoken, **changes)
    assert train(*words, "--run", "whole") == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert train(*words, "--run", "part", "--trainer.callbacks", interrupt) == 130
    assert loaded("part")["global_step"] == 6
    assert train("--resume", "part") == 0
    whole, resumed = loaded("whole"), loaded("part")
    assert whole["heard_seconds"] == pytest.approx(resumed["heard_seconds"])
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, tensor in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.fixture
def one_thread():
    """As many threads as each of several processes has: the optimizer makes steps even of the sums' rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_learn_what_one_does_that_accumulates_two_batches(work, spoken):
    """CTC alone first, so that the transducer's parameters have no gradient of their own for a step."""
    words = recipe(spoken, model={"ctc_only_steps": 1})
    assert train(*words, "--run", "one", "--trainer.accumulate_grad_batches", "2") == 0
    two = ["--run", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, ["train", "transcription", *words, *two], work):
        assert code == 0, err
        assert out == ""
    one, both = loaded("one"), loaded("two")
    assert both["global_step"] == one["global_step"] == 2
    assert both["heard_seconds"] > 0
    for name, tensor in one["state_dict"].items():
        if not name.endswith("attention.key.bias"):  # changes no weight of attention: its gradient is rounding
            torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-3, atol=2e-5)
    logged = [[row for row in rows(work / run / "metrics.csv") if row["val_wer"]][-1] for run in ("one", "two")]
    assert float(logged[0]["val_wer"]) == pytest.approx(float(logged[1]["val_wer"]))


RECIPES = sorted(name for name in training.shipped_recipes() if name.startswith("transcription"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_takes_a_training_step(name, work, spoken):
    settings = training.read_recipe(name)
    assert "smoke" not in settings
    words = ["--config", name, "--smoke", "--run", "run", f"--data.speech=[{spoken / 'talks.csv'}]"]
    words += [f"--data.noise=[{spoken / 'noises'}]", "--data.held_out=[ann]"]
    assert train(*words) == 0
    assert loaded("run")["global_step"] == 1
    load_network(find_model("run/checkpoints/last.ckpt", "transcribe"))


def test_the_small_recipe_is_small():
    from wavecast.apps.transcription.fastconformer import FastConformer

    settings = training.read_recipe("transcription_fastconformer_small")["model"]
    network = FastConformer(vocabulary=settings["pieces"], **settings["network"])
    assert sum(parameter.numel() for parameter in network.parameters()) <= 5_000_000


def test_fine_tuning_keeps_tokenizer_and_shapes(work, spoken, capsys):
    """From a checkpoint, and from an official archive of the same model."""
    assert train(*recipe(spoken), "--run", "a") == 0
    card = find_model("a/checkpoints/last.ckpt")
    write_transcriber(load_network(card), card, load_tokenizer(card), Path("a.nemo"))
    words = recipe(spoken, model={"network": None, "learning_rate": 0.0, "pieces": 30}, data={"batches": 1})
    first = loaded("a")
    for number, source in enumerate(["a/checkpoints/last.ckpt", "a.nemo"]):
        assert train(*words, "--model.init_from", source, "--run", f"b{number}") == 0
        second = loaded(f"b{number}")
        assert torch.equal(first["wavecast_tokenizer"], second["wavecast_tokenizer"])
        for name, tensor in first["state_dict"].items():
            torch.testing.assert_close(second["state_dict"][name], tensor, rtol=1e-6, atol=1e-7)
    capsys.readouterr()
    assert train(*words, "--model.init_from", "a.nemo", "--run", "c", "--model.network", "{width: 32}") == 1
    assert "does not fit FastConformer" in capsys.readouterr().err


def test_bad_words_say_what_to_type(work, spoken, capsys):
    data = recipe(spoken)
    cases = [
        (["train", "transcription"], 1, "there is nothing to train on\nhint: give --data.speech"),
        (["train", "transcription", *data, "--model.tokenizer", "no.model"], 1, "there is no tokenizer no.model"),
        (["train", "transcription", *data, "--model.pieces", "5000"], 1, "no tokenizer of 5000 tokens"),
        (["train", "transcription", *data, "--data.share", "2"], 1, "a share of 2"),
        (["train", "transcription", *data, "--data.speech", "[gone.jsonl]"], 1, "gone.jsonl does not exist"),
        (["train", "transcription", *data, "--model.network.contexts", "[]"], 1, "does not fit FastConformer"),
    ]
    for words, code, message in cases:
        assert main(words) == code, words
        out, err = capsys.readouterr()
        assert message in err, words
        assert out == ""


def test_evaluate_repeats_the_rate_of_validation_and_its_totals_are_those_of_its_files(work, spoken, capsys):
    """Validation encodes padded batches, evaluation streams: both find the same words."""
    words = recipe(spoken, model={"ctc_only_steps": 99}, data={"batches": 30})
    assert train(*words, "--run", "run") == 0
    logged = [row for row in rows(Path("run/metrics.csv")) if row["val_wer"]][-1]
    model = ["--model", "run/checkpoints/last.ckpt", "--quiet"]
    capsys.readouterr()
    held_out = ["--config", "tiny.yaml", f"--data.speech=[{spoken / 'talks.csv'}]"]
    assert main(["evaluate", "transcription", *held_out, *model, "--head", "ctc", "--json", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    totals = [line for line in lines if "utterances" in line]
    assert [(one["look_ahead_ms"], one["latency_ms"]) for one in totals] == [(80, 160.0), (240, 320.0)]
    assert totals[0]["wer"] == pytest.approx(float(logged["val_wer"]), abs=1e-6)
    for one in totals:
        mine = [line for line in lines if line.get("id") and line["look_ahead_ms"] == one["look_ahead_ms"]]
        assert one["utterances"] == len(mine) == 4
        for kind in ("words", "substitutions", "deletions", "insertions"):
            assert one[kind] == sum(line[kind] for line in mine)
        assert one["words"] == 8


def test_evaluate_a_manifest_prints_tables_and_draws(work, spoken, capsys):
    assert train(*recipe(spoken), "--run", "run") == 0
    capsys.readouterr()
    words = ["evaluate", "transcription", str(spoken / "talks.csv"), "--model", "run", "--look-ahead", "240"]
    assert main([*words, "--files", "--plot", "rates.png", "--json", "rates.jsonl", "--quiet"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 * 16 + 3
    assert table[-3].split()[:4] == ["set", "head", "look-ahead", "latency"]
    assert [line.split()[:4] for line in table[-2:]] == [["real", "rnnt", "240", "320"], ["real", "ctc", "240", "320"]]
    assert [line.split()[9] for line in table[-2:]] == ["32", "32"]
    assert Path("rates.png").read_bytes()[:4] == b"\x89PNG"
    assert len(Path("rates.jsonl").read_text().splitlines()) == 2 * 17
    for more, code, message in [
        (["--json", "rates.jsonl"], 1, "--overwrite"),
        (["--look-ahead", "99"], 1, "has no look-ahead of 99 ms"),
        (["--head", "ctx"], 1, "there is no head 'ctx'"),
        (["--beams", "2"], 2, "unrecognized arguments"),
    ]:
        assert main([*words, *more]) == code
        assert message in capsys.readouterr().err
    assert main(["evaluate", "transcription", "--model", "run"]) == 1
    assert "there is nothing to validate on\nhint: give --data.validation" in capsys.readouterr().err
