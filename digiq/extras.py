"""Packages that the core does without, and the extras that bring them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from digiq.errors import DigiQError

EXTRAS = {
    "accelerate": "vlm",
    "appium": "appium",
    "miniwob": "miniwob",
    "num2words": "vlm",
    "peft": "vlm",
    "ray": "ray",
    "safetensors": "vlm",
    "selenium": "appium",
    "tokenizers": "vlm",
    "torch": "vlm",
    "transformers": "vlm",
}
"""By package, as it is imported."""


def mend(package: str) -> str:
    """What to do about a package that is not there."""
    return f"needs the package '{package}', which 'pip install digiq[{EXTRAS[package]}]' brings"


def require(packages: Sequence[str], who: str) -> None:
    """Looks for packages without importing them.

    Args:
      packages: as they are imported; each is in :data:`EXTRAS`.
      who: needs them, for the error.

    Raises:
      DigiQError: one is not installed; names the extra that brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise DigiQError(f"{who} {mend(package)}.")
