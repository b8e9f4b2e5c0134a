"""Make a packed corpus of synthetic speech from texts: more words for a transcriber, other speech for a spotter.

    python scripts/synthesize_speech.py TEXTS... --out spoken/ --hours 20 [--apart-from CORPUS/tts]
        [--language es | --neural]

TEXTS are plain or HTML files, such as Debian's packages fortunes and anarchism bring, or dialogues of games
(scripts/sentences.py). Their sentences are said by flite (Black, Lenzo 2001: three voices built of recordings, one of
diphones) and by espeak-ng (formants, in many accents and timbres), other languages by espeak-ng alone; both must be
installed. With --neural they are said by hibari (`pip install hibari-tts`, Apache-2.0: a small network taught by the
voice af_heart of Kokoro-82M), a hundred times as fast as they sound. Pitch, speed and, of the neural voice, the length
of the vocal tract are drawn for each sentence. No sentence is taken that shares five words in a row with a text of the
corpus of --apart-from, so that validation on its sentences stays validation.

Sentence k of a seed is always the same. `wavecast train transcription --data.speech '[spoken]'` reads the result:
FLAC of 16 kHz and an index.jsonl.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import soxr
from sentences import LETTER, check_texts, known_runs, runs, sentences, text_arguments, words

RATE = 16_000
SHORTEST, LONGEST = 4, 28
"""Words of a sentence."""
IN_A_FILE = 1_000
SILENCE = 0.05
"""Seconds kept before and behind what is said."""
FLITE = {"kal16": 100, "awb": 130, "rms": 95, "slt": 170}
"""Voices, and their mean pitch in Hz."""
ENGLISH = "en"
ACCENTS = ["en-us", "en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd"]
TIMBRES = ["", *(f"+m{k}" for k in range(1, 9)), *(f"+f{k}" for k in range(1, 6)), "+klatt", "+klatt2", "+klatt4"]


def choose(paths: list[Path], apart_from: Path | None, language: str, rng: np.random.Generator) -> list[str]:
    """Draw an order of all sentences that may be said."""
    known = known_runs(apart_from)
    letters = () if language == ENGLISH else (LETTER,)
    found = dict.fromkeys(one for path in paths for one in sentences(path, *letters))
    kept = [one for one in found if SHORTEST <= len(words(one)) <= LONGEST and not runs(one) & known]
    return [kept[k] for k in rng.permutation(len(kept))]


def command(text: str, language: str, out: Path, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a voice, and give its name and the command that lets it say a text."""
    if language == ENGLISH and rng.random() < 0.5:
        voice = str(rng.choice(list(FLITE)))
        stretch, pitch = rng.uniform(0.8, 1.2), FLITE[voice] * rng.uniform(0.75, 1.35)
        options = ["--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch:.0f}"]
        return f"flite_{voice}", ["flite", "-voice", voice, *options, "-t", text, "-o", str(out)]
    voice = str(rng.choice(ACCENTS if language == ENGLISH else [language])) + str(rng.choice(TIMBRES))
    speed, pitch = rng.integers(130, 210), rng.integers(25, 80)
    return f"espeak_{voice}", ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(out), text]


Speaker = Callable[[str, np.random.Generator], tuple[str, np.ndarray, int]]
"""Says a text: the voice's name, float32 (samples,), and their rate."""


def programs(language: str, folder: Path) -> Speaker:
    """Let flite and espeak-ng say texts, through a file in a folder."""

    def say(text: str, rng: np.random.Generator) -> tuple[str, np.ndarray, int]:
        voice, line = command(text, language, folder / "one.wav", rng)
        subprocess.run(line, check=True, capture_output=True)
        return voice, *soundfile.read(folder / "one.wav", dtype="float32")

    return say


def neural() -> Speaker:
    """Let hibari say texts: a tract of other length by another rate, a pitch by another fundamental."""
    from hibari import Hibari, dsp

    voice = Hibari()

    def say(text: str, rng: np.random.Generator) -> tuple[str, np.ndarray, int]:
        tract, pitch, speed = rng.uniform(0.85, 1.3), rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.25)
        pitch *= tract**-0.75  # the shorter the tract, the higher most people speak; its rate shifts pitch as well
        ids = np.array([[i for phonemes in voice.phonemize(text) for i in voice.ids(phonemes)]])
        spectra = voice.sess.run(None, {"ids": ids, "speed": np.array([speed * tract], np.float32)})
        *envelopes, fundamental = (one[0] for one in spectra)
        return f"hibari_{voice.voice}", dsp.synth(*envelopes, pitch * fundamental, rng), round(dsp.SR / tract)

    return say


def trim(sound: np.ndarray, rate: int) -> np.ndarray:
    """Give float32 (samples,) at 16 kHz with little silence around and a peak of a half, empty if mute."""
    sound = soxr.resample(sound, rate, RATE)
    peak = np.abs(sound).max(initial=0.0)
    loud = np.flatnonzero(np.abs(sound) > 0.01 * peak)
    if not len(loud):
        return loud.astype(np.float32)
    margin = round(SILENCE * RATE)
    return 0.5 * sound[max(0, loud[0] - margin) : loud[-1] + margin] / peak


def check_synthesizers(parser: argparse.ArgumentParser, language: str, neural: bool) -> None:
    """End the program where what would speak is not installed."""
    if neural:
        if find_spec("hibari") is None:
            parser.error("hibari is not installed\nhint: pip install hibari-tts")
        return
    for program in ("flite", "espeak-ng") if language == ENGLISH else ("espeak-ng",):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed\nhint: apt install flite espeak-ng")


def main() -> int:
    """Say sentences until there are enough hours, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder, which must not exist")
    parser.add_argument("--hours", type=float, default=20.0)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--language", default=ENGLISH, help="as espeak-ng names it: en, es, cs, ru ... (en)")
    ways.add_argument("--neural", action="store_true", help="let hibari say them, in English")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists\nhint: choose another --out")
    check_texts(parser, options.texts)
    check_synthesizers(parser, options.language, options.neural)
    chosen = choose(options.texts, options.apart_from, options.language, np.random.default_rng([options.seed, 0]))
    options.out.mkdir(parents=True)
    left = round(options.hours * 3600 * RATE)
    with tempfile.TemporaryDirectory() as folder, (options.out / "index.jsonl").open("w") as index:
        say = neural() if options.neural else programs(options.language, Path(folder))
        for first in range(0, len(chosen), IN_A_FILE):
            file = f"spoken_{first // IN_A_FILE:02}.flac"
            with soundfile.SoundFile(options.out / file, "w", RATE, 1, "PCM_16") as sink:
                at = 0
                for k in range(first, min(first + IN_A_FILE, len(chosen))):
                    rng = np.random.default_rng([options.seed, 1, k])
                    voice, *said = say(chosen[k], rng)
                    sound = trim(*said)
                    if not len(sound):
                        continue
                    sink.write(sound)
                    line = {"file": file, "start": at, "samples": len(sound), "kind": "sent", "voice": voice}
                    index.write(json.dumps({**line, "language": options.language, "text": chosen[k]}) + "\n")
                    at += len(sound)
                    left -= len(sound)
                    if left <= 0:
                        return 0
    print(f"the texts were said before the hours were full: {left / RATE / 3600:.1f} h are missing", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
