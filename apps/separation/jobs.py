"""The work of `wavecast separate`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavecast.apps.enhancement.inference import Enhancer
from wavecast.apps.separation.inference import DEFAULT_MODEL, Options, Separator
from wavecast.apps.separation.recording import Recording
from wavecast.apps.separation.speakers import Separating
from wavecast.apps.sound.jobs import Job, Work
from wavecast.apps.sound.recording import suffix_for
from wavecast.apps.sound.report import clipped, faults
from wavecast.cards import find_model
from wavecast.console import UsageError
from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import AudioInfo
from wavecast.inputs import Source, is_folder, plan_target

TURNS = {"auto": None, "yes": True, "no": False}
"""What --turns stands for."""


def separate_all(args: argparse.Namespace) -> int:
    """Separate all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Separation(args).run()


class Separation(Work):
    """All that is to be separated for a command line.

    Attributes:
        speakers: as many were asked for; None: as many as have a voice.
        names: of the results of an input: "1", "2" and so on, and "residual".
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.speakers = None if args.speakers == "auto" else int(args.speakers)
        self.names: list[str] = []

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other, and name the results."""
        args, piped = self.args, any(source.is_pipe for source in sources)
        self.check_outputs(sources, args.output == "-" or (args.output is None and piped), ("{stem}", "{speaker}"))
        if args.name_template.format(stem="x", speaker="1") == args.name_template.format(stem="x", speaker="2"):
            raise UsageError(f"--name-template {args.name_template!r} gives all speakers one name", "use {speaker}")
        if args.output == "-" and len(sources) != 1:
            raise UsageError(f"{len(sources)} inputs cannot go to stdout", "give -o FOLDER/")
        if piped and args.output not in (None, "-") and is_folder(args.output):
            raise UsageError("live sound has no name of its own", f"give -o {args.output.rstrip('/')}/NAME.wav")
        if args.peaks == "rescale" and piped:
            raise UsageError("a level that depends on the whole recording", "on a pipe give --gain-db and --peaks soft")
        if args.residual and (args.enhance or args.enhance_model):
            raise UsageError("--enhance changes the voices: there is no residual of them", "leave one of both out")
        if args.reference:
            self._check_references(sources)
        card = find_model(args.model or DEFAULT_MODEL, "separate")
        count = self.speakers or int(card.hyperparameters.get("speakers", 2))
        self.names = [*map(str, range(1, count + 1)), *["residual"] * args.residual]

    def _check_references(self, sources: list[Source]) -> None:
        """Let as many references mean as many speakers."""
        count = len(self.args.reference)
        if len(sources) != 1:
            raise UsageError("--reference goes with one input")
        if self.speakers not in (None, count) or count < 2:
            raise UsageError(f"{count} references for {self.args.speakers} speakers", "give one for each speaker")
        self.speakers = count

    def unopened(self, source: Source) -> bool:
        """Tell whether an input must not be opened before its turn."""
        return source.is_pipe or self.args.output == "-"

    def piped(self, source: Source) -> tuple[str, ...]:
        """Choose where the results of such an input go."""
        if self.args.output in (None, "-"):
            return ("-",)
        return tuple(str(target) for target in self._files(source, ""))

    def targets(self, source: Source, info: AudioInfo) -> list[Path]:
        """Choose the files that the speakers of an input go to."""
        info = info if self.args.channels == "each" else replace(info, channels=1)
        return self._files(source, suffix_for(info, self.args, source))

    def _files(self, source: Source, suffix: str) -> list[Path]:
        template = self.args.name_template
        return [plan_target(source, self.args.output, suffix, template, name) for name in self.names]

    def done(self, job: Job) -> bool:
        """Tell whether the results of a job are there.

        They appear together, the first one last; so where outputs without a voice were left out, that one tells it all.
        """
        needed = job.targets if self.speakers else (job.target, *job.targets[len(job.targets) - self.args.residual :])
        return all(Path(target).exists() for target in needed)

    def load(self) -> None:
        """Load the models, and say what does not fit them before any file is opened."""
        args = self.args
        self.separator = Separator.load(args.model, args.device)
        self.options = Options(
            speakers=self.speakers,
            residual=args.residual,
            channels=args.channels,
            block=args.block,
            whole=args.whole,
            turns=TURNS[args.turns],
        )
        self.separator.stream(1, None, self.options, live=False)
        self.enhancer = None
        if args.enhance or args.enhance_model:
            self.enhancer = Enhancer.load(args.enhance_model, args.device)

    def one(self, job: Job) -> dict[str, Any]:
        """Separate one input."""
        live = job.source.is_pipe and job.target == "-"
        if live and self.enhancer is not None and not self.enhancer.streams:
            name = self.enhancer.card.name
            raise WavecastError(f"{name} needs the whole recording and cannot work live", "leave --enhance-model out")
        separating = Separating(self.separator, self.options, self.raw, self.progress, self.args.quiet)
        return Recording(job, self.names, separating, self.enhancer, self.args).separate()

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        text = f"{' '.join(row['outputs'])}: {row['seconds']:.1f} s in {row['wall_seconds']:.1f} s"
        if "si_sdr_gain" in row:
            text += f", SI-SDR {row['si_sdr_in']:.1f} -> {row['si_sdr_out']:.1f} dB"
        return text + clipped(row) + faults(row)
