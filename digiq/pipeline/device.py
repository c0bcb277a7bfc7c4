"""One switch for the device that a run computes on, for the stages of both torch and JAX.

A recipe has a field for each of torch's stages; JAX's device applies to the whole process. ``place`` sets all of them,
except for fields that the recipe or the command line sets.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from typing import TYPE_CHECKING

from digiq.errors import ConfigError

if TYPE_CHECKING:
    from digiq.pipeline.recipe import Recipe

_TORCH = ("tune_vlm", "featurize")
_KNOWN = re.compile(r"cpu|tpu|cuda(:\d+)?")
_JAX_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def place(recipe: Recipe, device: str, said: tuple[str, ...] = ()) -> tuple[Recipe, dict[str, str]]:
    """The recipe on a device, and the environment variables that JAX needs for it.

    Args:
      recipe: the recipe as it was read.
      device: cpu, cuda, cuda:1, ..., or tpu.
      said: fields that are set elsewhere, such as ``featurize.device``.

    Returns:
      The recipe, whose torch stages run on the device unless they say otherwise, and environment variables. If one of
      several GPUs is chosen, the run sees only that one, so that torch and JAX use the same.

    Raises:
      ConfigError: the device is unknown, JAX has no wheel for it, or torch's stages cannot run on it.
    """
    if not _KNOWN.fullmatch(device):
        raise ConfigError(f"--device {device}: unknown; use cpu, cuda, cuda:1 and so on, or tpu.")
    kind, _, number = device.partition(":")
    environment = {"JAX_PLATFORMS": "cpu" if kind == "cpu" else f"{kind},cpu"}
    if number:
        environment["CUDA_VISIBLE_DEVICES"] = number
    if kind == "cuda" and not any(map(importlib.util.find_spec, _JAX_CUDA)):
        raise ConfigError(f"--device {device}: JAX has no CUDA wheel here; install one (docs/install.md).")
    if kind == "tpu" and importlib.util.find_spec("libtpu") is None:
        raise ConfigError("--device tpu: JAX has no TPU wheel here; install one (docs/install.md).")
    changes = {}
    for stage in _TORCH:
        config = getattr(recipe, stage)
        if config is None or f"{stage}.device" in said or config.device != "cpu":
            continue
        if kind == "tpu":
            raise ConfigError(
                f"--device tpu: {stage} runs on torch, which cannot use a TPU here; add --{stage.replace('_', '-')}.device cpu, or "
                "featurise on another machine."
            )
        changes[stage] = dataclasses.replace(config, device=kind)
    return dataclasses.replace(recipe, **changes), environment


def take_option(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Takes ``--device X`` or ``--device=X`` out of a command line; returns X and the other arguments."""
    rest, found = [], None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--device":
            found = next(waiting, "")
        elif argument.startswith("--device="):
            found = argument.partition("=")[2]
        else:
            rest.append(argument)
    return found, rest
