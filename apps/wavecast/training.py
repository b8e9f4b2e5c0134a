"""`wavecast train TASK` and `wavecast evaluate TASK`: LightningCLI behind our front door.

Everything a run writes lies under `runs/TASK/DATE`: `config.yaml` (all settings), `metrics.csv` and TensorBoard events,
`pictures/`, `checkpoints/`. Words come as arguments, `sys.argv` is never read, so that tests and Python can call it.
"""

import logging
import os
import shlex
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import yaml

from wavecast.console import Parser, UsageError, did_you_mean, say, talk_arguments
from wavecast.core.errors import WavecastError


@dataclass(frozen=True)
class Task:
    """What `train` and `evaluate` need to know of a task.

    Attributes:
        model: dotted path of its LightningModule.
        data: dotted path of its LightningDataModule.
        evaluation: dotted path of `evaluate(words) -> int`.
        use: command that takes a trained checkpoint.
    """

    model: str
    data: str
    evaluation: str
    use: str


TASKS = {
    "activity": Task(
        "wavecast.apps.activity.task:ActivityTask",
        "wavecast.datamodules.activities:ActivityData",
        "wavecast.apps.activity.evaluation:evaluate",
        "wavecast recognize clip.mp4 --model {}",
    ),
    "enhancement": Task(
        "wavecast.apps.enhancement.task:EnhancementTask",
        "wavecast.datamodules.enhancement:EnhancementData",
        "wavecast.apps.enhancement.evaluation:evaluate",
        "wavecast enhance noisy.wav --model {}",
    ),
    "forecasting": Task(
        "wavecast.apps.forecasting.task:ForecastingTask",
        "wavecast.datamodules.weather:WeatherData",
        "wavecast.apps.forecasting.evaluation:evaluate",
        "wavecast forecast FIELDS --model {}",
    ),
    "keywords": Task(
        "wavecast.apps.keywords.task:KeywordTask",
        "wavecast.datamodules.keywords:KeywordData",
        "wavecast.apps.keywords.evaluation:evaluate",
        "wavecast spot talk.wav --model {}",
    ),
    "separation": Task(
        "wavecast.apps.separation.task:SeparationTask",
        "wavecast.datamodules.separation:SeparationData",
        "wavecast.apps.separation.evaluation:evaluate",
        "wavecast separate meeting.wav --model {}",
    ),
    "transcription": Task(
        "wavecast.apps.transcription.task:TranscriptionTask",
        "wavecast.datamodules.transcription:TranscriptionData",
        "wavecast.apps.transcription.evaluation:evaluate",
        "wavecast transcribe talk.wav --model {}",
    ),
    "video": Task(
        "wavecast.apps.forecasting.task:ForecastingTask",
        "wavecast.datamodules.video:VideoData",
        "wavecast.apps.forecasting.video_evaluation:evaluate",
        "wavecast forecast CLIP --model {}",
    ),
}

HARMLESS = (
    "does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "GPU available but not used",
    "your dataloader is not resumable",  # the sampler asks the trainer where the run stands
    "was deprecated in v4",
    "By default only one JsonargparseDeprecationWarning",
)
"""Lightning's warnings about choices that are ours, and about its own use of jsonargparse."""


def run_words(command: str, words: list[str]) -> int:
    """Run `wavecast train` or `wavecast evaluate`.

    Args:
        command: "train" or "evaluate".
        words: the task, then its options.

    Returns:
        The exit code.

    Raises:
        UsageError: there is no such task or option.
        WavecastError: the work failed.
    """
    if not words or words[0] in ("-h", "--help"):
        tasks = "\n".join(f"  {name}" for name in TASKS)
        recipes = "\n".join(f"  {name}" for name in sorted(shipped_recipes()))
        print(
            f"usage: wavecast {command} TASK [--config RECIPE] [--overrides]\n\ntasks:\n{tasks}\n\nrecipes:\n{recipes}"
        )
        return 0 if words else 2
    name, *rest = words
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}", did_you_mean(name, TASKS, f"tasks: {', '.join(TASKS)}"))
    if command == "evaluate":
        return int(find(TASKS[name].evaluation)(rest))
    return train(name, rest)


def find(path: str) -> Any:
    """Import `module:name`."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def train(task: str, words: list[str]) -> int:
    """Train a network.

    Args:
        task: a key of TASKS.
        words: our options (`--config`, `--smoke`, `--resume`, `--run`, `--quiet`), the rest is LightningCLI's.

    Raises:
        WavecastError: there is nothing to resume, or the folder of the run holds another.
    """
    parser = training_options(task)
    wanted = [word for word in words if word in ("-h", "--help")]
    args, rest = parser.parse_known_args([word for word in words if word not in wanted])
    resumed = find_run(args.resume, task) if args.resume else None
    configs = args.config or ([str(resumed.parent.parent / "config.yaml")] if resumed else [])
    texts = [word for name in configs for word in ("--config", yaml.safe_dump(read_recipe(name, args.smoke)))]
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    run, log = Path(args.run or Path("runs") / task / now).resolve(), ""
    if resumed and args.run in (None, args.resume) and (resumed.parent.parent / "config.yaml").exists():
        run, log = resumed.parent.parent, f"resumed_{now}"  # checkpoints stay together, logs are never overwritten
        texts += ["--checkpoint.dirpath", str(resumed.parent)]
    elif (run / "config.yaml").exists() and is_first_process():
        raise WavecastError(f"{args.run} holds a run", f"give another folder, or go on with it: --resume {args.run}")
    cli = train_cli(task, [*texts, *rest, *wanted], run, log, args.quiet)
    if cli is None:
        return 0
    cli.fit(resumed)
    if cli.trainer.is_global_zero:
        best = cli.trainer.checkpoint_callback.best_model_path or cli.trainer.checkpoint_callback.last_model_path
        say(f"best checkpoint: {best}\nuse it: {TASKS[task].use.format(shlex.quote(best))}", args.quiet)
    return 0


def is_first_process() -> bool:
    """Tell whether this is the process that begins a run; others of it find what that one has written."""
    return os.environ.get("LOCAL_RANK", "0") == "0" == os.environ.get("RANK", "0")


def training_options(task: str) -> Parser:
    """Build the parser of the options that are ours."""
    parser = Parser(f"wavecast train {task}", "Train a network; all other options are listed by --help.")
    parser.add_argument("--config", action="append", metavar="NAME|PATH")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--resume", metavar="FILE|FOLDER|last")
    parser.add_argument("--run", metavar="FOLDER")
    talk_arguments(parser)
    return parser


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with the package, by name."""
    folder = Path(str(resources.files("wavecast.recipes")))
    return {path.stem: path for path in folder.glob("*.yaml")}


def read_recipe(name_or_path: str, smoke: bool = False) -> dict[str, Any]:
    """Read a recipe: a shipped one by name, or a file.

    Args:
        name_or_path: which.
        smoke: apply the overrides under its key `smoke`, which make it small enough to try.

    Raises:
        WavecastError: it does not exist or is no YAML mapping.
    """
    shipped = shipped_recipes()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        hint = did_you_mean(name_or_path, shipped, f"shipped recipes: {', '.join(sorted(shipped))}")
        raise WavecastError(f"there is no recipe {name_or_path}", hint)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WavecastError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(recipe, dict):
        raise WavecastError(f"{path} is no recipe: it holds a {type(recipe).__name__}, not settings by name")
    overrides = recipe.pop("smoke", {})
    return merged(recipe, overrides) if smoke else recipe


def with_recipes(words: list[str]) -> Iterator[str]:
    """Put the data settings of a recipe in the place of its name."""
    smoke = "--smoke" in words
    remaining = iter([word for word in words if word != "--smoke"])
    for word in remaining:
        option, _, value = word.partition("=")
        if option != "--config":
            yield word
            continue
        recipe = read_recipe(value or next(remaining, ""), smoke)
        yield from ("--config", yaml.safe_dump({"data": recipe.get("data", {})}))


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put overrides over settings, mapping by mapping."""
    result = dict(settings)
    for name, value in overrides.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def find_run(resume: str, task: str) -> Path:
    """Find the checkpoint to resume from: a file, the last one of a run's folder, or of the last run.

    Raises:
        WavecastError: there is none.
    """
    if resume == "last":
        found = list(Path("runs", task).glob("*/checkpoints/last*.ckpt"))
    else:
        path = Path(resume)
        found = [path] if path.is_file() else list(path.glob("checkpoints/last*.ckpt"))
    if not found:
        raise WavecastError(f"there is nothing to resume in {resume}", "give a checkpoint, or the folder of a run")
    return max(found, key=lambda path: path.stat().st_mtime).resolve()


def train_cli(task: str, words: list[str], run: Path, log: str = "", quiet: bool = False) -> Any:
    """Parse the settings and build model, data and trainer; None when help was asked for.

    Raises:
        UsageError: a setting is unknown or has a wrong value.
    """
    from wavecast.lightning import TrainCLI

    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        ignore_harmless()
        try:
            model, data = find(TASKS[task].model), find(TASKS[task].data)
            return TrainCLI(model, data, words, f"wavecast train {task}", run, log, quiet)
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split()), f"wavecast train {task} --help") from error
        except SystemExit as stop:
            if stop.code:
                raise
            return None


def ignore_harmless() -> None:
    """Silence the warnings of HARMLESS."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", f"(?s).*{message}")


def talk_line(values: Mapping[str, Any]) -> str:
    """Write metrics as one line."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())


def is_terminal() -> bool:
    """Tell whether stderr is a terminal."""
    return sys.stderr.isatty()
