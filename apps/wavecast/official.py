"""Official weights that can be fetched: where they are, pinned by revision and hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavecast.cards import Card

UNVERIFIED = "not verified against the hub"
PINNED = f"{UNVERIFIED}: what is known of revision, size and hash is as third parties pinned it"
UNPINNED = f"{UNVERIFIED}: neither size nor hash of the file is known, so what is fetched cannot be checked"


@dataclass(frozen=True)
class Official:
    """A file of official weights, or a few that belong together.

    Attributes:
        repository: on the hub.
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
        beside: further files, without which the one is not whole.
        otherwise: the file that holds everything in repositories which have the others not.
        hub: "huggingface" or "modelscope".
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
    beside: tuple[str, ...] = ()
    otherwise: str = ""
    hub: str = "huggingface"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that belong together."""
        return (self.file, *self.beside)

    @property
    def folder(self) -> str:
        """Where its files lie in the cache of downloads."""
        return f"{self.repository.replace('/', '--')}/{self.revision}"

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
            origin=f"{self.repository} at {self.revision}, {', '.join(self.files)}; {self.trust}",
            notes=self.notes,
        )

    def describe(self, name: str) -> str:
        """Say what it is, as YAML."""
        rows = {
            "name": name,
            "task": self.task,
            "repository": self.repository,
            "revision": self.revision,
            "file": ", ".join(self.files),
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


def _separator(repository: str, licence: str, hyperparameters: Mapping[str, Any], notes: str) -> Official:
    """Describe a separator of the standalone MossFormer2, which is kept in three files."""
    return Official(
        repository=f"alibabasglab/{repository}",
        revision="main",
        file=PARTS[0],
        sha256="",
        bytes=0,
        task="separate",
        architecture="mossformer2",
        sample_rate=8_000,
        license=licence,
        hyperparameters=hyperparameters,
        notes=f"MossFormer2, 24 layers. {notes} It needs the whole recording: no live sound.",
        beside=PARTS[1:],
        otherwise="pytorch_model.bin",
    )


PARTS = ("encoder.ckpt", "masknet.ckpt", "decoder.ckpt")
"""Files in which SpeechBrain keeps a separator."""
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
    "mossformer2.se48k": Official(
        repository="alibabasglab/MossFormer2_SE_48K",
        revision="eff8c97925c8bec812af707814b3e5d777fd4503",
        file="last_best_checkpoint.pt",
        sha256="03692b9f773bbd6bb43b9c5a41f96b1e28affd66e13796b7bec66ad3d8b227c6",
        bytes=0,
        task="enhance",
        architecture="mossformer2_48k",
        sample_rate=48_000,
        license="Apache-2.0",
        elsewhere="ModelScope iic/ClearerVoice-Studio",
        hyperparameters={"dither": 1.0, "seed": 0},
        notes="MossFormer2 of ClearerVoice-Studio for the full band. It needs the whole recording: no live sound. It "
        "was trained with a little noise (dither 1) before the features, and hears it here too, equal on every run.",
    ),
    "mossformer2.ss2_16k": Official(
        repository="alibabasglab/MossFormer2_SS_16K",
        revision="407cb030cd66340918ebb6c8cc63b18f8592cdbe",
        file="last_best_checkpoint.pt",
        sha256="00a3a48bda492db1e829b85dd443f8f43a43039a3e90f1a24962ea9caf14a11a",
        bytes=670_353_271,
        task="separate",
        architecture="mossformer2",
        sample_rate=16_000,
        license="Apache-2.0",
        elsewhere="ModelScope iic/ClearerVoice-Studio",
        hyperparameters={"speakers": 2},
        notes="MossFormer2 of ClearerVoice-Studio, two speakers. It needs the whole recording: no live sound. Two "
        "thirds of the file are the state of its optimizer, which is not kept.",
    ),
    "mossformer2.librimix2": _separator(
        "mossformer2-librimix-2spk", "of its authors", {"speakers": 2}, "Trained on Libri2Mix: two speakers."
    ),
    "mossformer2.wsj0mix3": _separator(
        "mossformer2-wsj0mix-3spk", "of its authors", {"speakers": 3}, "Trained on WSJ0-3mix: three speakers."
    ),
    "mossformer2.whamr2": _separator(
        "mossformer2-whamr-2spk",
        "MIT",
        {"speakers": 2, "masking": False},
        "Trained on WHAMR!: two speakers in noise and rooms. It maps to the sources directly, without masks.",
    ),
    "mossformer2.wsj0mix2": Official(
        repository="damo/speech_mossformer2_separation_temporal_8k",
        revision="master",
        file="pytorch_model.pt",
        sha256="",
        bytes=0,
        task="separate",
        architecture="mossformer2",
        sample_rate=8_000,
        license="of its authors",
        hyperparameters={"speakers": 2},
        notes="MossFormer2, 24 layers. Trained on WSJ0-2mix: two speakers. It needs the whole recording.",
        hub="modelscope",
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
