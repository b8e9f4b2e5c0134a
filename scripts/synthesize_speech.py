"""Make a packed corpus of synthetic speech from texts: more words for a transcriber, other speech for a spotter.

    python scripts/synthesize_speech.py TEXTS... --out spoken/ --hours 20 [--apart-from CORPUS/tts] [--language es]

TEXTS are plain or HTML files, such as Debian's packages fortunes and anarchism bring, or dialogues of games
(scripts/sentences.py). Their sentences are said by flite (Black, Lenzo 2001: three voices built of recordings, one of
diphones) and by espeak-ng (formants, in many accents and timbres), other languages by espeak-ng alone; both must be
installed. Pitch and speed are drawn for each sentence. No sentence is taken that shares five words in a row with a text
of the corpus of --apart-from, so that validation on its sentences stays validation.

Sentence k of a seed is always the same. `wavecast train transcription --data.speech '[spoken]'` reads the result:
FLAC of 16 kHz and an index.jsonl.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
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


def say(text: str, language: str, out: Path, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Say a text: the voice's name and float32 (samples,) at 16 kHz, little silence around, empty if mute."""
    voice, line = command(text, language, out, rng)
    subprocess.run(line, check=True, capture_output=True)
    sound, rate = soundfile.read(out, dtype="float32")
    sound = soxr.resample(sound, rate, RATE)
    peak = np.abs(sound).max(initial=0.0)
    loud = np.flatnonzero(np.abs(sound) > 0.01 * peak)
    if not len(loud):
        return voice, loud.astype(np.float32)
    margin = round(SILENCE * RATE)
    sound = sound[max(0, loud[0] - margin) : loud[-1] + margin]
    return voice, 0.5 * sound / peak


def main() -> int:
    """Say sentences until there are enough hours, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder, which must not exist")
    parser.add_argument("--hours", type=float, default=20.0)
    parser.add_argument("--language", default=ENGLISH, help="as espeak-ng names it: en, es, cs, ru ... (en)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists\nhint: choose another --out")
    check_texts(parser, options.texts)
    needed = ("flite", "espeak-ng") if options.language == ENGLISH else ("espeak-ng",)
    for program in [name for name in needed if shutil.which(name) is None]:
        parser.error(f"{program} is not installed\nhint: apt install flite espeak-ng")
    chosen = choose(options.texts, options.apart_from, options.language, np.random.default_rng([options.seed, 0]))
    options.out.mkdir(parents=True)
    left = round(options.hours * 3600 * RATE)
    with tempfile.TemporaryDirectory() as folder, (options.out / "index.jsonl").open("w") as index:
        for first in range(0, len(chosen), IN_A_FILE):
            file = f"spoken_{first // IN_A_FILE:02}.flac"
            with soundfile.SoundFile(options.out / file, "w", RATE, 1, "PCM_16") as sink:
                at = 0
                for k in range(first, min(first + IN_A_FILE, len(chosen))):
                    rng = np.random.default_rng([options.seed, 1, k])
                    voice, sound = say(chosen[k], options.language, Path(folder) / "one.wav", rng)
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
