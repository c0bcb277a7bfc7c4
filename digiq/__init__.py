"""DigiQ: offline Q-function learning for device-control agents.

Features of a frozen vision-language model are extracted once; small Q- and V-heads learn on them by temporal
difference; a policy is extracted by Best-of-N and evaluated on devices. Every stage lives in a folder of its name:
``data``, ``vlm``, ``policies``, ``proposals``, ``features``, ``critics``, ``extraction``, ``agents``, ``evaluation``.

Importing this package is light: JAX, torch and transformers load only in the stages that use them.
"""

__version__ = "0.1.0"
