"""wavecast: signals that unfold in time, sound and fields.

    import wavecast

    enhancer = wavecast.load("enhance")
    clean = enhancer(noisy, sample_rate=48_000)

Nothing heavy is imported here; `load` imports what its task needs.
"""

from typing import TYPE_CHECKING, Literal, overload

from wavecast.core.errors import WavecastError

if TYPE_CHECKING:
    from wavecast.apps.activity.inference import Recognizer
    from wavecast.apps.enhancement.inference import Enhancer
    from wavecast.apps.forecasting.choice import FittingForecaster
    from wavecast.apps.forecasting.inference import Forecaster
    from wavecast.apps.forecasting.video_inference import VideoForecaster
    from wavecast.apps.keywords.inference import Spotter
    from wavecast.apps.separation.inference import Separator
    from wavecast.apps.transcription.inference import Transcriber

__version__ = "0.1.0"
__all__ = ["WavecastError", "__version__", "load"]


@overload
def load(task: Literal["enhance"], model: str | None = None, device: str = "auto") -> "Enhancer": ...
@overload
def load(task: Literal["forecast"], model: None = None, device: str = "auto") -> "FittingForecaster": ...
@overload
def load(task: Literal["forecast"], model: str, device: str = "auto") -> "Forecaster | VideoForecaster": ...
@overload
def load(task: Literal["recognize"], model: str | None = None, device: str = "auto") -> "Recognizer": ...
@overload
def load(task: Literal["spot"], model: str | None = None, device: str = "auto") -> "Spotter": ...
@overload
def load(task: Literal["separate"], model: str | None = None, device: str = "auto") -> "Separator": ...
@overload
def load(task: Literal["transcribe"], model: str | None = None, device: str = "auto") -> "Transcriber": ...
def load(
    task: str, model: str | None = None, device: str = "auto"
) -> "Enhancer | FittingForecaster | Forecaster | Recognizer | Separator | Spotter | Transcriber | VideoForecaster":
    """Load a model for a task.

    Args:
        task: "enhance", "separate", "transcribe", "spot", "forecast" or "recognize".
        model: a name from `wavecast models list`, or a path; None: the small model that ships for the task, or at
            every call the forecaster that fits the fields.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Returns:
        For "enhance" an object with `.network`, `.sample_rate` and `.stream()`, called on arrays: see `Enhancer`. For
        "separate" the same, and it gives an array whose first axis are the speakers: see `Separator`. For "transcribe"
        and "spot" the same, and they give text or words with their times: see `Transcriber`, `Spotter`. For "recognize"
        one that is called on a video and gives its activities: see `Recognizer`. For "forecast" one with `.network` and
        `.format`, called on an xarray.Dataset or a path (see `Forecaster`), or on an array of frames where the model is
        for video (see `VideoForecaster`); without a model see `FittingForecaster`.

    Raises:
        WavecastError: no such task, model or device, or the weights are damaged.
    """
    if task == "enhance":
        from wavecast.apps.enhancement.inference import Enhancer

        return Enhancer.load(model, device)
    if task == "separate":
        from wavecast.apps.separation.inference import Separator

        return Separator.load(model, device)
    if task == "transcribe":
        from wavecast.apps.transcription.inference import Transcriber

        return Transcriber.load(model, device)
    if task == "spot":
        from wavecast.apps.keywords.inference import Spotter

        return Spotter.load(model, device)
    if task == "recognize":
        from wavecast.apps.activity.inference import Recognizer

        return Recognizer.load(model, device)
    if task == "forecast":
        from wavecast.apps.forecasting.choice import FittingForecaster
        from wavecast.apps.forecasting.video_inference import load_forecaster

        return FittingForecaster(device) if model is None else load_forecaster(model, device)
    raise WavecastError(f"there is no task {task!r}", "tasks: enhance, separate, transcribe, spot, forecast, recognize")
