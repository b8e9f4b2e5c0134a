"""TranscriptPool: many live speakers on one model, which takes them a step further together.

    pool = TranscriptPool(transcriber, capacity=16)
    speaker = pool.join()
    taken = pool.push(speaker, samples)            # (n,) at the model's rate; as many as there is room for
    for speaker, segments in pool.step(): ...      # utterances that have ended
    pool.finish(speaker)                           # the rest comes with the next steps; then the speaker has left

A speaker that is late or silent delays nobody, and each gets the text that it would get alone.
"""

from dataclasses import dataclass

import numpy as np
import torch

from wavecast.apps.transcription.endpoint import Segmenter
from wavecast.apps.transcription.inference import Options, Transcriber
from wavecast.apps.transcription.words import Segment
from wavecast.core.errors import WavecastError
from wavecast.core.recorded import Recorded
from wavecast.core.state import State, gather, stack
from wavecast.core.stream_pool import StreamPool


@dataclass
class Speaker:
    """What is known of a speaker: the segmenter, the decoder's state, and how many frames it has seen."""

    segmenter: Segmenter
    state: State = None
    frames: int = 0


class TranscriptPool:
    """Live speakers of a transcriber.

    Args:
        transcriber: whose model streams; its look-ahead stays as it is meanwhile.
        capacity: speakers at a time: more are refused.
        options: what is wanted of the text.
        backlog: blocks of a speaker that may wait.

    Raises:
        WavecastError: the model needs whole recordings, or the options do not fit it.
    """

    def __init__(
        self, transcriber: Transcriber, capacity: int, options: Options | None = None, backlog: int = 8
    ) -> None:
        if not transcriber.streams:
            raise WavecastError(f"{transcriber.card.name} needs whole recordings", "use a model that streams")
        options = options or Options()
        if options.align:
            raise WavecastError("alignment is for single streams", "leave align out, or use Transcriber.stream()")
        self._transcriber, self._options = transcriber, options
        self._decoder = transcriber.decoder(options)
        self._pool = StreamPool(Recorded(transcriber.network), transcriber.block, capacity, backlog)
        self._speakers: dict[int, Speaker] = {}

    def __len__(self) -> int:
        """Count the speakers in the pool."""
        return len(self._speakers)

    def join(self) -> int:
        """Admit a speaker; give the number, never given twice.

        Raises:
            WavecastError: the pool is full.
        """
        speaker = self._pool.join()
        self._speakers[speaker] = Speaker(Segmenter(self._transcriber.tokenizer.pieces, self._options.rules))
        return speaker

    def push(self, speaker: int, x: np.ndarray) -> int:
        """Take samples (n,) at the model's rate, as many as there is room for; give how many were taken.

        Raises:
            ValueError: there is no such speaker, or not any more.
        """
        sound = np.nan_to_num(np.asarray(x, np.float32), posinf=0, neginf=0)
        return self._pool.push(speaker, torch.from_numpy(sound[None]).to(self._transcriber.device))

    def finish(self, speaker: int) -> None:
        """End a speaker's sound: the next steps give the rest of the text, and the speaker leaves with it."""
        self._pool.finish(speaker)
        if speaker not in self._pool:
            del self._speakers[speaker]

    def leave(self, speaker: int) -> None:
        """Drop a speaker and what is not transcribed yet."""
        self._pool.leave(speaker)
        del self._speakers[speaker]

    def partial(self, speaker: int) -> Segment | None:
        """Give the utterance under way of a speaker, if there is one."""
        return self._speakers[speaker].segmenter.partial()

    def step(self) -> list[tuple[int, list[Segment]]]:
        """Take every speaker that has a block ready, or has ended, one step further.

        Returns:
            Speakers with utterances that have ended, in the order of their joining.
        """
        moved = self._pool.step()
        alike: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for speaker, frames in moved:
            alike.setdefault(frames.shape[1], []).append((speaker, frames))
        ended: dict[int, list[Segment]] = {}
        for group in alike.values():
            ended |= self._decode(group)
        for speaker in [*self._speakers]:
            if speaker not in self._pool:
                ended.setdefault(speaker, []).extend(self._end(self._speakers.pop(speaker)))
        return [(speaker, ended[speaker]) for speaker in sorted(ended) if ended[speaker]]

    def _decode(self, group: list[tuple[int, torch.Tensor]]) -> dict[int, list[Segment]]:
        """Decode frames (1, n, width) of speakers, n alike, as one batch."""
        speakers = [self._speakers[speaker] for speaker, _ in group]
        states = [self._decoder.begin(1) if speaker.state is None else speaker.state for speaker in speakers]
        found, state = self._decoder.step(torch.cat([frames for _, frames in group]), stack(states))
        ended = {}
        settled = self._decoder.settled(state)
        for row, (number, frames) in enumerate(group):
            speaker = speakers[row]
            speaker.state, speaker.frames = gather(state, [row]), speaker.frames + frames.shape[1]
            ended[number] = speaker.segmenter.step(found[row], settled[row])
        return ended

    def _end(self, speaker: Speaker) -> list[Segment]:
        """Give the rest of a speaker who has left."""
        rest = [] if speaker.state is None else self._decoder.pending(speaker.state)
        segments = [one for tokens in rest for one in speaker.segmenter.step(tokens, speaker.frames)]
        return segments + speaker.segmenter.finish()
