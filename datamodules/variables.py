"""The lexicon of weather variables: names, units and plausible ranges, as ECMWF, WeatherBench and CF write them.

Canonical are the long names of WeatherBench 2 (Rasp et al. 2024) and SI units. One level of a variable on pressure
levels is a channel of its own, named with its pressure in hPa: `temperature_850`. Names of WeatherBench 1 and ERA5
(`t2m`), of GRIB (`2t`) and of CMIP (`tas`) are aliases; CF standard names are the last resort.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from wavecast.core.errors import WavecastError

GRAVITY = 9.80665
"""Standard gravity in m s-2: geopotential is geopotential height times this."""

CONVERSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "K": {
        **dict.fromkeys(["k", "kelvin", "degk", "deg k", "degree kelvin", "degrees kelvin"], (1.0, 0.0)),
        **dict.fromkeys(["degc", "deg c", "c", "celsius", "°c", "degree c", "degrees c"], (1.0, 273.15)),
        **dict.fromkeys(["degree celsius", "degrees celsius"], (1.0, 273.15)),
        **dict.fromkeys(["degf", "deg f", "f", "fahrenheit", "°f"], (5 / 9, 273.15 - 32 * 5 / 9)),
    },
    "m s-1": {
        **dict.fromkeys(["m s-1", "m/s", "mps", "meter second-1", "meters per second", "m sec-1"], (1.0, 0.0)),
        **dict.fromkeys(["km h-1", "km/h", "kmh", "km hr-1"], (1 / 3.6, 0.0)),
        **dict.fromkeys(["kt", "kts", "knot", "knots"], (1852 / 3600, 0.0)),
    },
    "Pa": {
        **dict.fromkeys(["pa", "pascal", "pascals", "n m-2", "n/m2"], (1.0, 0.0)),
        **dict.fromkeys(["hpa", "mb", "mbar", "millibar", "millibars", "hectopascal"], (100.0, 0.0)),
        "kpa": (1000.0, 0.0),
    },
    "m2 s-2": {
        **dict.fromkeys(["m2 s-2", "m2/s2", "m2 sec-2", "j kg-1", "j/kg"], (1.0, 0.0)),
        **dict.fromkeys(["gpm", "m", "meter", "meters"], (GRAVITY, 0.0)),
        **dict.fromkeys(["dam", "gpdm"], (10 * GRAVITY, 0.0)),
    },
    "kg kg-1": {
        **dict.fromkeys(["kg kg-1", "kg/kg", "1", ""], (1.0, 0.0)),
        **dict.fromkeys(["g kg-1", "g/kg"], (1e-3, 0.0)),
    },
    "%": {
        **dict.fromkeys(["%", "percent", "per cent"], (1.0, 0.0)),
        **dict.fromkeys(["1", "fraction", "0 - 1", "0-1"], (100.0, 0.0)),
    },
    "1": {
        **dict.fromkeys(["1", "", "fraction", "0 - 1", "0-1", "dimensionless", "~"], (1.0, 0.0)),
        **dict.fromkeys(["%", "percent", "per cent"], (0.01, 0.0)),
    },
    "m": {
        **dict.fromkeys(["m", "meter", "meters", "metre", "metres", "m of water equivalent"], (1.0, 0.0)),
        **dict.fromkeys(["mm", "kg m-2", "kg/m2", "millimeter", "millimeters"], (1e-3, 0.0)),
        "km": (1000.0, 0.0),
    },
    "J m-2": {**dict.fromkeys(["j m-2", "j/m2"], (1.0, 0.0)), "kj m-2": (1000.0, 0.0)},
    "Pa s-1": {**dict.fromkeys(["pa s-1", "pa/s"], (1.0, 0.0)), "hpa s-1": (100.0, 0.0)},
    "s-1": dict.fromkeys(["s-1", "1/s", "sec-1"], (1.0, 0.0)),
    "K m2 kg-1 s-1": {
        **dict.fromkeys(["k m2 kg-1 s-1", "k m2/kg/s"], (1.0, 0.0)),
        **dict.fromkeys(["pvu"], (1e-6, 0.0)),
    },
}
"""Spellings of units for each SI unit, after `spelled`: an SI value is scale * value + offset."""


@dataclass(frozen=True)
class Variable:
    """A weather variable.

    Attributes:
        name: WeatherBench 2's long name.
        short: WeatherBench 1's (ERA5's) short name.
        units: SI, a key of CONVERSIONS.
        standard_name: of the CF conventions.
        low: no plausible value is below.
        high: no plausible value is above.
        on_levels: whether it is given on pressure levels.
        height: in meters above the ground, for what CF tells apart by height alone.
        aliases: other names in files.
    """

    name: str
    short: str
    units: str
    standard_name: str
    low: float
    high: float
    on_levels: bool = False
    height: float | None = None
    aliases: tuple[str, ...] = ()

    @property
    def attributes(self) -> dict[str, str]:
        """What a file says of it: `units`, `standard_name`, `long_name`."""
        long_name = self.name.replace("_", " ")
        return {"units": self.units, "standard_name": self.standard_name, "long_name": long_name}


VARIABLES = (
    Variable("2m_temperature", "t2m", "K", "air_temperature", 160, 345, height=2, aliases=("2t", "tas", "t2")),
    Variable("2m_dewpoint_temperature", "d2m", "K", "dew_point_temperature", 150, 320, height=2, aliases=("2d",)),
    Variable("10m_u_component_of_wind", "u10", "m s-1", "eastward_wind", -120, 120, height=10, aliases=("10u", "uas")),
    Variable("10m_v_component_of_wind", "v10", "m s-1", "northward_wind", -120, 120, height=10, aliases=("10v", "vas")),
    Variable("10m_wind_speed", "si10", "m s-1", "wind_speed", -1, 120, height=10, aliases=("10si", "ws10", "sfcWind")),
    Variable("100m_u_component_of_wind", "u100", "m s-1", "eastward_wind", -150, 150, height=100, aliases=("100u",)),
    Variable("100m_v_component_of_wind", "v100", "m s-1", "northward_wind", -150, 150, height=100, aliases=("100v",)),
    Variable(
        "mean_sea_level_pressure", "msl", "Pa", "air_pressure_at_mean_sea_level", 85e3, 111e3, aliases=("psl", "prmsl")
    ),
    Variable("surface_pressure", "sp", "Pa", "surface_air_pressure", 40e3, 111e3, aliases=("ps", "psfc")),
    Variable("sea_surface_temperature", "sst", "K", "sea_surface_temperature", 265, 315, aliases=("tos",)),
    Variable("skin_temperature", "skt", "K", "surface_temperature", 150, 360, aliases=("ts",)),
    Variable("total_cloud_cover", "tcc", "1", "cloud_area_fraction", -0.01, 1.01, aliases=("clt",)),
    Variable("total_precipitation", "tp", "m", "lwe_thickness_of_precipitation_amount", -1e-3, 2),
    Variable("total_precipitation_6hr", "tp6h", "m", "lwe_thickness_of_precipitation_amount", -1e-3, 2),
    Variable("total_precipitation_24hr", "tp24h", "m", "lwe_thickness_of_precipitation_amount", -1e-3, 2),
    Variable("toa_incident_solar_radiation", "tisr", "J m-2", "toa_incoming_shortwave_flux", -1, 4e7),
    Variable("snow_depth", "sd", "m", "lwe_thickness_of_surface_snow_amount", -1e-3, 100),
    Variable("geopotential", "z", "m2 s-2", "geopotential", -1e4, 6e5, True, aliases=("zg",)),
    Variable("temperature", "t", "K", "air_temperature", 150, 345, True, aliases=("ta",)),
    Variable("u_component_of_wind", "u", "m s-1", "eastward_wind", -200, 200, True, aliases=("ua",)),
    Variable("v_component_of_wind", "v", "m s-1", "northward_wind", -200, 200, True, aliases=("va",)),
    Variable("wind_speed", "ws", "m s-1", "wind_speed", -1, 250, True),
    Variable(
        "vertical_velocity", "w", "Pa s-1", "lagrangian_tendency_of_air_pressure", -60, 60, True, aliases=("wap",)
    ),
    Variable("relative_humidity", "r", "%", "relative_humidity", -30, 220, True, aliases=("rh", "hur")),
    Variable("specific_humidity", "q", "kg kg-1", "specific_humidity", -1e-3, 0.06, True, aliases=("hus",)),
    Variable("vorticity", "vo", "s-1", "atmosphere_relative_vorticity", -0.1, 0.1, True),
    Variable("divergence", "d", "s-1", "divergence_of_wind", -0.1, 0.1, True),
    Variable("potential_vorticity", "pv", "K m2 kg-1 s-1", "ertel_potential_vorticity", -0.05, 0.05, True),
    Variable("land_sea_mask", "lsm", "1", "land_binary_mask", -0.01, 1.01, aliases=("sftlf",)),
    Variable("orography", "orography", "m", "surface_altitude", -600, 9000, aliases=("orog", "orog_height")),
    Variable("geopotential_at_surface", "z_sfc", "m2 s-2", "surface_geopotential", -6e3, 9e4, aliases=("zs", "phis")),
    Variable("soil_type", "slt", "1", "soil_type", -0.5, 10),
)
"""Every variable known by name; others are read under their own names, in their own units, unchecked."""

LEXICON = {
    name.lower(): variable for variable in VARIABLES for name in (variable.name, variable.short, *variable.aliases)
}
"""Variables by each of their names, in lower case."""

_LEVEL = re.compile(r"(?P<name>.+?)_?(?P<level>\d{1,4})(?:hpa|mb)?", re.IGNORECASE)


def find(name: str) -> tuple[Variable, int | None]:
    """Find a variable, or one level of it, by any of its names.

    Args:
        name: such as `2m_temperature`, `t2m`, `temperature`, `temperature_850`, `t850` or `geopotential_500hPa`.

    Returns:
        The variable, and the level in hPa where the name has one.

    Raises:
        WavecastError: no variable is called so.
    """
    found = known(name)
    if found is None:
        close = get_close_matches(name.lower(), LEXICON, 3, 0.5)
        meant = dict.fromkeys(LEXICON[one].name for one in close)
        hint = f"did you mean {' or '.join(meant)}?" if meant else f"known are {', '.join(v.name for v in VARIABLES)}"
        raise WavecastError(f"no variable is called {name!r}", hint)
    return found


def known(name: str) -> tuple[Variable, int | None] | None:
    """Find like `find`; None where no variable is called so."""
    if variable := LEXICON.get(name.lower()):
        return variable, None
    match = _LEVEL.fullmatch(name)
    variable = LEXICON.get(match["name"].lower()) if match else None
    if match and variable and variable.on_levels and 1 <= int(match["level"]) <= 1100:
        return variable, int(match["level"])
    return None


def recognize(
    name: str, attributes: Mapping[str, Any], on_levels: bool, height: float | None = None
) -> tuple[Variable, int | None] | None:
    """Recognize a variable of a file: by its name, else by its CF standard name where only one variable fits.

    Args:
        name: in the file.
        attributes: in the file.
        on_levels: whether it lies on pressure levels there.
        height: above the ground in meters, where the file says so.
    """
    if found := known(name):
        return found
    standard = attributes.get("standard_name")
    fits = [v for v in VARIABLES if v.standard_name == standard and v.on_levels == on_levels]
    fits = [v for v in fits if height is None or v.height is None or v.height == height]
    return (fits[0], None) if len(fits) == 1 else None


def channel(name: str, level: float | None) -> str:
    """Name one level of a variable, as WeatherBench 2 does: `temperature_850`."""
    return name if level is None else f"{name}_{level:g}"


def canonical(name: str) -> str:
    """Give the long name of a variable without its level; names that are not known stay."""
    found = known(name)
    return found[0].name if found else name


def not_found(name: str, existing: Iterable[str], where: str) -> WavecastError:
    """Make the error that a file has no such variable; it names those that exist, the likeliest first."""
    names = sorted(existing)
    close = get_close_matches(name, names, 1, 0.5)
    meant = f"did you mean {close[0]}? " if close else ""
    return WavecastError(f"{where} has no {name}", f"{meant}it has {', '.join(names) or 'no variable on a grid'}")


def option(name: str, value: str, training: str | None = None) -> str:
    """Write an option for a hint, as the commands take it and as `wavecast train forecasting` does.

    Args:
        name: of the option, which is also the argument of `WeatherData` and `open_fields`.
        value: that cures the error.
        training: the value in training, where it is written otherwise.
    """
    return f"--{name} {value} (in training --data.{name} {training or value})"


def units_option(name: str, units: str) -> str:
    """Write the option that says in which units a variable is, for a hint."""
    return option("units", f"{name}={units}", f"'{{{name}: {units}}}'")


def spelled(units: str) -> str:
    """Bring the spelling of a unit to one form: `m s**-1`, `m s^-1` and `m.s-1` to `m s-1`."""
    plain = re.sub(r"\*\*|\^", "", units.lower())
    return " ".join(re.sub(r"[_.·*()\[\]]", " ", plain).split())


def conversion(variable: Variable, units: str | None, where: str = "") -> tuple[float, float]:
    """Find how values in some units become SI: scale * value + offset.

    Args:
        variable: what they measure.
        units: as the file spells them; None is taken for SI.
        where: how an error calls the file.

    Raises:
        WavecastError: these units do not belong to the variable.
    """
    if units is None:
        return 1.0, 0.0
    table = CONVERSIONS[variable.units]
    if spelled(units) not in table:
        raise WavecastError(
            f"{where}{': ' if where else ''}{variable.name} is in {units!r}, which is no unit of it",
            f"{variable.units} is expected; say what it is by {units_option(variable.name, 'UNIT')}: "
            f"one of {', '.join(repr(name) for name in table if name)}",
        )
    return table[spelled(units)]


def likely_units(variable: Variable, low: float, high: float) -> str | None:
    """Guess in which units values from `low` to `high` would be plausible; None where in none."""
    for units, (scale, offset) in CONVERSIONS[variable.units].items():
        fits = variable.low <= scale * low + offset and scale * high + offset <= variable.high
        if fits and (scale, offset) != (1.0, 0.0):
            return units
    return None
