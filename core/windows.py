"""Whole-signal networks on signals of any length: one pass up to a length, beyond it windows in bounded memory.

Such a network hears all it is given, so a window's result depends on where the window lies. Windows are therefore
long, begin on the network's grid in the whole signal, overlap, and cross-fade well inside both; the last one is moved
back to be as long as the others, so that no end is made from a short remainder. No tail is lost, no output is short.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.stream import flushed_denormals


@dataclass(frozen=True)
class Plan:
    """How a whole-signal network is used on signals of any length; all in samples at its rate.

    Attributes:
        window: the longest signal that takes one pass, and the length of a window.
        context: samples at a window's inner ends that are only heard, not used.
        fade: samples over which one window passes into the next.
        grid: windows begin at multiples of it.
        lead: zeros before and after every pass.
        padding: counts the zeros that go after a signal of n samples in one pass; none if None.
    """

    window: int
    context: int
    fade: int
    grid: int = 1
    lead: int = 0
    padding: Callable[[int], int] | None = None

    @property
    def overlap(self) -> int:
        """Samples that a window shares with the one before."""
        return 2 * self.context + self.fade

    def lasting(self, seconds: float, sample_rate: int) -> "Plan":
        """Give the plan with windows of another length, or this one for 0 seconds.

        Raises:
            ValueError: windows would be too short for their overlap.
        """
        if not seconds:
            return self
        window = int(seconds * sample_rate) // self.grid * self.grid
        if window < 2 * self.overlap:
            least = 2 * self.overlap / sample_rate
            raise ValueError(f"windows of {seconds} s are too short\nhint: at least {least} s")
        return replace(self, window=window)


class Windows:
    """A signal on its way through a whole-signal network; used like `core.stream.Stream`, with a long delay.

    Args:
        network: a block from (batch, samples) to (batch, samples, ...) that needs the whole signal, in eval mode.
        plan: lengths of windows and of what they share.
        gain: (batch,) applied before the network and taken back after it; none if None.
        whole: one pass whatever the length, in memory that grows with it.

    Raises:
        ValueError: the network is in training mode, or windows are too short for their overlap.
    """

    def __init__(self, network: Block, plan: Plan, gain: Tensor | None = None, *, whole: bool = False) -> None:
        if network.training:
            raise ValueError("the network is in training mode\nhint: network.eval()")
        self.window = plan.window // plan.grid * plan.grid
        if self.window < 2 * plan.overlap:
            raise ValueError(f"windows of {plan.window} samples are too short\nhint: at least {2 * plan.overlap}")
        self.network, self.plan, self.gain, self.whole = network, plan, gain, whole
        self._restart()

    def _restart(self) -> None:
        self.kept = torch.zeros(0)  # input (batch, samples) from sample `first` on
        self.first = self.total = 0
        self.end = 0  # where the last finished window ends
        self.ending = torch.zeros(0)  # its output (batch, overlap, ...) up to there, of which all but the context waits

    @torch.inference_mode()
    def push(self, x: Tensor) -> list[Tensor]:
        """Take any number of samples (batch, samples); give the finished pieces, often none."""
        self.kept = torch.cat([self.kept, x], 1) if self.total else x.clone()
        self.total += x.shape[1]
        pieces = []
        while not self.whole and self.total > self.window:
            start = self.end - self.plan.overlap if self.end else 0
            if self.total < start + self.window:
                break
            pieces.append(self._window(start, start + self.window, last=False))
        return pieces

    @torch.inference_mode()
    def flush(self) -> list[Tensor]:
        """End the signal and give its last pieces; afterwards the next one can begin."""
        pieces = []
        if not self.end and self.total:
            padding = self.plan.padding(self.total) if self.plan.padding else 0
            pieces.append(self.align(self.kept, self._run(self.kept, padding), None, 0))
        elif self.total > self.end:
            # As long as the others, on their grid.
            grid = self.plan.grid
            pieces.append(self._window(-(-(self.total - self.window) // grid) * grid, self.total, last=True))
        elif self.end:
            pieces.append(self.ending[:, self.plan.context :].clone())
        self._restart()
        return pieces

    def align(self, heard: Tensor, made: Tensor, before: Tensor | None, start: int) -> Tensor:
        """Bring what a window made into line with the window before it; here it is in line already.

        Args:
            heard: (batch, samples), the window's input.
            made: (batch, samples, ...), what the network made of it.
            before: (batch, overlap, ...), the end of the window before in its final form, which is the same time as
                `made` has from sample `self.end - overlap - start` on; None for the first window.
            start: where in the signal the window begins.

        Returns:
            The window's output in its final form, as long as `made`; its trailing axes may differ.
        """
        return made

    def _window(self, start: int, end: int, last: bool) -> Tensor:
        """Work on [start, end); give the output from the fade with the window before to the next fade, or the end."""
        context, fade, overlap = self.plan.context, self.plan.fade, self.plan.overlap
        heard = self.kept[:, start - self.first : end - self.first]
        y = self.align(heard, self._run(heard), self.ending if self.end else None, start)
        before, self.end = self.end, end
        stop = y.shape[1] if last else y.shape[1] - context - fade
        if before:
            at = before - context - fade - start
            ramp = torch.linspace(0, 1, fade, device=y.device).reshape(fade, *[1] * (y.ndim - 2))
            head = torch.lerp(self.ending[:, context : context + fade], y[:, at : at + fade], ramp)
            piece = torch.cat([head, y[:, at + fade : stop]], 1)
        else:
            piece = y[:, :stop].clone()
        self.ending = y[:, y.shape[1] - overlap :].clone()
        # The last window may begin anywhere after this one's beginning.
        self.kept, self.first = self.kept[:, start - self.first :].clone(), start
        return piece

    def _run(self, x: Tensor, zeros: int = 0) -> Tensor:
        """Run the network once, with zeros after the signal."""
        gain = None if self.gain is None else self.gain.to(x)[:, None]
        lead = self.plan.lead
        scaled = functional.pad(x if gain is None else x * gain, (lead, lead + zeros))
        with flushed_denormals():
            y, _ = self.network(scaled)
        y = y[:, lead : lead + x.shape[1]]
        return y.clone() if gain is None else y / (gain.reshape(-1, *[1] * (y.ndim - 1)) + 1e-6)
