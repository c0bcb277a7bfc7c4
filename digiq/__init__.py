"""DigiQ: offline Q-function learning for device-control agents.

Features of a frozen vision-language model are extracted once; small Q- and V-heads learn on them by temporal
difference; a policy is extracted by Best-of-N and evaluated on devices. Every stage lives in a folder of its name:
``data``, ``vlm``, ``policies``, ``proposals``, ``features``, ``critics``, ``extraction``, ``agents``, ``evaluation``.

Importing this package is light: JAX, torch and transformers load only in the stages that use them.
"""

import android_env

if not hasattr(android_env, "DIGIQ"):
    raise ImportError(
        f"'android_env' is {android_env.__file__}, not DigiQ's; DeepMind's package of that "
        "name, on which AndroidWorld depends, shadows it where both are installed. Install DigiQ into an environment of "
        "its own and reach AndroidWorld over its HTTP server (docs/android_env.md)."
    )

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Agent":
        from digiq.agents.reranked import Agent

        return Agent
    raise AttributeError(f"module 'digiq' has no attribute '{name}'")
