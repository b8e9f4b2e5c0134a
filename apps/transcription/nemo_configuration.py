"""The configuration in a `.nemo` archive: YAML of bounded size and depth, its references resolved.

Archives of older versions still hold references as OmegaConf writes them, `${model.encoder.d_model}`: a name counted
from the root, which was called `model` where the file was written.
"""

import re
from collections.abc import Iterable, Mapping
from math import nan
from typing import Any

import yaml

from wavecast.core.errors import WavecastError

READ = (
    "sample_rate",
    "target",
    "model_defaults",
    "tokenizer",
    "preprocessor",
    "encoder",
    "decoder",
    "joint",
    "aux_ctc",
    "labels",
)
"""Sections whose references are resolved; the others are about training and are kept as they are."""
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
MOST_ITEMS = 400_000  # scalars, lists and mappings: a vocabulary of 16,384 is there three times
MOST_LEVELS = 32
MOST_LETTERS = 16_384  # of one value
MOST_REFERENCES = 16  # that lead to one another
HINT = "the archive's model_config.yaml is damaged, or not written by NeMo"
UNSUPPORTED = "this is another model than the cache-aware and offline FastConformers that are supported"


def parse_configuration(data: bytes) -> dict[str, Any]:
    """Parse a configuration.

    Returns:
        Nested dicts and lists of plain values.

    Raises:
        WavecastError: it is no YAML, no mapping, or larger, deeper or more entangled than a configuration is.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = data.decode()
        _check_events(yaml.parse(text, Loader=loader))
        content = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise WavecastError("the configuration is no YAML", HINT) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise WavecastError(f"the configuration is a {type(content).__name__}, no mapping of sections", HINT)
    return content


def _check_events(events: Iterable[yaml.Event]) -> None:
    """Bound what YAML can grow to, before anything is built of it."""
    levels = 0
    for count, event in enumerate(events):
        if isinstance(event, yaml.CollectionStartEvent):
            levels += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            levels -= 1
        if isinstance(event, yaml.AliasEvent):
            raise WavecastError("the configuration uses aliases", f"{HINT}; write every value out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_LETTERS:
            raise WavecastError(f"the configuration has a value of more than {MOST_LETTERS} letters", HINT)
        if levels > MOST_LEVELS or count > MOST_ITEMS:
            raise WavecastError(f"the configuration has more than {MOST_LEVELS} levels or {MOST_ITEMS} items", HINT)


def resolved(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references by what they refer to, in the sections that we read.

    Args:
        configuration: as it was parsed.

    Returns:
        A new configuration.

    Raises:
        WavecastError: a reference leads nowhere, in a circle, or to more than a configuration holds.
    """
    items = 0

    def fill(node: Any, trail: tuple[str, ...]) -> Any:
        nonlocal items
        items += 1
        if items > MOST_ITEMS:
            raise WavecastError(f"the references of the configuration give more than {MOST_ITEMS} items", HINT)
        if isinstance(node, dict):
            return {name: fill(value, trail) for name, value in node.items()}
        if isinstance(node, list):
            return [fill(value, trail) for value in node]
        if not isinstance(node, str) or "${" not in node:
            return node
        whole = REFERENCE.fullmatch(node)
        if whole:
            return refer(whole[1], trail)
        text = "".join(
            part if place % 2 == 0 else str(refer(part, trail)) for place, part in enumerate(REFERENCE.split(node))
        )
        if "${" in text or len(text) > MOST_LETTERS:
            raise _unresolved(node)
        return text

    def refer(name: str, trail: tuple[str, ...]) -> Any:
        if name in trail or len(trail) >= MOST_REFERENCES:
            circle = " -> ".join((*trail, name)[-3:])
            raise WavecastError(f"references of the configuration lead in a circle: {circle[:200]!a}", HINT)
        node: Any = configuration
        parts = name.split(".")
        for part in parts[1:] if parts[0] == "model" and "model" not in configuration else parts:
            if not isinstance(node, dict) or part not in node:
                raise _unresolved(f"${{{name}}}")
            node = node[part]
        return fill(node, (*trail, name))

    return {name: fill(node, ()) if name in READ else node for name, node in configuration.items()}


def _unresolved(text: str) -> WavecastError:
    return WavecastError(
        f"the configuration refers to {text[:120]!a}, which it does not hold",
        "write the value into the archive's model_config.yaml",
    )


class Section:
    """A section of a configuration, read strictly: what is not understood is an error, and named.

    Args:
        configuration: that it is part of.
        place: of the section, names joined by points.

    Raises:
        WavecastError: the section is missing.
    """

    def __init__(self, configuration: Mapping[str, Any], place: str) -> None:
        node: Any = configuration
        for part in place.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            raise WavecastError(f"the configuration has no section {place}", HINT)
        self._values, self._place, self._read = node, place, set[str]()

    def __contains__(self, name: str) -> bool:
        """Tell whether a value is there; it may be null."""
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """Give a value; one that is absent or null is the default."""
        self._read.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def among(self, name: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
        """Give a value that is one of those that are supported.

        Raises:
            WavecastError: it is another one.
        """
        value = self.get(name, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise self.unsupported(name, value, " or ".join("nothing" if one is None else str(one) for one in allowed))
        return value

    def close_to(self, name: str, expected: float, default: float | None = None) -> None:
        """Check a number.

        Raises:
            WavecastError: it is another one.
        """
        value = self.get(name, expected if default is None else default)
        if not abs(_number(value) - expected) <= 1e-3 * expected:
            raise self.unsupported(name, value, f"{expected:g}")

    def whole(self, name: str, most: int, default: int | None = None) -> int:
        """Give a whole number from 1 to `most`.

        Raises:
            WavecastError: it is something else.
        """
        value = self.get(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.unsupported(name, value, f"1 to {most}")
        return value

    def share(self, name: str, default: float) -> float:
        """Give a number from 0 to 1.

        Raises:
            WavecastError: it is something else.
        """
        value = self.get(name, default)
        if not 0 <= _number(value) <= 1:
            raise self.unsupported(name, value, "0 to 1")
        return _number(value)

    def done(self, known: tuple[str, ...] = ()) -> None:
        """Refuse what was not read, unless it is known not to matter, or switched off.

        Raises:
            WavecastError: names what is left, and its value.
        """
        for name, value in self._values.items():
            is_off = value is None or value is False or (value in (0, "", [], {}) and value is not True)
            if name not in self._read and name not in known and not is_off:
                raise WavecastError(
                    f"{self._place}.{str(name)[:60]} is {shown(value)}, and nothing is known of it",
                    UNSUPPORTED,
                )

    def unsupported(self, name: str, value: Any, supported: str) -> WavecastError:
        """Make the error that names a value, and what is supported in its place."""
        return WavecastError(f"{self._place}.{name} is {shown(value)}, supported is {supported}", UNSUPPORTED)


def _number(value: Any) -> float:
    """Read a number; YAML takes some for text, like 1e-5. What is none becomes one that no comparison accepts."""
    try:
        return nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return nan


def shown(value: Any) -> str:
    """Make a value fit for a message: printable, and short."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
