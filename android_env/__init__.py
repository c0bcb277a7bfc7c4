"""Phones as environments: actions, devices, tasks, evaluators. Knows nothing of learning."""

import sys

DIGIQ = True
"""Tells this package from DeepMind's of the same import name; ``digiq`` asks for it."""

_DEEPMINDS = ("apps", "components", "env_interface", "environment", "loader", "proto", "wrappers")
"""What DeepMind's package holds and this one does not."""


class _DeepMinds:
    """Asked last, for modules that no other finder has found."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        package, _, module = name.partition(".")
        if package == __name__ and module.partition(".")[0] in _DEEPMINDS:
            # No ModuleNotFoundError: "from android_env import loader" would swallow its message.
            raise ImportError(
                f"'{name}' is of DeepMind's package 'android_env', and {__file__} is DigiQ's package of the same name, "
                "which shadows it; install the two into separate environments (docs/android_env.md)."
            )


sys.meta_path.append(_DeepMinds)
