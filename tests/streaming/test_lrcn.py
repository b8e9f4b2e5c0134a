"""LRCN follows a video frame by frame: the law of streams for the head and the whole network."""

import torch

from kit.streaming import check_block
from wavecast.apps.activity.lrcn import LRCN
from wavecast.apps.activity.networks import lrcn
from wavecast.core.stream import Stream


def test_the_head_streams():
    torch.manual_seed(0)
    check_block(LRCN(5, 4, hidden=6, layers=2), torch.randn(3, 19, 5))


def test_the_network_streams():
    torch.manual_seed(0)
    network = lrcn(4, ["difference"], width=6, size=[8, 8], hidden=5)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    check_block(network, torch.rand(3, 9, 8, 8, 3), examples=4, silence=200)


@torch.no_grad()
def test_frame_by_frame_equals_the_clip():
    torch.manual_seed(0)
    network = lrcn(4, ["rgb", "flow:2"], width=6, size=[16, 16], hidden=5, layers=2).eval()
    clip = torch.rand(2, 11, 16, 16, 7)
    whole, _ = network(clip)
    stream = Stream(network, 1)
    pieces = [piece for t in range(11) for piece in stream.push(clip[:, t : t + 1])]
    assert [piece.shape[1] for piece in pieces] == [1] * 11
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)
    assert sum(piece.shape[1] for piece in stream.flush()) == 0
