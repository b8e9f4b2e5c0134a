"""`python -m wavecast` is `wavecast`."""

from wavecast.main import script

if __name__ == "__main__":
    script()
