"""What a keyword spotter tells apart: words, and what is none of them."""

from wavecast.datamodules.keyword_clips import SILENCE, UNKNOWN

REJECTED = (UNKNOWN, SILENCE)
"""Classes that are never an event."""
