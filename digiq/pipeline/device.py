"""One switch for where a run computes: torch's stages and JAX's.

A recipe has a field for each of torch's stages; JAX takes the whole process. ``place`` moves all of them; a field that the recipe or
the command line sets itself stays as it is.
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
    """The recipe on a device, and the environment that JAX needs for it.

    Args:
      recipe: as it was read.
      device: cpu, cuda, cuda:1, ..., or tpu.
      said: fields that are set elsewhere, such as ``featurize.device``.

    Returns:
      The recipe, whose torch stages run there unless they say otherwise, and environment variables. One GPU of several is
      the only one that the run sees, so that torch and JAX mean the same.

    Raises:
      ConfigError: no such device, JAX has no wheel for it, or torch's stages cannot run there.
    """
    if not _KNOWN.fullmatch(device):
        raise ConfigError(f"--device {device}: one of cpu, cuda, cuda:1 and so on, tpu.")
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
                f"--device tpu: {stage} runs on torch, which does not use one here; add --{stage.replace('_', '-')}.device cpu, or "
                "featurise on another machine."
            )
        changes[stage] = dataclasses.replace(config, device=kind)
    return dataclasses.replace(recipe, **changes), environment


def take_option(arguments: list[str]) -> tuple[str | None, list[str]]:
    """``--device X`` or ``--device=X`` out of a command line, and what is left."""
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
