"""What happens beside the training of the separator: pictures of mixtures and of what was made of them."""

from collections.abc import Mapping

from torch import Tensor

from wavecast.apps.sound.callbacks import SoundPictures


class SpectrogramPictures(SoundPictures):
    """Draw a mixture, the separated speakers and the speakers as they were mixed, of the first validation items."""

    def sounds(self, batch: Mapping[str, Tensor], outputs: Tensor, row: int) -> Mapping[str, Tensor]:
        """Name the mixture, and what came out beside what went in for every speaker."""
        named = {"mixture": batch["mixture"][row]}
        for number in range(outputs.shape[-1]):
            named[f"output {number + 1}"] = outputs[row, :, number]
            named[f"speaker {number + 1}"] = batch["sources"][row, :, number]
        return named
