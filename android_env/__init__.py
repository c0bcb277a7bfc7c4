"""Phones as environments: actions, devices, tasks, evaluators. Knows nothing of learning."""

import sys

DIGIQ = True
"""Distinguishes this package from DeepMind's, which has the same import name; ``digiq`` checks for it."""

_DEEPMINDS = ("apps", "components", "env_interface", "environment", "loader", "proto", "wrappers")
"""Submodules that DeepMind's package has and this one does not."""


class _DeepMinds:
    """An import finder that is asked last, for modules that no other finder has found."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        package, _, module = name.partition(".")
        if package == __name__ and module.partition(".")[0] in _DEEPMINDS:
            # No ModuleNotFoundError: "from android_env import loader" would swallow its message.
            raise ImportError(
                f"'{name}' belongs to DeepMind's package 'android_env', but {__file__} is DigiQ's package of the same name, "
                "which shadows it; install the two into separate environments (docs/android_env.md)."
            )


sys.meta_path.append(_DeepMinds)
