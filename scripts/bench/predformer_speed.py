"""Speed of PredFormer on a CPU against a plain version of the same network.

    python scripts/bench/predformer_speed.py [--threads 1] [--repeats 5]
    python scripts/bench/predformer_speed.py --case moving_mnist|weather [--kind forward|training]

The plain version is written as the paper describes it: einops, softmax(QK^T)V, two linear maps into the gated unit,
LayerNorm modules, a copy of all tokens between attention along time and along patches. Both hold the same weights.
Correctness comes first: outputs, or gradients of any weight, that differ by more than 1e-4 of the largest value end
the run. Forward is without gradients, training is forward and backward of a mean squared error, without dropout.

Times are processor seconds, the least of some repeats in which the two take turns. Every figure has a process of its
own, so that none inherits another's heap: how often large temporaries go back to the system, and come again page by
page, is a part of the difference, most of it where nothing was ever trained. Matrix products, which are the same in
both, are most of the time: that bounds what can be gained. Results: `results/predformer_speed.json`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from einops import rearrange
from facts import facts
from torch import Tensor, nn
from torch.nn import functional

from wavecast.apps.forecasting.predformer import DEEP, PredFormer

HERE = Path(__file__).resolve().parent
CASES = {
    "moving_mnist": (1, {"variant": "quad_tsst", "time": 10, "rows": 64, "cols": 64, "patch": 8, "depth": 6}),
    "weather": (
        4,
        {"variant": "fac_ts", "time": 12, "rows": 32, "cols": 64, "patch": 4, "depth": 4, "scale_dim": 2},
    ),
}
"""Batch, and the published configuration: Quad-TSST for Moving MNIST, Fac-T-S for WeatherBench T2m."""
HEADS, DIM = 8, 256
KINDS = ("forward", "training")


class PlainAttention(nn.Module):
    """Self-attention: (batch, token, dim) to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Compute softmax(QK^T)V."""
        parts = functional.linear(self.norm(x), self.qkv.weight).chunk(3, -1)
        q, k, v = (rearrange(part, "batch token (head dim) -> batch head token dim", head=HEADS) for part in parts)
        weights = (q @ k.transpose(-1, -2) * (DIM // HEADS) ** -0.5).softmax(-1)
        y = rearrange(weights @ v, "batch head token dim -> batch token (head dim)")
        return functional.linear(y, self.out.weight, self.out.bias)


class PlainUnit(nn.Module):
    """SwiGLU: (batch, token, dim) to the same shape."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.gate, self.value, self.out = nn.Linear(DIM, hidden), nn.Linear(DIM, hidden), nn.Linear(hidden, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Gate a linear map by another."""
        x = self.norm(x)
        return self.out(functional.silu(self.gate(x)) * self.value(x))


class PlainTransformer(nn.Module):
    """Layers, then a layer norm: (batch, token, dim) to the same shape."""

    def __init__(self, depth: int, hidden: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(PlainAttention() for _ in range(depth))
        self.units = nn.ModuleList(PlainUnit(hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Add an attention and a unit for every layer."""
        for attention, unit in zip(self.attentions, self.units, strict=True):
            x = x + attention(x)
            x = x + unit(x)
        return self.norm(x)


class PlainPredFormer(nn.Module):
    """The network for variants of T and S: (batch, time, row, col, 1) to the same shape; filled from one of ours."""

    def __init__(self, network: PredFormer, variant: str, depth: int, patch: int, scale_dim: int = 4) -> None:
        super().__init__()
        self.patch, self.sequence = patch, network.sequence * (1 if variant in DEEP else depth)
        self.embedding, self.head = nn.Linear(patch * patch, DIM), nn.Linear(DIM, patch * patch)
        self.norm = nn.LayerNorm(DIM)
        layers = depth if variant in DEEP else 1
        self.stages = nn.ModuleList(PlainTransformer(layers, scale_dim * DIM) for _ in self.sequence)
        self.register_buffer("positions", network.positions.clone(), persistent=False)
        pairs = [(self.embedding, network.embedding.linear), (self.norm, network.head.norm)]
        pairs += [(self.head, network.head.linear)]
        for stage, other in zip(self.stages, network.stages, strict=True):
            pairs.append((stage.norm, other.norm))
            for attention, unit, layer in zip(stage.attentions, stage.units, other.layers, strict=True):
                pairs += [(attention.norm, layer.attention.norm), (attention.qkv, layer.attention.qkv)]
                pairs += [(attention.out, layer.attention.out), (unit.norm, layer.unit.norm)]
                pairs += [(unit.out, layer.unit.out)]
                for part, rows in (
                    (unit.gate, slice(unit.gate.out_features)),
                    (unit.value, slice(-unit.value.out_features, None)),
                ):
                    part.load_state_dict({name: tensor[rows] for name, tensor in layer.unit.into.state_dict().items()})
        for part, other in pairs:
            part.load_state_dict(other.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Embed, attend along time and patches in turn, and put frames together."""
        batch, rows = len(x), x.shape[2]
        cut = "batch time (row p) (col q) channel -> batch time (row col) (p q channel)"
        x = self.embedding(rearrange(x, cut, p=self.patch, q=self.patch)) + self.positions
        for axis, stage in zip(self.sequence, self.stages, strict=True):
            if axis == "T":
                x = stage(rearrange(x, "batch time patch dim -> (batch patch) time dim"))
                x = rearrange(x, "(batch patch) time dim -> batch time patch dim", batch=batch)
            else:
                x = stage(rearrange(x, "batch time patch dim -> (batch time) patch dim"))
                x = rearrange(x, "(batch time) patch dim -> batch time patch dim", batch=batch)
        join = "batch time (row col) (channel p q) -> batch time (row p) (col q) channel"
        return rearrange(self.head(self.norm(x)), join, row=rows // self.patch, p=self.patch, q=self.patch)


def train(call: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> None:
    """Compute the gradients of a mean squared error."""
    network.zero_grad()
    (call(x) - x).square().mean().backward()


def gate(ours: PredFormer, plain: PlainPredFormer, x: Tensor, kind: str) -> None:
    """End the run when outputs, or for training gradients, differ."""
    with torch.no_grad():
        pairs = {"output": (ours(x)[0], plain(x))}
    if kind == "training":
        pairs |= gradients(ours, plain, x)
    for name, (found, expected) in pairs.items():
        error = ((found - expected).abs().max() / expected.abs().max()).item()
        if not error < 1e-4:
            sys.exit(f"the network is wrong: {name} differs by {error:.2g}: nothing was timed")


def gradients(ours: PredFormer, plain: PlainPredFormer, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute the gradients of a training pass of both, in pairs."""
    train(lambda x: ours(x)[0], ours, x)
    train(plain, plain, x)
    pairs = {}
    pairs["embedding"] = (ours.embedding.linear.weight.grad, plain.embedding.weight.grad)
    pairs["head"] = (ours.head.linear.weight.grad, plain.head.weight.grad)
    for i, (stage, other) in enumerate(zip(ours.stages, plain.stages, strict=True)):
        for layer, attention, unit in zip(stage.layers, other.attentions, other.units, strict=True):
            joined = torch.cat([unit.gate.weight.grad, unit.value.weight.grad])
            pairs[f"{i} qkv"] = (layer.attention.qkv.weight.grad, attention.qkv.weight.grad)
            pairs[f"{i} into"] = (layer.unit.into.weight.grad, joined)
            pairs[f"{i} out"] = (layer.unit.out.bias.grad, unit.out.bias.grad)
            pairs[f"{i} norm"] = (layer.attention.norm.weight.grad, attention.norm.weight.grad)
    return pairs


def measure(case: str, kind: str, threads: int, repeats: int) -> dict[str, float]:
    """Time forward or training of both, in turns."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batch, options = CASES[case]
    ours = PredFormer(**options)
    shape = {name: options[name] for name in ("variant", "depth", "patch", "scale_dim") if name in options}
    plain = PlainPredFormer(ours, **shape)
    x = torch.randn(batch, options["time"], options["rows"], options["cols"], 1)
    gate(ours, plain, x, kind)

    def work(call: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        if kind == "training":
            train(call, network, x)
        else:
            with torch.no_grad():
                call(x)

    times: dict[str, list[float]] = {"wavecast": [], "plain": []}
    for _ in range(repeats + 1):
        for whose, call, network in (("wavecast", lambda x: ours(x)[0], ours), ("plain", plain, plain)):
            begun = time.process_time()
            work(call, network)
            times[whose].append(time.process_time() - begun)
    best = {whose: min(seconds[1:]) for whose, seconds in times.items()}
    return {**{f"{whose}_s": s for whose, s in best.items()}, "times_faster": best["plain"] / best["wavecast"]}


def main() -> None:
    """Measure the cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=CASES, help="this one alone; nothing is written")
    parser.add_argument("--kind", choices=KINDS, help="this one alone; nothing is written")
    args = parser.parse_args()
    rows = []
    for case in [args.case] if args.case else CASES:
        rows.append({"case": case, "batch": CASES[case][0], **CASES[case][1]})
        for kind in [args.kind] if args.kind else KINDS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                rows[-1][kind] = alone.submit(measure, case, kind, args.threads, args.repeats).result()
        print(json.dumps(rows[-1]))
    if not (args.case or args.kind):
        path = HERE / "results" / "predformer_speed.json"
        path.write_text(json.dumps({"threads": args.threads, "rows": rows, **facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
