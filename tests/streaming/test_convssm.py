"""ConvSSM and ConvS5: the law, the recurrence that defines them, and the forms that make them fast."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from kit.streaming import assert_close, check_block, run
from wavecast.apps.forecasting.convs5 import ConvS5, doubled, rollout
from wavecast.core.convssm import NONLINEARITIES, ConvS5Layer, ConvSSM
from wavecast.core.frame_layers import (
    FrameConvolution,
    FrameGroupNorm,
    FrameUpsampling,
    convolve_frames,
    recomputed,
)


def images(x: Tensor) -> Tensor:
    """Channels first, batch and time together."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def frames(x: Tensor, like: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).unflatten(0, like.shape[:2])


def tiny(**arguments) -> ConvS5:
    torch.manual_seed(0)
    shape = {"channels": 2, "depths": (4, 8), "width": 8, "size": 8, "layers": 2, "groups": 2, "bounded": False}
    return ConvS5(**{**shape, **arguments})


@pytest.mark.parametrize("boundary", ["zeros", "longitude"])
def test_the_system_keeps_the_law(boundary):
    torch.manual_seed(0)
    check_block(ConvSSM(3, 8, blocks=2, boundary=boundary), torch.randn(3, 16, 3, 4, 3), examples=5, silence=1000)


@pytest.mark.parametrize("nonlinearity", list(NONLINEARITIES))
def test_layers_keep_the_law(nonlinearity):
    torch.manual_seed(0)
    layer = ConvS5Layer(4, 8, nonlinearity=nonlinearity, groups=2)
    check_block(layer, torch.randn(3, 12, 3, 3, 4), examples=2, silence=500)


@pytest.mark.parametrize(
    "arguments", [{}, {"action_path": False, "boundary": "longitude", "frame_blocks": 2, "depths": (4,)}]
)
def test_the_network_keeps_the_law(arguments):
    check_block(tiny(**arguments), torch.randn(3, 10, 4, 4, 2), examples=2, silence=500)


@pytest.mark.parametrize("boundary", ["zeros", "longitude"])
@pytest.mark.parametrize("discretization", ["accurate", "published"])
@torch.no_grad()
def test_the_system_is_its_recurrence(boundary, discretization):
    """x_t = A x + B * u, y = 2 Re(C * x) with complex convolutions, step by step."""
    torch.manual_seed(1)
    system = ConvSSM(3, 8, boundary=boundary, discretization=discretization).double()
    u = torch.randn(2, 9, 4, 5, 3, dtype=torch.float64)

    def correlate(x: Tensor, kernel: Tensor) -> Tensor:
        if boundary == "zeros":
            return functional.conv2d(x, kernel, padding=1)
        around = torch.cat([x[..., -1:], x, x[..., :1]], -1)
        return functional.conv2d(around, kernel, padding=(1, 0))

    eigenvalues = torch.complex(system.eigenvalues_real, system.eigenvalues_imag)
    decay = torch.exp(eigenvalues * system.log_step.exp())
    b = torch.complex(system.input_kernel[:, 0], system.input_kernel[:, 1])
    b = ((decay - 1) / eigenvalues)[:, None, None, None] * b
    c = torch.complex(system.output_kernel[:, :, 0], system.output_kernel[:, :, 1])
    x = torch.zeros(2, 4, 4, 5, dtype=torch.complex128)
    y = []
    for t in range(9):
        x = decay[:, None, None] * x + correlate(u[:, t].permute(0, 3, 1, 2).to(b.dtype), b)
        y.append(2 * correlate(x, c).real.permute(0, 2, 3, 1))
    found, state = system(u, last=False)
    assert_close(found, torch.stack(y, 1), 1e-11)
    assert_close(torch.view_as_complex(state.parts), x.permute(0, 2, 3, 1), 1e-11)


def group_norm(x: Tensor, norm: FrameGroupNorm) -> Tensor:
    return functional.group_norm(x, norm.groups, norm.weight, norm.bias, 1e-6)


def conv(x: Tensor, convolution: FrameConvolution) -> Tensor:
    return functional.conv2d(x, convolution.weight, convolution.bias, padding=1)


def act(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


@torch.no_grad()
def test_nonlinearities_are_their_formulas():
    torch.manual_seed(2)
    y, u = torch.randn(2, 1, 3, 4, 5, 8, dtype=torch.float64)
    made = {name: kind(8, 3, 4, "zeros").double() for name, kind in NONLINEARITIES.items()}
    for module in made.values():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    f = made["resnet"]
    x = images(y)
    h = conv(act(group_norm(conv(act(group_norm(x, f.norm1)), f.convolution1), f.norm2)), f.convolution2)
    assert_close(f(y, u), frames(act(x + h), y), 1e-12)
    f = made["diag_resnet"]
    h = act(group_norm(conv(act(group_norm(x, f.norm1)), f.convolution), f.norm2))
    assert_close(f(y, u), frames(act(x + h), y), 1e-12)
    f = made["standard"]
    assert_close(f(y, u), frames(act(group_norm(x + conv(images(u), f.convolution), f.norm)), y), 1e-12)
    f = made["half_glu"]
    centered = y - y.mean(-1, keepdim=True)
    z = act(centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * f.norm.weight + f.norm.bias)
    assert_close(f(y, u), z * torch.sigmoid(z @ f.gate.weight.T + f.gate.bias), 1e-12)


@torch.no_grad()
def test_a_layer_normalizes_after_its_residual():
    torch.manual_seed(3)
    layer = ConvS5Layer(8, 8, groups=4).double()
    u = torch.randn(1, 4, 3, 3, 8, dtype=torch.float64)
    inner = layer.nonlinearity(layer.system(u)[0], u)
    assert_close(layer(u)[0], functional.layer_norm(u + inner, (8,), layer.norm.weight, layer.norm.bias, 1e-6), 1e-12)


def test_clipped_eigenvalues_never_grow():
    for clip, bound in ((True, 1.0), (False, 1.1)):
        system = ConvSSM(2, 4, clip=clip)
        with torch.no_grad():
            system.eigenvalues_real.fill_(0.5)
            decay = system.discretized()[0].abs()
        assert (decay < bound).all()
        assert (decay > 1).all() != clip


@pytest.mark.parametrize("boundary", ["zeros", "longitude"])
def test_upsampling_is_the_convolution_of_doubled_frames(boundary):
    torch.manual_seed(4)
    layer = FrameUpsampling(3, 5, boundary).double()
    x = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(layer.bias)
    expected = convolve_frames(doubled(x), layer.weight, layer.bias, boundary)
    assert_close(layer(x), expected, 1e-12)
    weights = torch.randn_like(expected)
    inputs = [x, layer.weight, layer.bias]
    for found, right in zip(
        torch.autograd.grad(layer(x), inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        assert_close(found, right, 1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (8, 4), (6, 1)])
def test_the_gradient_of_group_normalization(channels, groups):
    torch.manual_seed(5)
    norm = FrameGroupNorm(channels, groups).double()
    torch.nn.init.normal_(norm.weight)
    x = (3 + torch.randn(2, 2, 3, 4, channels, dtype=torch.float64)).requires_grad_()
    expected = frames(group_norm(images(x), norm), x)
    assert_close(norm(x), expected, 1e-12)
    weights = torch.randn_like(expected)
    inputs = [x, norm.weight, norm.bias]
    for found, right in zip(
        torch.autograd.grad(norm(x), inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        assert_close(found, right, 1e-10)


class Count(TorchDispatchMode):
    """Counts the convolutions that run."""

    convolutions = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.convolutions += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_computing_again_does_not_repeat_convolutions():
    torch.manual_seed(6)
    norm, convolution = FrameGroupNorm(4, 2), FrameConvolution(4, 4)
    x = torch.randn(1, 2, 4, 4, 4, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return convolution(torch.tanh(norm(x)))

    inputs = [x, *norm.parameters(), *convolution.parameters()]
    with Count() as count:
        found = torch.autograd.grad(recomputed(function, x).square().sum(), inputs)
    assert count.convolutions == 1
    for a, b in zip(found, torch.autograd.grad(function(x).square().sum(), inputs), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_field_may_be_turned_around_the_globe():
    """Rolling columns by multiples of what a latent pixel spans rolls the forecast; with zeros outside it does not."""
    x = torch.randn(1, 5, 8, 12, 2)
    for boundary, alike in (("longitude", True), ("zeros", False)):
        network = tiny(boundary=boundary).eval()
        turned = network(x.roll(4, 3))[0].roll(-4, 3)
        assert ((turned - network(x)[0]).abs().max() < 1e-4) == alike


@torch.no_grad()
def test_kernels_wider_than_the_globe_go_round_it():
    x = torch.randn(1, 1, 1, 2, 1)
    y = convolve_frames(x, torch.ones(1, 1, 7, 7), boundary="longitude")
    a, b = x.flatten().tolist()
    assert y.flatten().tolist() == pytest.approx([3 * a + 4 * b, 4 * a + 3 * b], abs=1e-5)


def test_checkpointing_gives_the_same_gradients():
    x = torch.randn(2, 20, 4, 4, 2)
    networks = [tiny(checkpointing=checkpointing) for checkpointing in (False, True)]
    losses = [run(network, x, [0, 2])[0].square().mean() for network in networks]
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss, net in zip(losses, networks, strict=True)]
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected, 1e-5)


def test_every_parameter_learns():
    for nonlinearity in NONLINEARITIES:
        network = tiny(nonlinearity=nonlinearity)
        network(torch.randn(2, 5, 8, 8, 2))[0].square().mean().backward()
        assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@torch.no_grad()
def test_a_rollout_is_the_single_pass_over_its_own_frames():
    network = tiny().double().eval()
    x = torch.randn(2, 7, 8, 8, 2, dtype=torch.float64)
    forecasts = rollout(network, x, 6)
    whole, _ = network(torch.cat([x, forecasts[:, :-1]], 1))
    assert_close(forecasts, whole[:, 6:], 1e-12)


@torch.no_grad()
def test_a_rollout_needs_a_frame_and_a_step():
    for count, steps in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="hint: a rollout takes at least one"):
            rollout(tiny(), torch.zeros(1, count, 8, 8, 2), steps)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"boundary": "mirror"}, "one of zeros, longitude"),
        ({"discretization": "euler"}, "one of accurate, published"),
        ({"nonlinearity": "relu"}, "one of resnet, diag_resnet, standard, half_glu"),
        ({"kernel": 2}, "take an odd number"),
        ({"groups": 3}, "groups must divide"),
        ({"size": 7}, "even size"),
        ({"size": 8, "state_blocks": 3}, "blocks must divide"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, hint):
    with pytest.raises(ValueError, match=f"hint: .*{hint}"):
        tiny(**arguments)


def test_frames_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"7 rows and 8 columns\nhint: .* multiples of 2"):
        tiny()(torch.zeros(1, 1, 7, 8, 2))
