"""Official weights that can be fetched: where they are, pinned by revision and hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavecast.cards import Card

UNVERIFIED = "not verified against the hub"
PINNED = f"{UNVERIFIED}: revision, size and hash are as third parties pinned them"


@dataclass(frozen=True)
class Official:
    """A file of official weights.

    Attributes:
        repository: on the Hugging Face hub.
        revision: commit it is pinned to.
        file: in the repository.
        sha256: of the file.
        bytes: of the file.
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

    def card(self, name: str) -> Card:
        """Make the card of the converted model."""
        return Card(
            name=name,
            architecture=self.architecture,
            task=self.task,
            hyperparameters=self.hyperparameters,
            sample_rate=self.sample_rate,
            license=self.license,
            origin=f"{self.repository} at {self.revision}, {self.file}; {PINNED}",
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
            "sha256": self.sha256,
            "bytes": self.bytes,
            "license": self.license,
            "elsewhere": self.elsewhere,
            "verified": PINNED,
            "notes": self.notes,
        }
        return "".join(f"{key}: {value}\n" for key, value in rows.items())


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
}
