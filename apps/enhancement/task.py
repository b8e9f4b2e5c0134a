"""Training the enhancer: loss, optimizer, schedule, metrics, and the card that makes a checkpoint a model.

A checkpoint holds the card's fields under `wavecast_card` and the weights as `state_dict["network.*"]`, plain data
and tensors only, so `wavecast enhance --model x.ckpt` takes it as it is.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

from torch import Tensor, nn

from wavecast.apps.sound import metrics
from wavecast.apps.sound.task import SoundTask
from wavecast.cards import Card
from wavecast.core.errors import WavecastError
from wavecast.optimization import plain

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
LOUD_ENOUGH = -80.0
"""A clean signal below this level in dB counts as silence: it has no SI-SDR."""


class EnhancementTask(SoundTask):
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

    def forward(self, noisy: Tensor) -> Tensor:
        """Enhance whole signals: (batch, samples) to the same shape."""
        clean: Tensor = self.network(noisy)[0]
        return clean

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        loss, parts = self.loss(self.network, batch["noisy"], batch["clean"])
        self.hear(batch["noisy"].numel())
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({f"train_{part}": value for part, value in parts.items()})
        return loss

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
