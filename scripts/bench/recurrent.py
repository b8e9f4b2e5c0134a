"""Speed of recurrent layers against torch's own and against a plain loop, and beside their floor.

    python scripts/bench/recurrent.py [--device cpu|cuda] [--threads 1]

A row is a layer on a whole sequence, its input projection included: forward, and forward with backward. The peers are
`nn.LSTM` and `nn.GRU`, and where torch has nothing (peepholes, sLSTM) the loop that one writes from torch's calls, its
gradients by autograd. `operator` is the plain LSTM without torch's kernel, which the layer hands large calls to. The
`tokens` rows are the prediction network of a transducer (640 channels) that reads token by token.

The floor: `of_peak` sets the time beside the multiplications over what a large matrix product reaches; `of_copy` beside
the weights, those of the recurrence read once a step, over the measured copy bandwidth.

Correctness comes first: a mismatch with the loop or with torch ends the run. Results: `results/recurrent_DEVICE.json`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from facts import facts
from timing import bandwidth, seconds
from torch import Tensor, nn

from wavecast.apps.transcription.transducer import Prediction
from wavecast.core.ops.recurrent import reference
from wavecast.core.recurrent import GRU, LSTM, RecurrentLayer, from_torch

HERE = Path(__file__).resolve().parent
LAYERS = [("lstm", False), ("lstm", True), ("gru", False), ("slstm", False)]  # kind, peepholes
CPU_SHAPES = [(1, 25, 4096, 512), (32, 100, 256, 256), (1, 25, 64, 64)]  # batch, time, inputs, hidden
GPU_SHAPES = [(1, 500, 256, 64), (64, 500, 256, 64), (32, 100, 256, 256)]
TOKENS, VOCABULARY, WIDTH = 20, 1024, 640
SIDE = 2048
"""Of the matrix product that counts as peak."""


def loop(layer: RecurrentLayer, x: Tensor) -> Tensor:
    """Run a layer as one writes it from torch's calls."""
    step = {"lstm": reference.lstm, "gru": reference.gru, "slstm": reference.slstm}[layer.kind]
    gates, hidden, _ = layer.weight.shape
    entering = layer.enter(x).unflatten(-1, (gates, hidden))
    weight = layer.weight.flatten(0, 1).T
    parts = tuple(x.new_zeros(len(x), hidden) for _ in range(reference.PARTS[layer.kind]))
    ys = []
    for t in range(x.shape[1]):
        product = (parts[0] @ weight).unflatten(1, (gates, hidden))
        product = product if layer.bias is None else product + layer.bias
        parts = step(entering[:, t], product, parts, layer.peepholes)
        ys.append(parts[0])
    return torch.stack(ys, 1)


def operator(layer: RecurrentLayer, x: Tensor) -> Tensor:
    """Run a layer by the operator."""
    layer.suits_torch = no  # type: ignore[method-assign]
    y = layer(x)[0]
    del layer.suits_torch
    return y


def no(x: Tensor) -> bool:
    """Stand for a shape that torch's LSTM does not suit."""
    return False


def first(network: nn.Module, x: Tensor) -> Tensor:
    """Give the output of a network that also gives its state."""
    return network(x)[0]


def versions(
    kind: str, peepholes: bool, inputs: int, hidden: int, like: Tensor
) -> dict[str, tuple[nn.Module, Callable]]:
    """Build a layer and its peers: modules, and how each is called."""
    layer = RecurrentLayer(kind, inputs, hidden, peepholes=peepholes).to(like)
    found: dict[str, tuple[nn.Module, Callable]] = {"wavecast": (layer, first)}
    if kind == "slstm" or peepholes:
        found["loop"] = (layer, loop)
        return found
    theirs = (nn.LSTM if kind == "lstm" else nn.GRU)(inputs, hidden, batch_first=True).to(like)
    ours = (LSTM if kind == "lstm" else GRU)(inputs, hidden).to(like)
    ours.load_state_dict(from_torch(theirs.state_dict()))
    layer.load_state_dict(ours.get_submodule("0").state_dict())
    return found | ({"operator": (layer, operator)} if kind == "lstm" else {}) | {"torch": (theirs, first)}


def gate(kind: str, peepholes: bool, device: str) -> None:
    """End the run when a layer disagrees with the loop in outputs or gradients, or with torch."""
    torch.manual_seed(0)
    x = torch.randn(3, 40, 20, device=device, dtype=torch.float64)
    found = versions(kind, peepholes, 20, 24, x)
    found["loop"] = (found["wavecast"][0], loop)
    results = []
    for network, call in found.values():
        y = call(network, x)
        named = dict(network.named_parameters())
        weight = named["weight_ih_l0" if "weight_ih_l0" in named else "enter.weight"]
        grads = torch.autograd.grad(y.square().sum(), [weight])
        results.append((y, *grads))
    for one in results[1:]:
        if not all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(results[0], one, strict=True)):
            sys.exit(f"{kind} is wrong on {device}, peepholes: {peepholes}; nothing was timed")


def measure(shape: tuple[int, ...], kind: str, peepholes: bool, device: str, copies: float, peak: float) -> dict:
    """Time forward and forward with backward, ours and the peers'."""
    batch, time, inputs, hidden = shape
    x = torch.randn(batch, time, inputs, device=device)
    gates = reference.GATES[kind]
    work = 2 * batch * time * gates * hidden * (inputs + hidden)
    both_work = work + 2 * batch * time * gates * hidden * (inputs + 2 * hidden)  # x itself has no gradient
    read = 4 * gates * hidden * (inputs + time * hidden)
    row: dict[str, object] = {"shape": shape, "kind": kind, "peepholes": peepholes}
    for name, (network, call) in versions(kind, peepholes, inputs, hidden, x).items():
        weights = list(network.parameters())
        with torch.no_grad():
            forward = seconds(partial(call, network, x), device == "cuda")
        both = seconds(partial(gradients, call, network, x, weights), device == "cuda")
        row[name] = {
            "forward_ms": 1000 * forward,
            "forward_of_peak": work / peak / forward,
            "forward_of_copy": read / copies / forward,
            "both_ms": 1000 * both,
            "both_of_peak": both_work / peak / both,
        }
    return row


def gradients(call: Callable, network: nn.Module, x: Tensor, weights: list[Tensor]) -> object:
    """Run forward and backward."""
    return torch.autograd.grad(call(network, x).sum(), weights)


def measure_tokens(device: str, copies: float) -> dict[str, object]:
    """Time the prediction network token by token: its kinds, and torch's LSTM as a module."""
    tokens = torch.randint(VOCABULARY, (TOKENS, 1, 1), device=device)
    row: dict[str, object] = {"tokens": TOKENS, "width": WIDTH}
    for kind in ("lstm", "gru", "slstm"):
        network = Prediction(VOCABULARY, WIDTH, kind=kind).to(device).eval()
        one = seconds(partial(read_tokens, network, tokens), device == "cuda") / TOKENS
        read = 4 * 2 * reference.GATES[kind] * WIDTH * WIDTH  # what enters has weights, too
        row[kind] = {"ms_a_token": 1000 * one, "of_copy": read / copies / one}
    module = nn.LSTM(WIDTH, WIDTH, batch_first=True).to(device).eval()
    x = torch.randn(TOKENS, 1, 1, WIDTH, device=device)
    row["torch"] = {"ms_a_token": 1000 * seconds(partial(read_vectors, module, x), device == "cuda") / TOKENS}
    return row


@torch.inference_mode()
def read_tokens(network: Prediction, tokens: Tensor) -> None:
    """Read tokens one by one."""
    state = None
    for token in tokens:
        _, state = network(token, state, last=False)


@torch.inference_mode()
def read_vectors(module: nn.LSTM, x: Tensor) -> None:
    """Read embedded tokens one by one."""
    state = None
    for one in x:
        _, state = module(one, state)


def main() -> None:
    """Measure everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for kind, peepholes in LAYERS:
        gate(kind, peepholes, args.device)
    copies, side = bandwidth(args.device), torch.randn(SIDE, SIDE, device=args.device)
    peak = 2 * SIDE**3 / seconds(partial(torch.mm, side, side), args.device == "cuda")
    rows = []
    for shape in GPU_SHAPES if args.device == "cuda" else CPU_SHAPES:
        for kind, peepholes in LAYERS:
            rows.append(measure(shape, kind, peepholes, args.device, copies, peak))
            print(json.dumps(rows[-1]), flush=True)
    rows.append(measure_tokens(args.device, copies))
    print(json.dumps(rows[-1]), flush=True)
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    result = {"copy_bytes_per_second": copies, "flops": peak, "threads": args.threads, "rows": rows, **facts(name)}
    path = HERE / "results" / f"recurrent_{args.device}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
