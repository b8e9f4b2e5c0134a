"""Official weights that can be fetched: where they are, pinned by revision and hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavecast.cards import Card

UNVERIFIED = "not verified against the hub"
PINNED = f"{UNVERIFIED}: revision, size and hash are as third parties pinned them"
UNPINNED = f"{UNVERIFIED}: neither size nor hash of the file is known, so what is fetched cannot be checked"


@dataclass(frozen=True)
class Official:
    """A file of official weights.

    Attributes:
        repository: on the Hugging Face hub.
        revision: commit it is pinned to.
        file: in the repository.
        sha256: of the file; empty when nobody pinned it.
        bytes: of the file; 0 when nobody pinned it.
        task: what it is for.
        architecture: of ours that it loads into.
        sample_rate: in hertz.
        license: of the weights.
        elsewhere: where the same file can be had.
        hyperparameters: of the architecture.
        notes: what a user must know.
    """

    repository: str
    revision: str
    file: str
    sha256: str
    bytes: int
    task: str
    architecture: str
    sample_rate: int
    license: str
    elsewhere: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""

    @property
    def trust(self) -> str:
        """Say what is known of the file, and from whom."""
        return PINNED if self.sha256 else UNPINNED

    @property
    def size(self) -> str:
        """Say how large the file is."""
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes else "-"

    def card(self, name: str) -> Card:
        """Make the card of the converted model."""
        return Card(
            name=name,
            architecture=self.architecture,
            task=self.task,
            hyperparameters=self.hyperparameters,
            sample_rate=self.sample_rate,
            license=self.license,
            origin=f"{self.repository} at {self.revision}, {self.file}; {self.trust}",
            notes=self.notes,
        )

    def describe(self, name: str) -> str:
        """Say what it is, as YAML."""
        rows = {
            "name": name,
            "task": self.task,
            "repository": self.repository,
            "revision": self.revision,
            "file": self.file,
            "sha256": self.sha256 or "not known",
            "bytes": self.bytes or "not known",
            "license": self.license,
            "elsewhere": self.elsewhere,
            "verified": self.trust,
            "notes": self.notes,
        }
        return "".join(f"{key}: {value}\n" for key, value in rows.items())


def _fast_conformer(repository: str, licence: str, notes: str) -> Official:
    """Describe a FastConformer of NeMo: everything else is in the archive itself."""
    return Official(
        repository=f"nvidia/{repository}",
        revision="main",
        file=f"{repository}.nemo",
        sha256="",
        bytes=0,
        task="transcribe",
        architecture="fastconformer",
        sample_rate=16_000,
        license=licence,
        notes=notes,
    )


LARGE = "115 million parameters, 17 layers; CTC and transducer"
MEDIUM = "32 million parameters, 16 layers; CTC and transducer; look-ahead 80 ms"
OFFICIAL = {
    "frcrn.se16k": Official(
        repository="alibabasglab/FRCRN_SE_16K",
        revision="3766e6a64b0d8cb58f08d913d617bf129f11ed53",
        file="last_best_checkpoint.pt",
        sha256="b22256adbb91b68cf5a3db8f6657a4fb17066eecd5f069803e59c186c1cf3ebb",
        bytes=161_053_751,
        task="enhance",
        architecture="frcrn",
        sample_rate=16_000,
        license="Apache-2.0",
        elsewhere="ModelScope iic/ClearerVoice-Studio; ModelScope damo/speech_frcrn_ans_cirm_16k is an older training",
        notes="FRCRN of ClearerVoice-Studio. It needs the whole recording: no live sound.",
    ),
    "fastconformer.en_multi": _fast_conformer(
        "stt_en_fastconformer_hybrid_large_streaming_multi",
        "CC-BY-4.0",
        f"English. {LARGE}; look-ahead 0, 80, 480 or 1040 ms, chosen when it starts.",
    ),
    "fastconformer.en_80ms": _fast_conformer(
        "stt_en_fastconformer_hybrid_large_streaming_80ms", "CC-BY-4.0", f"English. {LARGE}; look-ahead 80 ms."
    ),
    "fastconformer.en_480ms": _fast_conformer(
        "stt_en_fastconformer_hybrid_large_streaming_480ms", "CC-BY-4.0", f"English. {LARGE}; look-ahead 480 ms."
    ),
    "fastconformer.en_1040ms": _fast_conformer(
        "stt_en_fastconformer_hybrid_large_streaming_1040ms", "CC-BY-4.0", f"English. {LARGE}; look-ahead 1040 ms."
    ),
    "fastconformer.medium": _fast_conformer(
        "stt_en_fastconformer_hybrid_medium_streaming_80ms", "CC-BY-4.0", f"English. {MEDIUM}."
    ),
    "fastconformer.medium_pc": _fast_conformer(
        "stt_en_fastconformer_hybrid_medium_streaming_80ms_pc",
        "CC-BY-4.0",
        f"English, with punctuation and capitals. {MEDIUM}.",
    ),
    "fastconformer.ka_80ms_pc": _fast_conformer(
        "stt_ka_fastconformer_hybrid_transducer_ctc_large_streaming_80ms_pc",
        "CC-BY-4.0",
        f"Georgian, with punctuation. {LARGE}; look-ahead 80 ms.",
    ),
    "fastconformer.en_nemotron": _fast_conformer(
        "nemotron-speech-streaming-en-0.6b",
        "NVIDIA Open Model License",
        "English. 0.6 billion parameters, 24 layers; transducer only.",
    ),
}
