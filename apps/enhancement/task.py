"""Training the enhancer: loss, optimizer, schedule, metrics, and the card that makes a checkpoint a model.

A checkpoint holds the card's fields under `wavecast_card` and the weights as `state_dict["network.*"]`, plain data
and tensors only, so `wavecast enhance --model x.ckpt` takes it as it is.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from wavecast.apps.enhancement import metrics
from wavecast.cards import Card, load_pickle, load_strict
from wavecast.core.errors import WavecastError
from wavecast.core.stream import latency
from wavecast.optimization import OptimizedTask, plain

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
LOUD_ENOUGH = -80.0
"""A clean signal below this level in dB counts as silence: it has no SI-SDR."""


class EnhancementTask(OptimizedTask):
    """Teach a network to enhance speech.

    Args:
        architecture: a key of `wavecast.cards.ARCHITECTURES`.
        network: its hyper-parameters, plain data; its defaults when None.
        loss: "spectral" (compressed spectra at several resolutions), "published" (FRCRN's recipe: mask and SI-SNR,
            for architectures with a mask of the spectrum) or "si_snr".
        init_from: begin with the weights of this model: a name, a card, a checkpoint, or an official FRCRN file.
        sample_rate: in hertz.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        perceptual: PESQ and STOI of that many validation items, where the packages are installed.
        name: of the model in its card.
        optimization: of `OptimizedTask`.

    Raises:
        WavecastError: the architecture, its hyper-parameters or the model to begin with do not exist or fit.
    """

    means = ("val_loss", "val_si_sdr", "val_si_sdr_gain", "val_silence_level", "val_pesq", "val_stoi")
    shown = "val_si_sdr"

    def __init__(
        self,
        architecture: str = "frcrn_stream",
        network: dict[str, Any] | None = None,
        loss: Literal["spectral", "published", "si_snr"] = "spectral",
        init_from: str | None = None,
        sample_rate: int = 16_000,
        last_rate: float = 0.02,
        perceptual: int = 0,
        name: str = "enhancer",
        **optimization: Any,
    ) -> None:
        super().__init__(last_rate=last_rate, **optimization)
        self.begin(Card(name, architecture, "enhance", plain(network or {}), sample_rate), init_from)
        self.loss = choose_loss(loss, architecture)
        self.perceptual = perceptual
        self.heard_seconds = 0.0
        self._latency: int | None = None

    def forward(self, noisy: Tensor) -> Tensor:
        """Enhance whole signals: (batch, samples) to the same shape."""
        clean: Tensor = self.network(noisy)[0]
        return clean

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        loss, parts = self.loss(self.network, batch["noisy"], batch["clean"])
        self.heard_seconds += batch["noisy"].numel() * self.trainer.world_size / self.card.sample_rate
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({f"train_{part}": value for part, value in parts.items()})
        return loss

    def on_train_epoch_end(self) -> None:
        """Log how many hours of sound were heard."""
        self.log("heard_hours", self.heard_seconds / 3600)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Log loss, SI-SDR and its gain, the level where silence is wanted, PESQ and STOI; return the estimate."""
        noisy, clean = batch["noisy"], batch["clean"]
        loss, _ = self.loss(self.network, noisy, clean)
        estimate = self(noisy)
        self.count("val_loss", loss.expand(len(noisy)))
        spoken = metrics.level(clean) > LOUD_ENOUGH
        ratio = metrics.si_sdr(estimate[spoken].float(), clean[spoken])
        self.count("val_si_sdr", ratio)
        self.count("val_si_sdr_gain", ratio - metrics.si_sdr(noisy[spoken], clean[spoken]))
        self.count("val_silence_level", metrics.level(estimate[~spoken].float()))
        first = index * len(noisy)
        for row in range(min(len(noisy), self.perceptual - first)):
            if spoken[row]:
                pair = estimate[row].float().cpu().numpy(), clean[row].cpu().numpy()
                self.count("val_pesq", clean.new_tensor([metrics.pesq(*pair, self.card.sample_rate)]))
                self.count("val_stoi", clean.new_tensor([metrics.stoi(*pair, self.card.sample_rate)]))
        return estimate

    def warm_start(self, source: str) -> None:
        """Load the weights of another model, or an official FRCRN file (.pt, .bin): all of them.

        Raises:
            WavecastError: there is no such model, or it does not fit.
        """
        path = Path(source)
        if self.card.architecture == "frcrn" and path.suffix in (".pt", ".bin") and path.exists():
            from wavecast.apps.enhancement.frcrn_official import convert_state, unwrap

            load_strict(self.network, convert_state(unwrap(load_pickle(path))), source)
        else:
            super().warm_start(source)

    def card_fields(self) -> dict[str, Any]:
        """Give sample rate, block and latency, and how much was heard."""
        period = self.network.period if self.network.lookahead != inf else 0
        if period and self._latency is None:
            self._latency = latency(self.network, period)
        return {
            "sample_rate": self.card.sample_rate,
            "block": int(period),
            "latency_ms": 1000 * self._latency / self.card.sample_rate if self._latency else None,
            "training": {"steps": self.global_step, "hours_heard": round(self.heard_seconds / 3600, 3)},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card's fields, and how much was heard."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["heard_seconds"] = self.heard_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the hours heard."""
        self.heard_seconds = checkpoint.get("heard_seconds", 0.0)


def choose_loss(name: str, architecture: str) -> Loss:
    """Find a loss by its name.

    Raises:
        WavecastError: the architecture does not have what the loss compares.
    """
    if name == "published":
        if architecture != "frcrn":
            hint = "use --model.loss spectral, or --model.architecture frcrn"
            raise WavecastError(f"the published loss compares masks, and {architecture} has no mask of that kind", hint)
        from wavecast.apps.enhancement.published_loss import published_loss

        return cast(Loss, published_loss)
    return negative_si_snr if name == "si_snr" else spectral_loss


def negative_si_snr(network: nn.Module, noisy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute minus the mean SI-SNR in dB."""
    from wavecast.apps.enhancement.published_loss import si_snr

    return -si_snr(network(noisy)[0], clean).mean(), {}


def spectral_loss(network: nn.Module, noisy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the streaming model's loss of compressed spectra."""
    from wavecast.apps.enhancement.losses import compressed_spectral_loss

    return compressed_spectral_loss(network(noisy)[0], clean, noisy), {}
