"""Ctrl-C at a known moment, for tests of training."""

from pytorch_lightning import Callback


class Interrupt(Callback):
    """Interrupt the training before the batch that follows step `at`, once.

    Args:
        at: steps done by then.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.resumed = False

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        """A resumed run is left alone."""
        self.resumed = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Interrupt."""
        if trainer.global_step == self.at and not self.resumed:
            raise KeyboardInterrupt
