"""Videos for tests: a moving block, files of it, and a container without a single frame."""

import av
import numpy as np

from wavecast.datamodules.video_writer import VideoWriter


def moving_block(frames=20, rows=24, cols=32, channels=3):
    """A bright block that goes right over a ground that brightens: uint8 (time, row, col, channel)."""
    x = np.zeros((frames, rows, cols, channels), np.uint8)
    for k in range(frames):
        x[k] = 6 * k
        x[k, 4:12, k % (cols - 8) : k % (cols - 8) + 8] = [230, 90, 40][:channels]
    return x


def write_video(path, x, rate=25, step=7):
    """Write frames, a few at a time; the path."""
    with VideoWriter(path, rate) as writer:
        for start in range(0, len(x), step):
            writer.write(x[start : start + step])
    return path


def write_without_frames(path):
    """Write a container whose moving picture has no frame, and whose sound lasts a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr0"
        sound = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
