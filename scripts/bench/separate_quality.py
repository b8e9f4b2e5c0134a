"""How well a separator separates voices that it was never trained on, and what it costs.

    python scripts/bench/separate_quality.py --corpus ../shared/corpus [--model mossformer2.ss2_small]

Three sets of mixtures of held-out voices: dry and without noise, overlapping fully; as training has them, a quarter of
them with noise or in a room; and single speakers, who should come out as they are. Results go to
results/separate_quality.json.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts

from wavecast.apps.separation.evaluation import score, summary
from wavecast.apps.separation.inference import Options, Separator
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.conversations import SpeakerChances
from wavecast.datamodules.separation import SeparationData

RESULTS = Path(__file__).parent / "results" / "separate_quality.json"
DRY = replace(SpeakerChances(), clean=1.0, reverberant=0.0, equalized=0.0, band_limited=0.0, clipped=0.0, gap=0.0)
SETS: dict[str, dict[str, Any]] = {
    "dry": {"chances": replace(DRY, single=0.0, companded=0.0), "overlap": (1.0, 1.0), "difference": (0.0, 5.0)},
    "varied": {"chances": replace(SpeakerChances(), single=0.0)},
    "single": {"chances": replace(DRY, single=1.0, companded=0.0)},
}
UNKNOWN = {"speaker": ["fillets_cs_", "fillets_cs_unknown"]}  # nobody knows whose voices these are


def mixtures(corpus: Path, separator: Separator, items: int, cache: str | None, **settings: Any) -> SeparationData:
    """Set up mixtures of the corpus' held-out voices at the model's rate."""
    data = SeparationData(
        speech=[str(corpus / "speech"), str(corpus / "tts")],
        noise=[str(corpus / "noise")],
        speakers=separator.speakers,
        sample_rate=separator.sample_rate,
        validation_items=items,
        exclude=UNKNOWN,
        cache=cache,
        **settings,
    )
    data.setup("validate")
    return data


def cost(separator: Separator, data: SeparationData, items: int = 10) -> float:
    """Measure processor seconds for a second of sound."""
    if data.validation_source is None:
        raise ValueError("there are no mixtures\nhint: data.setup('validate')")
    sounds = [data.validation_source.item(k)["mixture"] for k in range(items)]
    separator(sounds[0])
    begun = time.process_time()
    with flushed_denormals():
        for sound in sounds:
            separator(sound, options=Options(speakers=separator.speakers))
    return (time.process_time() - begun) * separator.sample_rate / float(np.sum([len(sound) for sound in sounds]))


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--items", type=int, default=120)
    parser.add_argument("--cache", help="folder of decoded clips")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    separator = Separator.load(args.model, "cpu")
    found: dict[str, Any] = {}
    for name, settings in SETS.items():
        data = mixtures(args.corpus, separator, args.items, args.cache, **settings)
        found[name] = summary(list(score(data, separator, ["si_sdr"])), ["si_sdr"])
        print(name, json.dumps(found[name]), flush=True)
    result = {
        "model": separator.card.name,
        "sha256": separator.card.weights.get("sha256"),
        "seconds": data.validation_seconds,
        "sets": found,
        "cpu_seconds_per_second": round(cost(separator, data), 4),
    }
    args.output.write_text(json.dumps({**facts(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
