"""Maps of one forecast beside the truth: at chosen lead times as a picture, at all of them as an animation.

The forecast is the first one of which the truth has the most valid times; of an ensemble its mean, of a variable on
levels the first level.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from wavecast.apps.forecasting.scores import on_grid_of
from wavecast.cards import write_whole
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_times import HOUR, show
from wavecast.pictures import new_figure, save_picture

MOST_VARIABLES = 12  # in one picture; --variables chooses others
MOST_FRAMES = 200  # in one animation, which is made in memory; longer forecasts are thinned
FRAMES_PER_SECOND = 4
PANELS = ("forecast", "truth", "error")


class Maps:
    """One forecast and its truth, read map by map.

    Args:
        forecast: as `open_forecast` gives it.
        truth: canonical fields that hold some of its valid times.

    Attributes:
        names: of the variables that both have.
        leads: places of the lead times whose truth is known.
        hours: these lead times.
    """

    def __init__(self, forecast: xr.Dataset, truth: xr.Dataset) -> None:
        self.names = [str(name) for name in forecast.data_vars if name in truth.data_vars]
        leads = forecast["prediction_timedelta"].values.astype("timedelta64[ns]")
        valid = forecast["time"].values.astype("datetime64[ns]")[:, None] + leads
        places = truth.indexes["time"].get_indexer(valid.ravel()).reshape(valid.shape)
        best = int((places >= 0).sum(1).argmax())
        self.leads = np.flatnonzero(places[best] >= 0)
        self.hours = leads[self.leads] / np.timedelta64(1, "ns") / HOUR
        self.initial = show(forecast["time"].values[best])
        self._forecast = forecast.isel(time=best)
        self._truth = on_grid_of(forecast, truth, "truth")
        self._places = places[best]

    def chosen(self, hours: Sequence[float] | None) -> list[int]:
        """Find lead times: their places in the forecast.

        Args:
            hours: of them; None: the first, the middle and the last whose truth is known.

        Raises:
            WavecastError: the forecast or the truth has no such lead time.
        """
        if hours is None:
            return [int(self.leads[k]) for k in sorted({0, len(self.leads) // 2, len(self.leads) - 1})]
        unknown = [hour for hour in hours if not np.isclose(self.hours, hour).any()]
        if unknown:
            raise WavecastError(
                f"there is no map of {unknown[0]:g} h: forecast and truth do not both have it from {self.initial}",
                f"choose from --leads {' '.join(f'{hour:g}' for hour in self.hours)}",
            )
        return [int(self.leads[np.isclose(self.hours, hour).argmax()]) for hour in hours]

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Give longitudes (col,) and latitudes (row,)."""
        return self._forecast["longitude"].values, self._forecast["latitude"].values

    def units(self, name: str) -> str:
        """Give the unit of a variable."""
        return str(self._forecast[name].attrs.get("units", ""))

    def read(self, name: str, lead: int) -> dict[str, np.ndarray]:
        """Read the maps of a variable at one lead time: each of PANELS, (row, col)."""
        ours = self._forecast[name].isel(prediction_timedelta=lead)
        ours = ours.mean("number") if "number" in ours.dims else ours
        theirs = self._truth[name].isel(time=int(self._places[lead]))
        maps = []
        for one in (ours, theirs):
            one = one.isel(level=0) if "level" in one.dims else one
            maps.append(one.transpose("latitude", "longitude").values.astype(float))
        return {"forecast": maps[0], "truth": maps[1], "error": maps[0] - maps[1]}

    def limits(self, name: str, leads: Sequence[int]) -> dict[str, tuple[float, float]]:
        """Find the least and the greatest value of each panel; those of the error lie as far from zero."""
        low, high, error = np.inf, -np.inf, 0.0
        for lead in leads:
            found = self.read(name, lead)
            for panel in ("forecast", "truth"):
                low = np.fmin(low, np.fmin.reduce(found[panel], axis=None))
                high = np.fmax(high, np.fmax.reduce(found[panel], axis=None))
            error = np.fmax(error, np.fmax.reduce(np.abs(found["error"]), axis=None))
        return {"forecast": (low, high), "truth": (low, high), "error": (-error, error)}


def draw_maps(maps: Maps, leads: Sequence[int], path: Path) -> None:
    """Draw forecast, truth and error side by side, a row for each variable and lead time, as PNG.

    Args:
        maps: the first MOST_VARIABLES variables of them are drawn.
        leads: from `Maps.chosen`.
        path: of the picture.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    names = maps.names[:MOST_VARIABLES]
    figure = new_figure(12, 2.6 * len(names) * len(leads))
    rows = iter(figure.subplots(len(names) * len(leads), len(PANELS), squeeze=False))
    for name in names:
        limits = maps.limits(name, leads)
        for lead in leads:
            found = maps.read(name, lead)
            for axes, panel in zip(next(rows), PANELS, strict=True):
                mesh = draw_panel(axes, maps, found[panel], panel, limits[panel])
                figure.colorbar(mesh, ax=axes, label=maps.units(name))
                axes.set_title(f"{name}, {panel}, {lead_of(maps, lead)}", fontsize=9)
    figure.suptitle(f"from {maps.initial}")
    save_picture(figure, path)


def animate(maps: Maps, path: Path) -> None:
    """Show forecast, truth and error of the first variable, lead time after lead time, as GIF.

    Raises:
        WavecastError: matplotlib or pillow is not installed, or the file cannot be written.
    """
    figure = new_figure(12, 3.2)
    try:
        from matplotlib.animation import PillowWriter
    except ImportError:
        raise WavecastError("--animate needs pillow", "pip install 'wavecast[plot]'") from None
    name = maps.names[0]
    leads = [int(lead) for lead in maps.leads[:: -(-len(maps.leads) // MOST_FRAMES)]]
    limits = maps.limits(name, leads)
    panels = figure.subplots(1, len(PANELS))
    writer = PillowWriter(fps=FRAMES_PER_SECOND)
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "animation.gif"
        with writer.saving(figure, str(whole), dpi=80):
            for title in frames(figure, panels, maps, name, leads, limits):
                figure.suptitle(title)
                writer.grab_frame()
                figure.set_layout_engine("none")  # that of the first frame does for all, and takes longest
        write_whole(path, whole.read_bytes())


def frames(
    figure: Any, panels: Sequence[Any], maps: Maps, name: str, leads: Sequence[int], limits: dict[str, Any]
) -> Iterator[str]:
    """Draw one lead time after the other into the same panels; give the title of each."""
    meshes: dict[str, Any] = {}
    for lead in leads:
        found = maps.read(name, lead)
        for axes, panel in zip(panels, PANELS, strict=True):
            if panel in meshes:
                meshes[panel].set_array(found[panel])
                continue
            meshes[panel] = draw_panel(axes, maps, found[panel], panel, limits[panel])
            figure.colorbar(meshes[panel], ax=axes, label=maps.units(name))
            axes.set_title(panel)
        yield f"{name}, {lead_of(maps, lead)} from {maps.initial}"


def draw_panel(axes: Any, maps: Maps, values: np.ndarray, panel: str, limits: tuple[float, float]) -> Any:
    """Draw one map, and give it."""
    colors = "RdBu_r" if panel == "error" else "viridis"
    longitude, latitude = maps.axes()
    low, high = limits
    return axes.pcolormesh(longitude, latitude, values, cmap=colors, vmin=low, vmax=high, shading="nearest")


def lead_of(maps: Maps, lead: int) -> str:
    """Write a lead time: +12 h."""
    return f"+{maps.hours[int(np.searchsorted(maps.leads, lead))]:g} h"
