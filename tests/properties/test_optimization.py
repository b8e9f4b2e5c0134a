"""What training has in common: every task takes the optimizer's arguments, shows them, and keeps them plainly."""

import io

import pytest
import torch
from jsonargparse import ArgumentParser

from wavecast.apps.enhancement.task import EnhancementTask
from wavecast.apps.forecasting.task import ForecastingTask
from wavecast.optimization import OptimizedTask

DEFAULTS = {
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 1e-2,
    "undecayed": "vectors",
    "schedule": "cosine",
    "warmup_steps": 0,
    "last_rate": 0.0,
    "patience": 5,
    "factor": 0.5,
    "gradient_noise": 0.0,
    "average_decay": 0.0,
}
OWN = {EnhancementTask: {"last_rate": 0.02}, ForecastingTask: {}}
"""Defaults in which a task differs."""


@pytest.mark.parametrize("task", OWN)
def test_the_command_line_has_them_with_defaults_and_descriptions(task):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(task, "model")
    found = parser.parse_args(["--model.schedule", "plateau", "--model.patience", "3"]).model
    assert {name: found[name] for name in DEFAULTS} == {**DEFAULTS, **OWN[task], "schedule": "plateau", "patience": 3}
    text = " ".join(parser.format_help().split())
    for name, words in {"weight_decay": "of the optimizer", "warmup_steps": "linear rise", "factor": "plateau"}.items():
        assert words in text[text.index(f"--model.{name} {name.upper()} ") :][:120], name
    assert "optimization" not in found
    with pytest.raises(Exception, match="momentum"):
        parser.parse_args(["--model.momentum", "0.9"])


@pytest.mark.parametrize("task", OWN)
def test_python_has_them_too_as_plain_hyperparameters(task):
    """As a weights-only checkpoint can hold them, beside those of the task."""
    kept = dict(task(learning_rate=0.5, name="mine").hparams)
    assert {name: kept[name] for name in DEFAULTS} == {**DEFAULTS, **OWN[task], "learning_rate": 0.5}
    assert kept["name"] == "mine" and "optimization" not in kept and "architecture" in kept
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == kept
    with pytest.raises(TypeError, match="momentum"):
        task(momentum=0.9)


class SpelledOut(OptimizedTask):
    """A task that names some of the arguments itself and saves them again."""

    def __init__(self, learning_rate: float = 0.25, schedule: str = "constant", width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_a_task_may_spell_them_out():
    kept = SpelledOut(width=4).hparams
    assert dict(kept) == {**DEFAULTS, "learning_rate": 0.25, "schedule": "constant", "width": 4}
