"""Optional packages, and the extras that install them."""

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
"""The extra that installs each package, by the name under which the package is imported."""


def mend(package: str) -> str:
    """What to do about a missing package."""
    return f"needs the package '{package}', which 'pip install digiq[{EXTRAS[package]}]' installs"


def require(packages: Sequence[str], who: str) -> None:
    """Checks that packages are installed, without importing them.

    Args:
      packages: names under which they are imported; each is in :data:`EXTRAS`.
      who: what needs them, for the error.

    Raises:
      DigiQError: a package is not installed; the message names the extra that installs it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise DigiQError(f"{who} {mend(package)}.")
