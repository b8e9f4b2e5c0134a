"""`wavecast evaluate transcription`: word and character error rates on a manifest, at every look-ahead asked for.

wavecast evaluate transcription test.jsonl --model fastconformer.en_small --look-ahead 0 480
wavecast evaluate transcription --config transcription_fastconformer_small --data.speech '[corpus]'

The first form scores all of a manifest, the second the voices that a recipe holds out. Texts are compared in lower
case, without punctuation, numbers as they are written (`wavecast.datamodules.manifests.normalize`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.transcription.error_rates import Errors, character_errors, total, word_errors
from wavecast.console import JsonReport, say
from wavecast.evaluation import evaluation_parser, parsed
from wavecast.pictures import new_figure, save_picture

COLUMNS = f"{'WER %':>8}{'CER %':>8}{'subst.':>8}{'deleted':>8}{'inserted':>9}{'words':>8}"


@dataclass
class Score:
    """How well a set of utterances was transcribed in one way.

    Attributes:
        set: name of the utterances: "synthetic" or "real".
        head: "ctc" or "rnnt".
        look_ahead: in milliseconds; None: the model hears the whole recording first.
        latency_ms: between a sound and the first chance of its word; infinite when the model cannot stream.
        words: errors of every utterance.
        characters: the same by characters.
        seconds: of sound.
        took: seconds of computing.
    """

    set: str
    head: str
    look_ahead: int | None
    latency_ms: float
    words: list[Errors] = field(default_factory=list)
    characters: list[Errors] = field(default_factory=list)
    seconds: float = 0.0
    took: float = 0.0

    def row(self) -> dict[str, Any]:
        """Give the totals as plain data."""
        words = total(self.words)
        return {
            **named(self),
            "utterances": len(self.words),
            "wer": words.rate,
            "cer": total(self.characters).rate,
            **counts(words),
            "latency_ms": self.latency_ms if np.isfinite(self.latency_ms) else None,
            "seconds": round(self.seconds, 3),
            "real_time_factor": self.took / self.seconds,
        }


def evaluate(words: list[str]) -> int:
    """Run the command.

    Args:
        words: manifests and options; `--data.*` are those of `TranscriptionData`, `--config` takes them from a recipe.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        WavecastError: there is no such model, or nothing to evaluate on.
    """
    from wavecast.apps.transcription.inference import Transcriber

    args = parse(words)
    data = args.data
    if args.manifests:
        data.validation, data.speech = args.manifests, []
    report = JsonReport(args.json, args.overwrite)
    options = {"beam": args.beam, "language_model": args.language_model}
    options |= {"weight": args.language_weight, "reward": args.token_reward}
    scores: list[Score] = []
    try:
        transcriber = Transcriber.load(args.model, args.device, args.precision)
        data.sample_rate = transcriber.sample_rate
        data.setup("validate")
        for head, look_ahead in product(heads(transcriber, args.head), look_aheads(transcriber, args.look_ahead)):
            if look_ahead is not None:
                transcriber.choose_look_ahead(look_ahead)
            for name, batches in data.validation_sets.items():
                latency = 1000 * transcriber.latency / transcriber.sample_rate
                score = Score(name, head, look_ahead, latency)
                for row in score_set(score, batches.utterances.clips, transcriber, **options):
                    report.add(row)
                    if args.files:
                        print(file_line(row))
                say(line(score), args.quiet)
                scores.append(score)
                report.add(score.row())
    finally:
        report.close()
    if args.json != "-":
        print(table(scores))
    if args.plot:
        draw(Path(args.plot), scores, transcriber.card.name)
    return 0


def parse(words: list[str]) -> Any:
    """Parse the options; `data` comes as a `TranscriptionData`.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    from wavecast.datamodules.transcription import TranscriptionData

    parser = evaluation_parser("transcription", TranscriptionData)
    parser.add_argument("manifests", nargs="*", type=str, help="NeMo or lhotse JSONL, Kaldi folder, CSV, packed corpus")
    parser.add_argument("--precision", default="float32", help="float32 or int8")
    parser.add_argument(
        "--look-ahead", nargs="+", type=int, default=[], help="in ms; all those of the model by default"
    )
    parser.add_argument("--head", nargs="+", type=str, default=[], help="ctc, rnnt (all of the model)")
    parser.add_argument("--beam", type=int, default=0, help="hypotheses (8 with a language model, else 1)")
    parser.add_argument("--language-model", type=str, default="", help="a text, counted n-grams, or none")
    parser.add_argument("--language-weight", type=float | None, help="of it beside what is heard")
    parser.add_argument("--token-reward", type=float | None, help="for each token beside it")
    parser.add_argument("--files", action="store_true", help="print a line for every utterance, too")
    parser.add_argument("--plot", type=str | None, help="draw error rates against look-ahead into this PNG")
    everything = {"validation_items": 1 << 40, "shortest": 0.0, "longest": 1e9, "leave_out": ""}
    parser.set_defaults({f"data.{name}": value for name, value in everything.items()})
    return parsed(parser, words)


def heads(transcriber: Any, wanted: list[str]) -> list[str]:
    """Choose the heads to evaluate: those wanted, or all that the model has."""
    network = transcriber.network
    return wanted or [name for name, one in (("rnnt", network.prediction), ("ctc", network.ctc)) if one is not None]


def look_aheads(transcriber: Any, wanted: list[int]) -> list[int | None]:
    """Choose the look-aheads in milliseconds: those wanted, or all that the model is made for; None: it has none."""
    return list(wanted) or sorted(transcriber.look_aheads) or [None]


def score_set(score: Score, clips: Any, transcriber: Any, **options: Any) -> Iterator[dict[str, Any]]:
    """Transcribe the utterances of a set one by one, add them to a score, and give what became of each.

    Args:
        score: of the set, which is added to.
        clips: the utterances.
        transcriber: at the score's look-ahead.
        options: of `wavecast.apps.transcription.inference.Options`, beside the head.
    """
    from wavecast.apps.transcription.inference import Options

    wanted = Options(head=score.head, **options)
    for row, about in enumerate(clips.attributes):
        sound = clips.clip(row)
        began = time.perf_counter()
        text = transcriber(sound, clips.sample_rate, wanted).text
        score.took += time.perf_counter() - began
        score.seconds += len(sound) / clips.sample_rate
        by_word, by_character = word_errors(about["text"], text), character_errors(about["text"], text)
        score.words.append(by_word)
        score.characters.append(by_character)
        yield {
            "id": about["id"],
            **named(score),
            "reference": about["text"],
            "hypothesis": text,
            "wer": by_word.rate if by_word.length else None,
            "cer": by_character.rate if by_character.length else None,
            **counts(by_word),
        }


def named(score: Score) -> dict[str, Any]:
    """Give what a score is of."""
    return {"set": score.set, "head": score.head, "look_ahead_ms": score.look_ahead}


def counts(errors: Errors) -> dict[str, int]:
    """Give the kinds of errors and the words of the reference."""
    return {
        "words": errors.length,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }


def file_line(row: dict[str, Any]) -> str:
    """Write an utterance as one line: its name, its rates, what was found."""
    rates = "".join("       -" if row[name] is None else f"{100 * row[name]:8.1f}" for name in ("wer", "cer"))
    return f"{row['id']:24}{rates}  {row['hypothesis']}"


def line(score: Score) -> str:
    """Write a score as one line."""
    words, row = total(score.words), score.row()
    ahead = "whole" if score.look_ahead is None else str(score.look_ahead)
    latency = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.0f}"
    return (
        f"{score.set:10}{score.head:>6}{ahead:>11}{latency:>9}{100 * words.rate:8.2f}{100 * row['cer']:8.2f}"
        f"{words.substitutions:8}{words.deletions:8}{words.insertions:9}{words.length:8}{row['real_time_factor']:8.3f}"
    )


def table(scores: list[Score]) -> str:
    """Write all scores as a table; look-ahead and latency in milliseconds, real-time factor on this machine."""
    head = f"{'set':10}{'head':>6}{'look-ahead':>11}{'latency':>9}{COLUMNS}{'RTF':>8}"
    return "\n".join([head, *map(line, scores)])


def draw(path: Path, scores: list[Score], title: str) -> None:
    """Draw word error rates against look-ahead, and the kinds of errors, as PNG.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_figure(11, 4.5)
    figure.suptitle(title)
    rates, kinds = figure.subplots(1, 2)
    for name, head in sorted({(score.set, score.head) for score in scores}):
        some = sorted((s for s in scores if (s.set, s.head) == (name, head)), key=lambda s: s.look_ahead or 0)
        ahead = [score.look_ahead or 0 for score in some]
        rates.plot(ahead, [100 * total(score.words).rate for score in some], marker="o", label=f"{name}, {head}")
    rates.set(xlabel="look-ahead in ms", ylabel="word error rate in %", ylim=(0, None))
    rates.legend()
    names = [f"{score.set}\n{score.head} {score.look_ahead}" for score in scores]
    below = np.zeros(len(scores))
    for kind in ("substitutions", "deletions", "insertions"):
        share = np.array([100 * getattr(total(score.words), kind) / total(score.words).length for score in scores])
        kinds.bar(names, share, bottom=below, label=kind)
        below += share
    kinds.set(ylabel="% of the words")
    kinds.tick_params("x", rotation=90)
    kinds.legend()
    save_picture(figure, path)
