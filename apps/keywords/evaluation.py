"""`wavecast evaluate keywords`: accuracy on clips, what is heard when, and false alarms against misses on long audio.

wavecast evaluate keywords --config keywords_small --data.speech '[corpus/tts]' --data.part test
wavecast evaluate keywords --model mine.ckpt --data.speech '[speech_commands]' --data.placed false --plots pictures

Clips are those of a part that was not trained on. Long recordings have words of these clips planted in them at known
times; false alarms are counted in other speech of the same part, of which no text has one of the words in it, and in
recordings of your own without the words (--without).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wavecast
from wavecast.apps.activity.confusion import confusion, draw_confusion
from wavecast.apps.keywords.classes import REJECTED
from wavecast.apps.keywords.decisions import Event
from wavecast.apps.keywords.detection import Heard, Point, at_recall, curve
from wavecast.apps.keywords.inference import Options, Spotter
from wavecast.apps.keywords.score_pictures import draw_detection, draw_heard
from wavecast.apps.keywords.views import clip_features
from wavecast.apps.sound.evaluation import check_rate, number
from wavecast.console import JsonReport, UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Clips, open_clips
from wavecast.datamodules.keywords import KeywordData
from wavecast.datamodules.planted_words import PlantedWords
from wavecast.evaluation import evaluation_parser, parsed

BATCH = 32
LONGEST = 120.0
"""Seconds of a recording that is put together of clips."""
RECALL = 0.9
"""Share of the words found, at which false alarms are told."""
REAL, SYNTHETIC, OWN = "real speech", "synthetic speech", "--without"


def evaluate(words: list[str]) -> int:
    """Run the command.

    Args:
        words: its options; `--data.*` are those of `KeywordData`, `--config` takes them from a recipe.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        WavecastError: there is no such model, nothing to evaluate on, or they do not fit.
    """
    args = parse(words)
    data, report = args.data, JsonReport(args.json, args.overwrite)
    try:
        data.prepare_data()
        data.setup("validate")
        spotter = wavecast.load("spot", args.model, args.device)
        check_rate(spotter.sample_rate, data.sample_rate)
        check_classes(spotter, data)
        lines, clips = score_clips(spotter, data)
        report.add({"model": spotter.card.name, "part": data.part, **clips})
        say(f"clips: {len(data.validation_source)}", args.quiet)
        found = detect(spotter, data, args)
        for name, points in found.items():
            report.add({"model": spotter.card.name, "alarms_in": name, "points": [point_row(one) for one in points]})
            lines += ["", *detection_table(name, points)]
    finally:
        report.close()
    if args.json != "-":
        print("\n".join(lines))
    if args.plots:
        draw(Path(args.plots), spotter, clips, found)
    return 0


def parse(words: list[str]) -> Any:
    """Parse the options; `data` comes as a `KeywordData`.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    parser = evaluation_parser("keywords", KeywordData)
    parser.add_argument("--planted", type=int, default=20, help="recordings with words in them, 0 for none")
    parser.add_argument("--hours", type=float, default=0.1, help="most hours of other speech of each kind, 0 for none")
    parser.add_argument("--without", type=list[str], default=[], help="sources of recordings without the words")
    parser.add_argument("--plots", type=str | None, help="draw confusion, time heard and detection into this folder")
    args = parsed(parser, words)
    if args.planted < 0 or args.hours < 0:
        raise UsageError(f"--planted {args.planted} --hours {args.hours}", "give numbers from 0 on")
    return args


def check_classes(spotter: Spotter, data: KeywordData) -> None:
    """See that the model knows the words of the data.

    Raises:
        WavecastError: it does not.
    """
    missing = [word for word in data.classes if word not in spotter.classes and word not in REJECTED]
    if missing:
        hint = f"give --data.words '[{', '.join(one for one in data.classes if one in spotter.words)}]'"
        raise WavecastError(f"{spotter.card.name} does not know the word {missing[0]!r} of the data", hint)


def score_clips(spotter: Spotter, data: KeywordData) -> tuple[list[str], dict[str, Any]]:
    """Score the views of a part: accuracy, rejection, and what is known after how many frames.

    Returns:
        Lines of a table, and the figures as plain data.
    """
    names, running = list(spotter.classes), list[np.ndarray]()
    true = []
    for sounds, classes in batches(data):
        running.append(running_logits(spotter, sounds))
        true += classes
    logits, truth = np.concatenate(running), np.array([place_of(name, names) for name in true])
    words = np.array([place for place, name in enumerate(names) if name not in REJECTED])
    of_word = np.isin(truth, words)
    if not of_word.any():
        raise WavecastError("there is no word to score", "give --data.speech '[FOLDER]'")
    closed = words[logits[:, :, words].argmax(2)] == truth[:, None]
    last = logits[:, -1].argmax(1)
    heard = [round(float(value), 4) for value in closed[of_word].mean(0)]
    figures: dict[str, Any] = {
        "words": int(of_word.sum()),
        "accuracy": heard[-1],
        "found": float((last == truth)[of_word].mean()),
        "others": int((~of_word).sum()),
        "rejected": float((~np.isin(last, words))[~of_word].mean()) if (~of_word).any() else None,
        "accuracy_after_frames": heard,
        "classes": names,
        "confusion": confusion(truth, last, len(names)).tolist(),
    }
    return clip_table(figures), figures


def place_of(name: str, names: Sequence[str]) -> int:
    """Give the place of a class; what a model has no class for counts as its last one."""
    return names.index(name) if name in names else len(names) - 1


def batches(data: KeywordData) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Give the views of a part: sounds (batch, samples), and their classes."""
    source = data.validation_source
    if source is None:
        raise ValueError("the data is not set up\nhint: call setup('validate') first")
    for first in range(0, len(source), BATCH):
        items = [source.item(k) for k in range(first, min(first + BATCH, len(source)))]
        classes = [data.classes[int(item["target"].argmax())] for item in items]
        yield np.stack([item["sound"] for item in items]), classes


@torch.inference_mode()
def running_logits(spotter: Spotter, sounds: np.ndarray) -> np.ndarray:
    """Average the logits of views over their first frames: (batch, samples) to (batch, frame, classes)."""
    network: Any = spotter.network
    frames = clip_features(network, torch.from_numpy(sounds).to(spotter.device), spotter.views().frames)
    x = network.head(network.blocks(network.embedding(frames)[0])[0])[0]
    counts = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
    return (x.cumsum(1) / counts).cpu().numpy()


def detect(spotter: Spotter, data: KeywordData, args: Any) -> dict[str, list[Point]]:
    """Measure misses in recordings with words, against false alarms in each kind of other speech."""
    planted = planted_words(spotter, data, args.planted)
    say(f"recordings with words: {len(planted)}", args.quiet)
    found = {}
    for name, recordings in kinds(data, args).items():
        silent = [heard(spotter, sound) for sound in recordings]
        if silent:
            say(f"{name}: {sum(one.seconds for one in silent) / 3600:.2f} h", args.quiet)
            found[name] = curve(planted, silent, partial(decide, spotter))
    return found


def planted_words(spotter: Spotter, data: KeywordData, count: int) -> list[Heard]:
    """Listen to recordings with words of a part planted in them."""
    source = data.validation_source
    if source is None:
        raise ValueError("the data is not set up\nhint: call setup('validate') first")
    planted = PlantedWords(source.items)
    made = (planted.recording(k) for k in range(count))
    return [heard(spotter, sound, said) for sound, said in made]


def kinds(data: KeywordData, args: Any) -> dict[str, Iterator[np.ndarray]]:
    """Give the recordings that alarms are counted in, by kind."""
    other = data.validation_source.items.other if data.validation_source else None
    found: dict[str, Iterator[np.ndarray]] = {}
    if other is not None:
        for name, synthetic in ((REAL, False), (SYNTHETIC, True)):
            found[name] = joined(other.where(test=partial(is_synthetic, synthetic)), 3600 * args.hours)
    if args.without:
        sources = Clips.join([open_clips(one, data.sample_rate, data.cache) for one in args.without])
        found[OWN] = joined(sources, np.inf)
    return found


def is_synthetic(wanted: bool, about: Any) -> bool:
    """Tell whether a clip is synthetic speech, or is not."""
    return ("voice" in about) == wanted


def joined(clips: Clips, most: float) -> Iterator[np.ndarray]:
    """Put clips behind each other into recordings of LONGEST, as long as there are clips and `most` seconds."""
    pieces, samples, left = list[np.ndarray](), 0, most * clips.sample_rate
    for row in range(len(clips)):
        if left <= 0:
            break
        pieces.append(clips.clip(row, 0, int(min(left, clips.lengths[row]))))
        samples, left = samples + len(pieces[-1]), left - len(pieces[-1])
        if samples >= LONGEST * clips.sample_rate:
            yield np.concatenate(pieces)
            pieces, samples = [], 0
    if pieces:
        yield np.concatenate(pieces)


def heard(spotter: Spotter, sound: np.ndarray, said: Sequence[Any] = ()) -> Heard:
    """Let the network hear a recording."""
    return Heard(spotter.posteriors(sound), said, len(sound) / spotter.sample_rate)


def decide(spotter: Spotter, posteriors: np.ndarray, threshold: float) -> list[Event]:
    """Make events at a threshold, as `wavecast spot` does."""
    decider = spotter.decider(Options(threshold=threshold))
    return [*decider.push(posteriors), *decider.flush()]


def clip_table(figures: dict[str, Any]) -> list[str]:
    """Write the figures of the clips as lines; frames are of 10 ms."""
    rejected = figures["rejected"]
    heard = figures["accuracy_after_frames"]
    return [
        f"words                {figures['words']:8}",
        f"accuracy %           {100 * figures['accuracy']:8.2f}",
        f"found %              {100 * figures['found']:8.2f}   (among all classes)",
        f"other sounds         {figures['others']:8}",
        f"rejected %           {'       -' if rejected is None else f'{100 * rejected:8.2f}'}",
        "",
        f"{'frames heard':>12}{'accuracy %':>12}",
        *(f"{n:12}{100 * heard[n - 1]:12.2f}" for n in range(16, len(heard) + 1, 16)),
    ]


def point_row(point: Point) -> dict[str, Any]:
    """Give a point as plain data."""
    return {
        "threshold": point.threshold,
        "said": point.said,
        "missed": point.missed,
        "alarms": point.alarms,
        "hours": round(point.seconds / 3600, 4),
        "alarms_per_hour": number(point.alarms_per_hour),
        "recall": number(point.recall),
        "latency": number(point.latency),
    }


def detection_table(name: str, points: Sequence[Point]) -> list[str]:
    """Write some points as lines, and the one of the fewest false alarms that still finds RECALL."""
    lines = [f"false alarms in {points[0].seconds / 3600:.2f} h of {name}, {points[0].said} words"]
    lines += [f"{'threshold':>12}{'recall %':>12}{'alarms/h':>12}{'latency s':>12}"]
    lines += [detection_line(one) for one in points[::4]]
    best = at_recall(points, RECALL)
    if best is not None:
        lines += [f"at {100 * RECALL:.0f} % recall:", detection_line(best)]
    return lines


def detection_line(point: Point) -> str:
    """Write a point as a line."""
    found = f"{100 * point.recall:12.2f}" if point.said else f"{'-':>12}"
    late = f"{point.latency:12.3f}" if point.latency == point.latency else f"{'-':>12}"
    return f"{point.threshold:12.4f}{found}{point.alarms_per_hour:12.2f}{late}"


def draw(folder: Path, spotter: Spotter, clips: dict[str, Any], found: dict[str, list[Point]]) -> None:
    """Draw confusion, accuracy against time heard, and the DET curves, as PNG.

    Raises:
        WavecastError: matplotlib is not installed, or the pictures cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WavecastError(f"cannot write {folder}: {error.strerror}") from error
    title = spotter.card.name
    draw_confusion(np.array(clips["confusion"]), clips["classes"], folder / "confusion.png", title)
    draw_heard(clips["accuracy_after_frames"], folder / "heard.png", title)
    if found and any(points[0].said for points in found.values()):
        draw_detection(found, folder / "detection.png", title)
