"""Training the separator: loss, metrics, and the card that makes a checkpoint a model.

A checkpoint holds the card's fields under `wavecast_card` and the weights as `state_dict["network.*"]`, plain data
and tensors only, so `wavecast separate --model x.ckpt` takes it as it is.
"""

from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor

from wavecast.apps.separation.losses import Kind, pit
from wavecast.apps.separation.metrics import separated, unprocessed
from wavecast.apps.sound.task import SoundTask
from wavecast.cards import Card
from wavecast.core.errors import WavecastError
from wavecast.optimization import plain


class SeparationTask(SoundTask):
    """Teach a network to separate speakers.

    Args:
        architecture: a key of `wavecast.cards.ARCHITECTURES`.
        network: its hyper-parameters, plain data; its defaults when None.
        loss: "si_snr" (the published recipe), or "snr", which keeps the speakers' levels; both for the best assignment
            of outputs to speakers.
        threshold: items whose loss in dB is below it are dropped; none by default.
        init_from: begin with the weights of this model: a name, a card, a checkpoint, or an official file.
        sample_rate: in hertz.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        seed: of dropout.
        name: of the model in its card.
        optimization: of `OptimizedTask`.

    Raises:
        WavecastError: the architecture, its hyper-parameters or the model to begin with do not exist or fit.
    """

    means = ("val_loss", "val_si_sdr_gain", "val_si_sdr_gain_real", "val_si_sdr_gain_synthetic", "val_single")
    shown = "val_si_sdr_gain"

    def __init__(
        self,
        architecture: str = "mossformer2",
        network: dict[str, Any] | None = None,
        loss: Kind = "snr",
        threshold: float = -9999.0,
        init_from: str | None = None,
        sample_rate: int = 8_000,
        last_rate: float = 0.02,
        seed: int = 0,
        name: str = "separator",
        **optimization: Any,
    ) -> None:
        super().__init__(last_rate=last_rate, **optimization)
        self.begin(Card(name, architecture, "separate", plain(network or {}), sample_rate), init_from)
        self.loss, self.threshold = loss, threshold
        self.speakers = int(getattr(self.network, "speakers", 0))
        if not self.speakers:
            raise WavecastError(f"{architecture} does not separate speakers", "give --model.architecture mossformer2")

    def meet(self, data: LightningDataModule) -> None:
        """See that network and data agree.

        Raises:
            WavecastError: they are of other numbers of speakers, or sample rates.
        """
        speakers, rate = getattr(data, "speakers", self.speakers), getattr(data, "sample_rate", self.card.sample_rate)
        if speakers != self.speakers:
            hint = f"give --data.speakers {self.speakers}, or --model.network.speakers {speakers}"
            raise WavecastError(f"the network separates {self.speakers} speakers, the data have {speakers}", hint)
        if rate != self.card.sample_rate:
            hint = f"give --data.sample_rate {self.card.sample_rate}, or --model.sample_rate {rate}"
            raise WavecastError(f"the network is for {self.card.sample_rate} Hz, the data have {rate} Hz", hint)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate whole signals: (batch, samples) to (batch, samples, speakers)."""
        speakers: Tensor = self.network(mixture)[0]
        return speakers

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch; dropout is a function of its number."""
        self.chance_of(index)
        mixture, sources = batch["mixture"], batch["sources"]
        loss, _ = pit(self(mixture), sources, mixture, self.loss, self.threshold)
        self.hear(mixture.numel())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Log loss, gain in SI-SDR and the SI-SDR of single speakers; return the outputs in the speakers' order.

        The gain is that over the mixture, mean of the speakers of an item; items with a single one have none.
        """
        mixture, sources = batch["mixture"], batch["sources"]
        estimate = self(mixture).float()
        for row in range(len(mixture)):
            one = slice(row, row + 1)
            loss, _ = pit(estimate[one], sources[one], mixture[one], self.loss)
            self.count("val_loss", loss[None])
        measured, outputs = separated(estimate, sources)
        gain = (measured - unprocessed(mixture, sources)).nanmean(-1)
        talking = measured.isfinite().sum(-1)
        self.count("val_single", measured[talking == 1].nansum(-1))
        self.count("val_si_sdr_gain", gain[talking > 1])
        if "real" in batch:
            self.count("val_si_sdr_gain_real", gain[(talking > 1) & (batch["real"] > 0.5)])
            self.count("val_si_sdr_gain_synthetic", gain[(talking > 1) & (batch["real"] < 0.5)])
        return outputs
