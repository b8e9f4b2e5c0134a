"""wavecast: signals that unfold in time, sound and fields.

    import wavecast

    enhancer = wavecast.load("enhance")
    clean = enhancer(noisy, sample_rate=48_000)

Nothing heavy is imported here; `load` imports what its task needs.
"""

from typing import TYPE_CHECKING

from wavecast.core.errors import WavecastError

if TYPE_CHECKING:
    from wavecast.apps.enhancement.inference import Enhancer

__version__ = "0.1.0"
__all__ = ["WavecastError", "__version__", "load"]


def load(task: str, model: str | None = None, device: str = "auto") -> "Enhancer":
    """Load a model for a task.

    Args:
        task: "enhance".
        model: a name from `wavecast models list`, or a path; None: the task's own small model.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Returns:
        An object with `.network`, `.sample_rate` and `.stream()`, called on arrays: see `Enhancer`.

    Raises:
        WavecastError: no such task, model or device, or the weights are damaged.
    """
    if task != "enhance":
        raise WavecastError(f"there is no task {task!r}", "tasks: enhance")
    from wavecast.apps.enhancement.inference import Enhancer

    return Enhancer.load(model, device)
