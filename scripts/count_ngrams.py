"""Count the n-grams of texts into a language model for the beam of `wavecast transcribe --language-model`.

    python scripts/count_ngrams.py TEXTS... --model fastconformer.en_small --out english.ngrams.safetensors
        [--apart-from CORPUS/tts] [--order N] [--threshold T]

TEXTS are plain or HTML files, or dialogues of games (scripts/sentences.py); of them all clauses without digits count,
each once. The n-grams are of the tokens of --model, whose tokenizer alone can use them. No clause is taken that shares
five words in a row with a text of the corpus of --apart-from, so that word error rates on it stay honest.
"""

import argparse
import sys
from pathlib import Path

from sentences import check_texts, clauses, known_runs, runs, text_arguments

from wavecast.apps.transcription.language_model import ORDER, THRESHOLD, NGrams
from wavecast.apps.transcription.ngrams import count, prune
from wavecast.apps.transcription.tokenizer import load_tokenizer
from wavecast.cards import find_model


def main() -> int:
    """Count, prune and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text_arguments(parser)
    parser.add_argument("--model", required=True, help="name or path of the transcriber")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.ngrams.safetensors")
    parser.add_argument("--order", type=int, default=ORDER, help=f"tokens of the longest n-grams ({ORDER})")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"of n-grams' worth ({THRESHOLD:g})")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists\nhint: choose another --out")
    check_texts(parser, options.texts)
    tokenizer, known = load_tokenizer(find_model(options.model, "transcribe")), known_runs(options.apart_from)
    found = dict.fromkeys(clause for path in options.texts for clause in clauses(path))
    lines = [clause for clause in found if not runs(clause) & known]
    levels = count([tokenizer.encode(line) for line in lines], len(tokenizer), options.order)
    ngrams = NGrams.of(prune(levels, options.threshold), tokenizer.model)
    ngrams.save(options.out)
    words = sum(len(line.split()) for line in lines)
    print(f"{len(ngrams):,} of {sum(map(len, levels)):,} n-grams of {words:,} words", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
