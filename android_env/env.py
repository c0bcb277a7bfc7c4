"""`AndroidEnv`: a device, tasks and an evaluator as a gymnasium environment."""

from __future__ import annotations

from android_env.devices import Observation

__all__ = ["Observation"]
