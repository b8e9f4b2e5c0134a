"""The work of `wavecast enhance`."""

import argparse
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from wavecast.apps.enhancement.inference import Enhancer, Options
from wavecast.apps.enhancement.recording import enhance_one
from wavecast.apps.sound.jobs import Job, Work
from wavecast.apps.sound.recording import suffix_for
from wavecast.apps.sound.report import clipped, faults
from wavecast.console import UsageError
from wavecast.core.pool import Pool, PoolClosed
from wavecast.datamodules.audio_files import AudioInfo
from wavecast.inputs import Source, plan_target


def enhance_all(args: argparse.Namespace) -> int:
    """Enhance all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Enhancement(args).run()


class Enhancement(Work):
    """All that is to be enhanced for a command line."""

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other."""
        args, piped = self.args, any(source.is_pipe for source in sources)
        self.check_outputs(sources, args.output == "-" or (args.output is None and piped))
        if args.output == "-" and len(sources) != 1:
            raise UsageError(f"{len(sources)} inputs cannot go to stdout", "give -o FOLDER/")
        if args.reference and len(sources) != 1:
            raise UsageError("--reference goes with one input")
        if (args.level is not None or args.peaks == "rescale") and piped:
            raise UsageError("a level that depends on the whole recording", "on a pipe give --gain-db and --peaks soft")
        if args.batch > 1 and args.channels == "shared":
            raise UsageError("--channels shared works file by file", "leave --batch out")

    def unopened(self, source: Source) -> bool:
        """Tell whether an input must not be opened before its turn."""
        return source.is_pipe or self.args.output == "-"

    def targets(self, source: Source, info: AudioInfo) -> list[Path]:
        """Choose the file that the result of an input goes to."""
        suffix = suffix_for(info, self.args, source)
        return [plan_target(source, self.args.output, suffix, self.args.name_template)]

    def load(self) -> None:
        """Load the model."""
        self.enhancer = Enhancer.load(self.args.model, self.args.device)
        self.options = Options(
            mix=self.args.mix,
            limit_db=self.args.limit_db,
            gain_db=self.args.gain_db,
            soft=self.args.peaks == "soft",
            high_band=self.args.high_band,
            shared=self.args.channels == "shared",
            block=self.args.block,
            whole=self.args.whole,
        )

    def one(self, job: Job) -> dict[str, Any]:
        """Enhance one input."""
        return enhance_one(job, self.enhancer, self.options, self.args, self.raw, self.progress)

    def do_all(self, jobs: list[Job]) -> int:
        """Do the jobs, several files side by side in one batch where that is wanted."""
        done: list[bool] = []
        raised: list[Exception] = []
        waiting = iter(jobs)
        workers = min(self.args.batch, len(jobs))
        if workers == 1:
            return super().do_all(jobs)

        def work(pool: Pool) -> None:
            with suppress(PoolClosed), pool.member():
                try:
                    while (job := next(waiting, None)) is not None:
                        done.append(self.do(job))
                except Exception as error:  # raised again where the command began
                    raised.append(error)
                    pool.close()

        with self.enhancer.together(workers) as pool:
            threads = [Thread(target=work, args=(pool,)) for _ in range(workers)]
            for thread in threads:
                thread.start()
            try:
                pool.serve()
            finally:
                for thread in threads:
                    thread.join()
        if raised:
            raise raised[0]
        return done.count(False)

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        text = f"{row['output']}: {row['seconds']:.1f} s in {row['wall_seconds']:.1f} s"
        if "si_sdr_gain" in row:
            text += f", SI-SDR {row['si_sdr_in']:.1f} -> {row['si_sdr_out']:.1f} dB"
        return text + clipped(row) + faults(row)
