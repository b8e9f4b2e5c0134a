"""Sound from a microphone, through the library sounddevice, which is an extra."""

import queue
from typing import Any

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import AudioInfo, AudioReader

WAITING_SECONDS = 30.0  # of sound that may wait to be read; what comes after is lost, and that is said
CURE = "install it with pip install 'wavecast[mic]' (and the system's PortAudio), or pipe: arecord ... | wavecast ... -"


class MicrophoneReader(AudioReader):
    """A microphone, read until it is closed.

    Args:
        sample_rate: in hertz.
        device: number or name of the device, as the library lists them; None: the system's default.

    Attributes:
        lost: pieces of sound that came while nobody read.

    Raises:
        WavecastError: the library or the microphone is missing.
    """

    def __init__(self, sample_rate: int, device: int | str | None = None) -> None:
        super().__init__(AudioInfo(sample_rate, 1, None, "RAW", "f32le"))
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: the library is there, PortAudio is not
            raise WavecastError(f"no microphone can be read without sounddevice: {error}", CURE) from error
        self.lost = 0
        self._heard: queue.Queue[np.ndarray] = queue.Queue(int(WAITING_SECONDS * 100))
        self._rest = np.zeros(0, np.float32)
        try:
            self._input = sounddevice.InputStream(
                samplerate=sample_rate,
                blocksize=sample_rate // 100,
                device=device,
                channels=1,
                dtype="float32",
                callback=self._hear,
            )
            self._input.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            reason = " ".join(str(error).split())
            hint = "python -m sounddevice lists the devices; choose one with --mic DEVICE"
            raise WavecastError(f"the microphone cannot be opened: {reason}", hint) from error

    def _hear(self, sound: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Take (frames, 1) samples; the library calls this in a thread of its own and reuses the memory."""
        try:
            self._heard.put_nowait(sound[:, 0].copy())
        except queue.Full:
            self.lost += 1

    def read(self, frames: int) -> np.ndarray:
        """Wait for sound, and give what has come: float32 (1, n), n from 1 to `frames`."""
        if not len(self._rest):
            self._rest = self._heard.get()
        pieces = [self._rest]
        while sum(map(len, pieces)) < frames and not self._heard.empty():
            pieces.append(self._heard.get())
        x = np.concatenate(pieces)
        self._rest = x[frames:]
        return x[None, :frames]

    def close(self) -> None:
        """Let the microphone go."""
        self._input.close()
