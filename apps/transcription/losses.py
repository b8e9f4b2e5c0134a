"""Losses of the transcriber: CTC (Graves et al. 2006), the transducer's (Graves 2012), and FastEmit (Yu et al. 2021).

Both sum over all alignments of a text with the frames. The transducer's needs logits for every pair of frame and
token, which is by far the most memory of training; it is computed for a few items at a time, gradients included, so
that only those of one part exist at once.
"""

from typing import Any, Literal

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

Mean = Literal["items", "tokens"]
BLANK_OF_TWO = 1
"""The blank's place beside the next token."""


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, mean: Mean = "items") -> Tensor:
    """Compute the CTC loss of a padded batch; the blank is the last class.

    Args:
        logits: (batch, frame, vocabulary + 1).
        lengths: valid frames (batch,).
        targets: token ids (batch, token).
        target_lengths: valid tokens (batch,).
        mean: "items": the mean of the items' sums, as published. "tokens": the sum over the batch by its tokens, so
            that long items count more, and every token the same.

    Returns:
        A scalar. Items whose text cannot be said in their frames count as 0.
    """
    scores = functional.log_softmax(logits.float(), -1).transpose(0, 1)
    blank = logits.shape[-1] - 1
    losses = functional.ctc_loss(scores, targets, lengths, target_lengths, blank, reduction="none", zero_infinity=True)
    return averaged(losses, target_lengths, mean)


def averaged(losses: Tensor, target_lengths: Tensor, mean: Mean) -> Tensor:
    """Average the losses of items: over items, or over their tokens."""
    return losses.mean() if mean == "items" else losses.sum() / target_lengths.sum().clamp(min=1)


def transducer_loss(
    joint: nn.Module,
    heard: Tensor,
    spoken: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    mean: Mean = "items",
    fast_emit: float = 0.0,
    most_logits: int = 1 << 24,
) -> Tensor:
    """Compute the transducer's loss of a padded batch, a few items at a time.

    Args:
        joint: `combine(f, g)` gives logits (..., vocabulary + 1), the blank last; `output` is its last layer.
        heard: projected frames (batch, frame, hidden).
        spoken: projected predictions (batch, token + 1, hidden), the start symbol's first.
        lengths: valid frames (batch,).
        targets: token ids (batch, token).
        target_lengths: valid tokens (batch,).
        mean: see `ctc_loss`.
        fast_emit: lambda of FastEmit: gradients of emitting a token count 1 + lambda times, those of waiting once. The
            value of the loss is unchanged.
        most_logits: how many logits exist at once, unless one item needs more.

    Returns:
        A scalar.
    """
    output = joint.get_submodule("output").parameters()
    loss: Tensor = _InParts.apply(
        joint, lengths, targets, target_lengths, fast_emit, most_logits, mean, heard, spoken, *output
    )
    return loss


class _InParts(torch.autograd.Function):
    """The loss and its gradients, computed together part by part; backward hands the gradients out."""

    @staticmethod
    def forward(
        ctx: Any,
        joint: nn.Module,
        lengths: Tensor,
        targets: Tensor,
        target_lengths: Tensor,
        fast_emit: float,
        most_logits: int,
        mean: Mean,
        heard: Tensor,
        spoken: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        wanted = [tensor.requires_grad for tensor in (heard, spoken, *parameters)]
        sources = [tensor for tensor, want in zip((heard, spoken, *parameters), wanted, strict=True) if want]
        sums = [torch.zeros_like(tensor) for tensor in sources]
        total = heard.new_zeros(())
        share = 1 / len(heard) if mean == "items" else 1 / max(1, int(target_lengths.sum()))
        classes = int(parameters[-1].shape[0])
        for rows in parts(lengths, target_lengths, classes, most_logits):
            frames, tokens = int(lengths[rows].max()), int(target_lengths[rows].max())
            with torch.set_grad_enabled(bool(sources)):
                f, g = heard.detach()[rows, :frames], spoken.detach()[rows, : tokens + 1]
                f.requires_grad_(wanted[0])
                g.requires_grad_(wanted[1])
                logits = joint.combine(f[:, :, None], g[:, None])
                part = (
                    share
                    * item_losses(logits, lengths[rows], targets[rows, :tokens], target_lengths[rows], fast_emit).sum()
                )
                inputs = [one for one, want in zip((f, g, *parameters), wanted, strict=True) if want]
                gradients = torch.autograd.grad(part, inputs) if inputs else ()
            total += part.detach()
            for place, gradient in enumerate(gradients):
                if inputs[place] is f:
                    sums[place][rows, :frames] += gradient
                elif inputs[place] is g:
                    sums[place][rows, : tokens + 1] += gradient
                else:
                    sums[place] += gradient
        ctx.wanted = wanted
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return (None,) * 7 + tuple(outer[0] * next(gradients) if want else None for want in ctx.wanted)


def item_losses(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, fast_emit: float = 0.0
) -> Tensor:
    """Compute the transducer's loss of every item, (batch,), from all logits (batch, frame, token + 1, class).

    At each point of the lattice only two classes matter: the text's next token and the blank. torchaudio's loss is
    given the log probabilities of these two, which on a processor costs a fraction of all classes.
    """
    logits = logits.float()
    wanted = functional.pad(targets, (0, 1))[:, None, :, None].expand(*logits.shape[:3], 1)
    two = torch.cat([logits.gather(-1, wanted), logits[..., -1:]], -1) - logits.logsumexp(-1, keepdim=True)
    if fast_emit and two.requires_grad:
        two.register_hook(_EmitSooner(fast_emit))
    losses: Tensor = torchaudio.functional.rnnt_loss(
        two,
        torch.zeros_like(targets, dtype=torch.int32),
        lengths.int(),
        target_lengths.int(),
        BLANK_OF_TWO,
        reduction="none",
        fused_log_softmax=False,
    )
    return losses


class _EmitSooner:
    """FastEmit's change of the gradients with respect to log probabilities (equation 9 there)."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * gradient.new_tensor([1 + self.factor, 1.0])


def parts(lengths: Tensor, target_lengths: Tensor, classes: int, most_logits: int) -> list[slice]:
    """Cut a batch into runs of items whose padded logits are at most `most_logits`, or single items."""
    cuts, first = [0], 0
    frames, tokens = lengths.tolist(), target_lengths.tolist()
    for row in range(1, len(frames)):
        size = (row + 1 - first) * max(frames[first : row + 1]) * (max(tokens[first : row + 1]) + 1) * classes
        if size > most_logits:
            cuts.append(row)
            first = row
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(frames)], strict=True)]
