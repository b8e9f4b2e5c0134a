"""FastConformer under the law, at every look-ahead; its sizes, heads, streams and recordings."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kit.streaming import assert_close, check_block, check_padding, check_whole_only
from wavecast.apps.transcription.fastconformer import FRAME, FastConformer
from wavecast.core.recorded import Recorded
from wavecast.core.state import leaves
from wavecast.core.stream import Stream

CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]


def small(**changes: object) -> FastConformer:
    torch.manual_seed(0)
    values = {"layers": 2, "heads": 2, "subsampling_channels": 4, "mels": 10, "contexts": CONTEXTS, **changes}
    return FastConformer(12, 8, **values).eval()


def speechlike(rows: int, samples: int) -> Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(rows, samples) * (1 + torch.sin(torch.arange(samples) / 2000))


def test_the_large_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = FastConformer(1024, prediction_width=640)
    count = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in network.named_children()}
    assert count == {
        "features": 0,
        "encoder": 108_893_184,
        "ctc": 525_825,
        "prediction": 3_937_920,
        "joint": 1_395_585,
    }


@torch.no_grad()
@pytest.mark.parametrize(("left", "right"), CONTEXTS)
def test_live_is_the_file_to_the_last_frame(left, right):
    network = small().double()
    network.choose_context(left, right)
    assert network.lookahead == 199 + FRAME * right
    assert network.period == FRAME * (right + 1)
    x = speechlike(1, 46 * FRAME + 700).double()
    whole, _ = network(x)
    assert whole.shape == (1, network.out_length(x.shape[1]), 8)
    generator = torch.Generator().manual_seed(right)
    state, pieces, at = None, [], 0
    while at < x.shape[1]:
        size = int(torch.randint(0, 9000, (), generator=generator))
        y, state = network(x[:, at : at + size], state, last=at + size >= x.shape[1])
        pieces.append(y)
        at += size
    assert_close(torch.cat(pieces, 1), whole, 1e-12)


def test_the_network_keeps_the_law():
    check_block(small(contexts=[[4, 1]]), speechlike(3, 12 * FRAME + 333), examples=3)


def test_centred_convolutions_and_batch_norm_keep_the_law():
    network = small(contexts=[[4, 1]], causal_subsampling=False, causal_convolution=False, norm="batch", layers=1)
    x = speechlike(1, 20 * FRAME + 99).double()
    network = network.double()
    with torch.no_grad():
        whole, _ = network(x)
        cuts = [0, 5000, 5001, 17_000, x.shape[1]]
        state, pieces = None, []
        for a, b in pairwise(cuts):
            y, state = network(x[:, a:b], state, last=b == x.shape[1])
            pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, 1e-12)


def test_features_of_the_whole_utterance_do_not_stream():
    network = small(normalize="per_feature")
    x = speechlike(3, 5 * FRAME)
    check_whole_only(network, x)
    check_padding(network.double(), x.double(), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("right", [0, 1, 6])
def test_a_stream_in_blocks_of_a_chunk(right):
    network = small()
    network.choose_context(70, right)
    block = FRAME * (right + 1)
    x = speechlike(2, 20 * FRAME + 517)
    stream = Stream(network, block)
    pieces = stream.push(x)
    assert [piece.shape[1] for piece in pieces] == [right + 1] * (x.shape[1] // block)
    assert_close(torch.cat([*pieces, *stream.flush()], 1), network(x)[0], 1e-5)
    with pytest.raises(ValueError, match=f"multiple of the period, {block}"):
        Stream(network, block + 1)


@torch.no_grad()
def test_a_recorded_step_gives_the_same_numbers():
    network = small(contexts=[[4, 0]])
    recorded = Recorded(network)
    recorded.prepare(torch.zeros(1, FRAME))
    x = speechlike(1, 60 * FRAME + 44)
    stream = Stream(recorded, FRAME)
    assert_close(torch.cat([*stream.push(x), *stream.flush()], 1), network(x)[0], 1e-5)


@torch.no_grad()
def test_the_memory_of_a_stream_is_constant():
    network = small(contexts=[[4, 1]])
    state, sizes = None, set()
    for _ in range(12):
        _, state = network(torch.zeros(1, network.period), state, last=False)
        sizes.add(sum(leaf.numel() for leaf in leaves(state)))
    samples, stages = 1 + 360, 1 * 10 + 2 * 6 * 4 + 2 * 4 * 4
    layer = 2 * (4 + 2) * 8 + 1 + 8 * 8  # keys and values of the past and of a chunk, their count, the convolution's
    assert sizes == {samples + stages + 2 * layer}


def test_the_heads():
    network = small(prediction_width=6, joint_width=5)
    frames, _ = network(speechlike(2, 5 * FRAME))
    assert network.blank == 12
    assert network.ctc(frames).shape == (2, 6, 13)
    predictions, _ = network.prediction(torch.tensor([[12, 3], [12, 4]]))
    assert network.joint(frames, predictions).shape == (2, 6, 2, 13)
    alone = small(ctc=False, prediction_width=6)
    assert alone.ctc is None
    assert small().joint is None


def test_padded_batches():
    check_padding(small(contexts=[[4, 1]]).double(), speechlike(3, 9 * FRAME + 700).double(), 1e-12)


def test_training_reaches_every_parameter():
    network = small(prediction_width=6).train()
    frames, _ = network(speechlike(2, 9 * FRAME), lengths=torch.tensor([9 * FRAME, 4 * FRAME]))
    tokens = network.prediction.with_start(torch.tensor([[1, 2], [3, 4]]))
    (network.ctc(frames).sum() + network.joint(frames, network.prediction(tokens)[0]).square().sum()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": []}, r"contexts \[\](.|\n)*pairs"),
        ({"contexts": [[70, 12]]}, "chunks of 13 steps do not divide 70"),
        ({"normalize": "all"}, "normalization 'all'"),
        ({"ctc": False}, "without a head"),
        ({"heads": 3}, "8 does not split into 3 heads"),
    ],
)
def test_values_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
