"""Word error rates of a transcriber on voices that it was never trained on, and what it costs, beside pocketsphinx.

    python scripts/bench/transcribe_quality.py --corpus ../shared/corpus [--model fastconformer.en_small]
        [--pocketsphinx ENVIRONMENT/bin/python]

The recipe's held-out voices: synthetic ones on sentences that no other voice says, and the hero of the acted dialogues.
Every look-ahead and head of the model in fp32, greedy and guided by its language model, and its default look-ahead in
int8. pocketsphinx 5.1 (its US English model, live, with its own language model) hears the same recordings in an
environment of its own, with this very script: `pip install pocketsphinx==5.1.1 soundfile`. Texts are compared in lower
case without punctuation; costs are processor seconds for a second of sound, on one thread. Results:
results/transcribe_quality.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
RECIPE = "transcription_fastconformer_small"
PEER = "--as-pocketsphinx"


def as_pocketsphinx(folder: Path) -> None:
    """Transcribe the recordings sounds.npz of a folder, and write texts and cost; runs where wavecast is not."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    sounds = np.load(folder / "sounds.npz")
    texts, seconds, took = {}, 0.0, 0.0
    for name in sounds:
        sound = sounds[name]
        began = time.process_time()
        decoder.start_utt()
        for start in range(0, len(sound), RATE // 10):
            decoder.process_raw(sound[start : start + RATE // 10].tobytes())
        decoder.end_utt()
        took += time.process_time() - began
        seconds += len(sound) / RATE
        found = decoder.hyp()
        texts[name] = found.hypstr if found else ""
    (folder / "texts.json").write_text(json.dumps({"texts": texts, "cost": took / seconds}))


def score_pocketsphinx(python: str, sets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Score pocketsphinx on the same sets."""
    from wavecast.apps.transcription.error_rates import total, word_errors
    from wavecast.datamodules.manifests import normalize

    rows = []
    for name, clips in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            sounds = {str(k): (32767 * clips.clip(k)).astype(np.int16) for k in range(len(clips))}
            np.savez(Path(folder) / "sounds.npz", **sounds)
            subprocess.run([python, __file__, PEER, folder], check=True)
            found = json.loads((Path(folder) / "texts.json").read_text())
        errors = [
            word_errors(about["text"], normalize(found["texts"][str(k)], "spoken"))
            for k, about in enumerate(clips.attributes)
        ]
        rows.append(
            {"set": name, "wer": round(total(errors).rate, 4), "cpu_seconds_per_second": round(found["cost"], 4)}
        )
    return rows


def held_out(corpus: Path, items: int, cache: str | None) -> dict[str, Any]:
    """Open the utterances that the recipe holds out, by kind."""
    from wavecast.datamodules.transcription import TranscriptionData
    from wavecast.training import read_recipe

    settings = read_recipe(RECIPE)["data"]
    settings |= {"speech": [str(corpus / "tts"), str(corpus / "speech")], "noise": [], "validation_items": items}
    data = TranscriptionData(**settings, skip_bad=True, cache=cache)
    data.setup("validate")
    sets = {name: batches.utterances.clips for name, batches in data.validation_sets.items()}
    return {name: clips.where(exclude={"kind": ["word"]}) for name, clips in sets.items()}


def score_ours(model: str | None, sets: Mapping[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Score every head and look-ahead, greedy and guided, and int8 at the default look-ahead."""
    from wavecast.apps.transcription.evaluation import Score, heads, look_aheads, score_set
    from wavecast.apps.transcription.inference import Transcriber

    rows = []
    for precision in ("float32", "int8"):
        transcriber = Transcriber.load(model, "cpu", precision)
        choices = look_aheads(transcriber, []) if precision == "float32" else [transcriber.look_ahead]
        ways = {"greedy": {"beam": 1}, "guided": {}} if transcriber.card.language_model else {"greedy": {}}
        for head, (way, options), look_ahead in product(heads(transcriber, []), ways.items(), choices):
            transcriber.choose_look_ahead(look_ahead)
            for name, clips in sets.items():
                score, began = Score(name, head, look_ahead, 0.0), time.process_time()
                list(score_set(score, clips, transcriber, **options))
                took = time.process_time() - began
                row = {**score.row(), "precision": precision, "decoding": way}
                wanted = ("set", "head", "decoding", "precision", "look_ahead_ms", "wer", "cer", "words", "utterances")
                rows.append({key: row[key] for key in wanted} | {"cpu_seconds_per_second": took / score.seconds})
                print(json.dumps(rows[-1]), flush=True)
    return transcriber.card, rows


def main() -> None:
    """Measure and write the results."""
    from facts import facts

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--items", type=int, default=300, help="utterances of each set")
    parser.add_argument("--pocketsphinx", metavar="PYTHON", help="of the environment where it is installed")
    parser.add_argument("--cache", help="folder of decoded clips")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "transcribe_quality.json")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    sets = held_out(args.corpus, args.items, args.cache)
    card, rows = score_ours(args.model, sets)
    result: dict[str, Any] = {"model": card.name, "sha256": card.weights.get("sha256"), "rows": rows}
    if args.pocketsphinx:
        result["pocketsphinx"] = score_pocketsphinx(args.pocketsphinx, sets)
    args.output.write_text(json.dumps({**facts(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [PEER]:
        as_pocketsphinx(Path(sys.argv[2]))
    else:
        main()
