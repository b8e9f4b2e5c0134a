"""Proof that a recording gives one text live and whole: `wavecast transcribe --verify-streaming`."""

from typing import Any

import numpy as np
import torch

from wavecast.apps.transcription.decoding import Tokens
from wavecast.apps.transcription.inference import Options, Transcriber
from wavecast.core.errors import WavecastError
from wavecast.core.resample import Resampler
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioReader

LONGEST = 600.0  # seconds that are verified: the whole pass keeps all of it in memory
BLOCK = 1 << 15


def verify(reader: AudioReader, transcriber: Transcriber, options: Options, mixed: bool) -> dict[str, Any]:
    """Transcribe the beginning of a recording as one whole and in pieces of random sizes, and compare.

    Args:
        reader: of the recording, at its beginning.
        transcriber: the model.
        options: what is wanted of the text.
        mixed: channels are one voice.

    Returns:
        Of the report: seconds and tokens that agree, and the largest difference of a frame as a share of the largest.

    Raises:
        WavecastError: the tokens differ, the model does not stream, or there is no sound.
    """
    if not transcriber.streams:
        raise WavecastError(f"{transcriber.card.name} does not stream", "leave --verify-streaming out")
    rate = reader.info.sample_rate
    blocks, length = [], 0
    while length < LONGEST * rate and (x := reader.read(BLOCK)).shape[1]:
        blocks.append(x.mean(0, keepdims=True) if mixed else x)
        length += x.shape[1]
    if not blocks:
        raise WavecastError("there is no sound to verify")
    sound = np.nan_to_num(np.concatenate(blocks, 1), posinf=0, neginf=0).astype(np.float32)
    down = Resampler(rate, transcriber.sample_rate, len(sound))
    samples = torch.from_numpy(np.concatenate([down.push(sound), down.flush()], 1)).to(transcriber.device)
    with torch.inference_mode(), flushed_denormals():
        whole = transcriber.network(samples)[0]
        stream, rng, pieces, at = transcriber.pieces(), np.random.default_rng(0), [], 0
        while at < samples.shape[1]:
            size = int(rng.integers(1, transcriber.sample_rate))
            pieces += stream.push(samples[:, at : at + size])
            at += size
        pieces += stream.flush()
        live = torch.cat(pieces, 1)
    if live.shape != whole.shape:
        raise WavecastError(f"{live.shape[1]} frames live, {whole.shape[1]} whole", "please report this recording")
    error = float((live - whole).abs().max() / whole.abs().max().clamp_min(1e-9))
    texts = [tokens_of(transcriber, options, parts) for parts in ([whole], pieces)]
    if texts[0] != texts[1]:
        raise WavecastError(
            f"live and whole give different words; their frames differ by {error:.1e} of the largest value",
            "please report this recording; --precision float32 if int8 was asked for",
        )
    return {
        "verified_seconds": round(samples.shape[1] / transcriber.sample_rate, 3),
        "verified_tokens": sum(len(ids) for ids, _ in texts[0]),
        "streaming_error": error,
    }


def tokens_of(
    transcriber: Transcriber, options: Options, pieces: list[torch.Tensor]
) -> list[tuple[list[int], list[int]]]:
    """Decode encoder frames piece by piece: tokens and their frames, of each channel."""
    decoder, state = transcriber.decoder(options), None
    found = [Tokens() for _ in pieces[0]]
    for piece in pieces:
        parts, state = decoder.step(piece, state)
        for row, part in zip(found, parts, strict=True):
            row.extend(part)
    for row, part in zip(found, decoder.pending(state), strict=True):
        row.extend(part)
    return [(row.ids, row.frames) for row in found]
