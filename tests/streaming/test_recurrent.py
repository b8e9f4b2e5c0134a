"""Recurrent layers under the law, and torch's weights in them."""

import pytest
import torch
from torch import nn

from kit.streaming import check_block
from wavecast.core.recurrent import GRU, LSTM, RecurrentLayer, ScalarLSTM, from_torch

INPUTS, HIDDEN = 5, 6


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter values of its own, biases and peepholes too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return network


@pytest.mark.parametrize(
    "network",
    [
        LSTM(INPUTS, HIDDEN),
        LSTM(INPUTS, HIDDEN, layers=2, peepholes=True, heads=2),
        GRU(INPUTS, HIDDEN, layers=2),
        GRU(INPUTS, HIDDEN, heads=3),
        ScalarLSTM(INPUTS, HIDDEN, layers=2, heads=2),
        ScalarLSTM(INPUTS, HIDDEN),
    ],
    ids=["lstm", "lstm with peepholes", "gru", "gru with heads", "slstm with heads", "slstm"],
)
def test_recurrent_layers_keep_the_law(network):
    x = torch.randn(3, 40, INPUTS, generator=torch.Generator().manual_seed(1))
    check_block(filled(network), x)


def torch_and_ours(kind, layers=1):
    """Give torch's network with random weights, and ours with the same."""
    torch.manual_seed(layers)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](INPUTS, HIDDEN, layers, batch_first=True).double()
    ours = {"lstm": LSTM, "gru": GRU}[kind](INPUTS, HIDDEN, layers).double()
    ours.load_state_dict(from_torch(filled(theirs).state_dict()))
    return theirs, ours


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 3])
def test_torchs_weights_give_torchs_numbers(kind, layers):
    theirs, ours = torch_and_ours(kind, layers)
    x = torch.randn(3, 21, INPUTS, dtype=torch.float64)
    expected, last = theirs(x)
    y, state = ours(x, last=False)
    assert torch.allclose(y, expected, atol=1e-13)
    last = last if kind == "lstm" else (last,)
    for part, theirs_part in enumerate(last):
        found = torch.stack([memory.parts[:, part] for memory in state])
        assert torch.allclose(found, theirs_part, atol=1e-13)
    begun, state = ours(x[:, :8], last=False)
    assert torch.allclose(torch.cat([begun, ours(x[:, 8:], state)[0]], 1), expected, atol=1e-13)


def test_the_gates_are_in_torchs_order():
    """A bias that shuts one gate shows which it is."""
    x = torch.zeros(1, 1, INPUTS)
    for gate, shut in enumerate([True, False, True, True]):  # without input, cell or output gate nothing comes out
        layer = RecurrentLayer("lstm", INPUTS, HIDDEN)
        with torch.no_grad():
            layer.enter.bias.copy_(torch.ones(4 * HIDDEN))
            layer.enter.bias[gate * HIDDEN : (gate + 1) * HIDDEN] = 0 if gate == 2 else -1e4
        assert bool(layer(x)[0].eq(0).all()) == shut
    layer = RecurrentLayer("gru", INPUTS, HIDDEN)
    with torch.no_grad():
        layer.enter.bias[:] = 1
        layer.enter.bias[HIDDEN : 2 * HIDDEN] = 1e4  # the update gate keeps what was, which was nothing
    assert layer(x)[0].eq(0).all()


def test_weights_of_another_network_are_refused():
    for theirs in (nn.LSTM(3, 4, bidirectional=True), nn.LSTM(3, 4, proj_size=2), nn.LSTM(3, 4, bias=False)):
        with pytest.raises(ValueError, match="hint: of a unidirectional"):
            from_torch(theirs.state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_torchs_own_lstm_gives_what_the_operator_gives(training, monkeypatch):
    layer = filled(RecurrentLayer("lstm", INPUTS, HIDDEN)).train(training)
    x = torch.randn(4, 30, INPUTS, generator=torch.Generator().manual_seed(2))
    assert layer.suits_torch(x)
    assert not layer.suits_torch(x.double())
    assert not layer.suits_torch(x[:, :0])
    assert not RecurrentLayer("lstm", INPUTS, HIDDEN, peepholes=True).suits_torch(x)
    assert not RecurrentLayer("lstm", INPUTS, HIDDEN, heads=2).suits_torch(x)
    assert not RecurrentLayer("lstm", 4096, 512).suits_torch(torch.zeros(1, 25, 4096))
    results = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        begun, state = layer(leaf[:, :13], last=False)
        y = torch.cat([begun, layer(leaf[:, 13:], state)[0]], 1)
        results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()])])
        monkeypatch.setattr(RecurrentLayer, "step_by_torch", None)
        monkeypatch.setattr(RecurrentLayer, "suits_torch", lambda self, x: False)
    for mine, its in zip(*results, strict=True):
        assert (mine - its).abs().max() <= 1e-5 * its.abs().max()


def test_padding_comes_out_as_zero():
    layer = filled(RecurrentLayer("slstm", INPUTS, HIDDEN))
    y, _ = layer(torch.randn(2, 7, INPUTS), lengths=torch.tensor([3, 0]))
    assert y[0, :3].ne(0).all()
    assert y[0, 3:].eq(0).all()
    assert y[1].eq(0).all()


def test_heads_do_not_see_each_other():
    layer = filled(RecurrentLayer("lstm", INPUTS, HIDDEN, heads=2)).double()
    x = torch.randn(1, 9, INPUTS, dtype=torch.float64)
    whole, _ = layer(x)
    with torch.no_grad():
        layer.enter.weight.view(4, HIDDEN, INPUTS)[:, : HIDDEN // 2] += 1
    changed, _ = layer(x)
    assert torch.equal(changed[..., HIDDEN // 2 :], whole[..., HIDDEN // 2 :])
    assert changed[..., : HIDDEN // 2].ne(whole[..., : HIDDEN // 2]).any()


def test_new_layers_begin_with_open_forget_gates_and_orthogonal_weights():
    layer = RecurrentLayer("slstm", INPUTS, HIDDEN, heads=2)
    assert layer.enter.bias.view(4, HIDDEN).sum(1).tolist() == [0, HIDDEN, 0, 0]
    block = layer.weight[2, : HIDDEN // 2]
    assert torch.allclose(block @ block.T, torch.eye(HIDDEN // 2), atol=1e-5)


def test_layers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"4 heads of 6 channels\nhint:"):
        LSTM(INPUTS, HIDDEN, heads=4)
    with pytest.raises(ValueError, match=r"kind 'elman'\nhint: one of lstm, gru, slstm"):
        RecurrentLayer("elman", INPUTS, HIDDEN)
