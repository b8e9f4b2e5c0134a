"""Prediction network and joint: the LSTM's formulas, the start symbol, the law, and the transducer's lattice."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kit.streaming import check_block
from wavecast.apps.transcription.decoding import GreedyTransducer
from wavecast.apps.transcription.fastconformer import FastConformer
from wavecast.apps.transcription.transducer import Joint, Prediction, Read
from wavecast.core.block import Frames
from wavecast.core.groups import Chain
from wavecast.core.state import gather, leaves, stack

VOCABULARY, WIDTH = 11, 6


class Ids(nn.Module):
    """Floating numbers as token ids: the kit of the law moves in floats."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 0].long() % (VOCABULARY + 1)


def network(layers: int = 1, kind: str = "lstm") -> Prediction:
    torch.manual_seed(layers)
    prediction = Prediction(VOCABULARY, WIDTH, layers, kind=kind).eval()
    for name, parameter in prediction.named_parameters():
        if not name.startswith("embedding"):
            nn.init.normal_(parameter, std=0.5)
    return prediction


@pytest.mark.parametrize(("layers", "kind"), [(1, "lstm"), (2, "lstm"), (2, "gru"), (1, "slstm")])
def test_the_prediction_network_keeps_the_law(layers, kind):
    tokens = torch.randint(VOCABULARY + 1, (3, 30, 1)).float()
    check_block(Chain(ids=Frames(Ids()), prediction=network(layers, kind)), tokens)


@pytest.mark.parametrize("kind", ["gru", "slstm"])
def test_other_recurrent_networks_read_tokens_in_greedy_decoding(kind):
    prediction, joint = network(2, kind), Joint(WIDTH, WIDTH, 8, VOCABULARY).eval()
    decoder, frames = GreedyTransducer(prediction, joint), torch.randn(2, 6, WIDTH)
    whole, _ = decoder.step(frames, None)
    first, state = decoder.step(frames[:, :3], None)
    second, _ = decoder.step(frames[:, 3:], state)
    assert [a.ids + b.ids for a, b in zip(first, second, strict=True)] == [tokens.ids for tokens in whole]
    assert any(tokens.ids for tokens in whole)
    with torch.no_grad():  # the definition: what was read decides the next symbol
        ids, t, said = [], 0, 0
        while t < 6:
            read, _ = prediction(prediction.with_start(torch.tensor([ids], dtype=torch.long)))
            best = int(joint(frames[:1, t : t + 1], read[:, -1:]).argmax())
            if best == VOCABULARY or said == 10:
                t, said = t + 1, 0
            else:
                ids, said = [*ids, best], said + 1
    assert ids == whole[0].ids


def test_a_network_with_another_kind_of_prediction_keeps_its_names():
    options = {"width": 16, "layers": 1, "heads": 2, "subsampling_channels": 4, "prediction_width": 8, "joint_width": 8}
    keys = list(FastConformer(VOCABULARY, **options, prediction_kind="gru").state_dict())
    assert "prediction.layers.0.weight" in keys
    assert "prediction.lstm.weight_hh_l0" in FastConformer(VOCABULARY, **options).state_dict()
    with pytest.raises(ValueError, match="kind 'elman'"):
        FastConformer(VOCABULARY, **options, prediction_kind="elman")


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_is_its_formulas(layers):
    prediction = network(layers).double()
    tokens = torch.randint(VOCABULARY, (2, 9))
    expected = functional.embedding(tokens, prediction.embedding.weight)
    for layer in range(layers):
        weights = [getattr(prediction.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")]
        biases = [getattr(prediction.lstm, f"{name}_l{layer}") for name in ("bias_ih", "bias_hh")]
        hidden = cell = torch.zeros(2, WIDTH, dtype=torch.float64)
        ys = []
        for x in expected.unbind(1):
            gates = x @ weights[0].T + hidden @ weights[1].T + biases[0] + biases[1]
            enter, forget, new, leave = gates.split(WIDTH, -1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            ys.append(hidden)
        expected = torch.stack(ys, 1)
    y, after = prediction(tokens, last=False)
    assert torch.allclose(y, expected, atol=1e-12)
    assert after.hidden.shape == after.cell.shape == (2, layers, WIDTH)
    assert torch.allclose(after.hidden[:, -1], expected[:, -1], atol=1e-12)


def test_the_start_symbol_is_the_zero_vector_and_stays_it():
    prediction = network()
    assert prediction.embedding.weight[VOCABULARY].eq(0).all()
    tokens = torch.tensor([[3, 1], [0, 10]])
    begun = prediction.with_start(tokens)
    assert begun.tolist() == [[VOCABULARY, 3, 1], [VOCABULARY, 0, 10]]
    prediction(begun)[0].square().sum().backward()
    gradient = prediction.embedding.weight.grad
    assert gradient[VOCABULARY].eq(0).all()
    assert gradient[[3, 1, 0, 10]].abs().sum(1).gt(0).all()


def test_the_forget_gates_begin_open():
    prediction = Prediction(VOCABULARY, WIDTH, layers=2)
    for layer in range(2):
        inputs, hidden = (getattr(prediction.lstm, f"bias_{name}_l{layer}") for name in ("ih", "hh"))
        assert inputs[WIDTH : 2 * WIDTH].eq(1).all()
        assert hidden[WIDTH : 2 * WIDTH].eq(0).all()
        assert not inputs[:WIDTH].eq(1).any()


def test_rows_of_different_ages_are_batched():
    prediction = network(2).double()
    tokens = torch.randint(VOCABULARY, (2, 20))
    whole, _ = prediction(tokens)
    _, young = prediction(tokens[:1, :2], last=False)
    _, old = prediction(tokens[1:, :11], last=False)
    y, after = prediction(torch.stack([tokens[0, 2:7], tokens[1, 11:16]]), stack([young, old]), last=False)
    assert torch.allclose(y, torch.stack([whole[0, 2:7], whole[1, 11:16]]), atol=1e-12)
    y, _ = prediction(tokens[1:, 16:], gather(after, [1]))
    assert torch.allclose(y, whole[1:, 16:], atol=1e-12)
    assert isinstance(after, Read)
    assert all(leaf.shape[0] == 2 for leaf in leaves(after))


def test_the_joint_pairs_every_frame_with_every_prediction():
    torch.manual_seed(0)
    joint = Joint(5, WIDTH, 7, VOCABULARY).double().eval()
    frames, predictions = torch.randn(2, 4, 5).double(), torch.randn(2, 3, WIDTH).double()
    lattice = joint(frames, predictions)
    assert lattice.shape == (2, 4, 3, VOCABULARY + 1)
    for t in range(4):
        for u in range(3):
            heard = frames[1, t] @ joint.encoder.weight.T + joint.encoder.bias
            read = predictions[1, u] @ joint.prediction.weight.T + joint.prediction.bias
            logits = (heard + read).clamp_min(0) @ joint.output.weight.T + joint.output.bias
            assert torch.allclose(lattice[1, t, u], logits, atol=1e-12)


def test_the_size_is_the_published_one():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(Prediction(1024, 640)) == 3_937_920
    assert count(Joint(512, 640, 640, 1024)) == 1_395_585
