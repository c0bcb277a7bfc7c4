"""DigiQ: offline Q-function learning for device-control agents.

Features of a frozen vision-language model are extracted once. Small Q- and V-heads learn on them by temporal
difference. A policy is extracted by Best-of-N and evaluated on devices. The code of the stages lives in ``data``,
``vlm``, ``policies``, ``proposals``, ``features``, ``critics``, ``extraction``, ``agents`` and ``evaluation``, in that
order.

Importing this package is light: JAX, torch and transformers load only in the stages that use them.
"""

import android_env

if not hasattr(android_env, "DIGIQ"):
    raise ImportError(
        f"'android_env' is {android_env.__file__}, not DigiQ's; DeepMind's package of that "
        "name, on which AndroidWorld depends, shadows it if both are installed. Install DigiQ into its own environment "
        "and reach AndroidWorld over its HTTP server (docs/android_env.md)."
    )

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Agent":
        from digiq.agents.reranked import Agent

        return Agent
    raise AttributeError(f"module 'digiq' has no attribute '{name}'")
