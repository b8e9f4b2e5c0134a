"""The one LightningCLI of all tasks: our defaults, everything under one folder, the bar on stderr."""

import importlib.util
import signal
import warnings
from math import inf
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from wavecast.console import say
from wavecast.training import ignore_harmless, is_terminal, talk_line


class Checkpoint(ModelCheckpoint):
    """Checkpoints named after their score, but those of a run that is stopped, which have none yet."""

    filename: str | None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where the run stands."""
        scored, self.filename = self.filename, "stopped-step{step:07d}"
        try:
            super().on_exception(trainer, pl_module, exception)
        finally:
            self.filename = scored


class TrainCLI(LightningCLI):
    """Parse the settings of a run and build its model, data and trainer; `fit` trains.

    Args:
        model: class of the task.
        data: class of its data.
        words: command line.
        prog: what the help calls the command.
        run: folder of everything the run writes.
        log: folder in it for logs and settings; "": the run's own.
        quiet: say nothing.
    """

    def __init__(
        self,
        model: type[LightningModule],
        data: type[LightningDataModule],
        words: list[str],
        prog: str,
        run: Path,
        log: str,
        quiet: bool,
    ) -> None:
        self.folder, self.log, self.quiet = run, log, quiet
        super().__init__(
            model,
            data,
            args=words,
            run=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"prog": prog, "exit_on_error": False},
            trainer_defaults={
                "max_epochs": 100,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
                "enable_progress_bar": is_terminal() and not quiet,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 20,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the checkpoints; those of the front door are named for the help only."""
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val_loss",
                "checkpoint.save_top_k": 3,
                "checkpoint.save_last": True,
                "checkpoint.save_on_exception": True,
                "checkpoint.filename": "step{step:07d}-loss{val_loss:.4f}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )
        parser.epilog = (
            "--config takes the NAME of a shipped recipe, too. --smoke applies a recipe's small settings; --resume "
            "FILE|FOLDER|last goes on with a run; --run FOLDER is where it is written (runs/TASK/DATE)."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words given; those of the process are nobody's business here."""
        self.config: Namespace = parser.parse_args(args)

    def instantiate_trainer(self, **trainer_options: Any) -> Trainer:
        """Build the trainer: loggers and folder of this run unless the settings name others."""
        settings = self.config_init.trainer
        chosen: dict[str, Any] = {}
        if settings.default_root_dir is None:
            chosen["default_root_dir"] = str(self.folder)
        if settings.logger is None or settings.logger is True:
            chosen["logger"] = self._loggers()
        trainer = super().instantiate_trainer(**chosen)
        extra: list[Callback] = [Talk(self.quiet)]
        if trainer.loggers:
            extra.append(LearningRateMonitor("step"))
        for callback in trainer.callbacks:
            if isinstance(callback, RichProgressBar):
                callback._console_kwargs = {"stderr": True}
        trainer.callbacks = [*extra, *trainer.callbacks]
        return trainer

    def _loggers(self) -> list[Logger]:
        place = {"save_dir": str(self.folder), "name": "", "version": self.log}
        loggers: list[Logger] = [CSVLogger(**place)]
        if importlib.util.find_spec("tensorboard"):
            loggers.append(TensorBoardLogger(**place))
        return loggers

    def fit(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint on if one is given.

        Raises:
            KeyboardInterrupt: the user stopped it; `checkpoints/` then holds where it stood.
        """
        on_interrupt = signal.getsignal(signal.SIGINT)
        with warnings.catch_warnings():
            ignore_harmless()
            self.model.meet(self.datamodule)
            try:
                self.trainer.fit(
                    self.model,
                    datamodule=self.datamodule,
                    ckpt_path=None if checkpoint is None else str(checkpoint),
                    weights_only=None if checkpoint is None else True,
                )
            except SystemExit as stop:  # Lightning's answer to Ctrl-C, which it ignores from then on
                signal.signal(signal.SIGINT, on_interrupt)
                raise KeyboardInterrupt from stop


class Talk(Callback):
    """Say on stderr what is trained, and one line after each validation.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how large the network is and where the run is written."""
        size = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        limit = f"{trainer.max_steps} steps" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
        self._say(trainer, f"{size:,} parameters, {limit}, written to {trainer.log_dir or trainer.default_root_dir}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how well the network does."""
        values = {name: value for name, value in trainer.callback_metrics.items() if abs(float(value)) != inf}
        self._say(trainer, f"epoch {trainer.current_epoch}  step {trainer.global_step}  {talk_line(values)}")

    def _say(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            say(text, self.quiet)
