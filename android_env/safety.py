"""`SafetyList`: what an agent may not do, checked before an action is sent to the device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from android_env.actions import Action, ActionType
from android_env.devices import Observation

_LEAVING = frozenset(
    {
        ActionType.PRESS_BACK,
        ActionType.PRESS_HOME,
        ActionType.RECENT_APPS,
        ActionType.WAIT,
        ActionType.ANSWER,
        ActionType.STATUS_TASK_COMPLETE,
        ActionType.STATUS_TASK_IMPOSSIBLE,
    }
)
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?((?:[a-z0-9-]+\.)+[a-z]{2,})(?::\d+)?(/[^\s\"'<>]*)?", re.IGNORECASE
)


@dataclass(frozen=True)
class SafetyList:
    """Rules for refusing actions. Empty lists refuse nothing.

    An address that the agent types in several actions, or reaches by links, is not detected here; use a firewall.

    Raises:
        ValueError: a text pattern is not a regular expression.
    """

    packages: tuple[str, ...] = ()
    """Apps, by package name or glob. They may not be opened; while one is in front, only leaving it is allowed."""
    urls: tuple[str, ...] = ()
    """Addresses that may not be typed: a domain (including its subdomains) or a glob over `host/path`."""
    texts: tuple[str, ...] = ()
    """Regular expressions that must not match within typed text (case-insensitive)."""

    def __post_init__(self) -> None:
        for pattern in self.texts:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"safety text {pattern!r} is not a regular expression: {error}.") from None

    def refusal(self, action: Action, seen: Observation) -> str:
        """Why the action may not be executed on this observation; empty if it may."""
        package = seen.activity.partition("/")[0]
        if action.type not in _LEAVING and (pattern := _matching(package, self.packages)):
            return f"{package} is in front, and the safety list has the package {pattern!r}"
        if action.type is ActionType.OPEN_APP and (pattern := _matching(action.text, self.packages)):
            return f"the safety list has the package {pattern!r}"
        if action.type is ActionType.TYPE:
            for host, path in _URL.findall(action.text):
                if pattern := self._address(host.lower(), path):
                    return f"the safety list has the address {pattern!r}"
            for pattern in self.texts:
                if re.search(pattern, action.text, re.IGNORECASE):
                    return f"the safety list has the text {pattern!r}"
        return ""

    def _address(self, host: str, path: str) -> str:
        for pattern in self.urls:
            wanted = pattern.lower()
            domain = "/" not in wanted and (host == wanted or host.endswith(f".{wanted}"))
            if domain or fnmatchcase(host, wanted) or fnmatchcase(host + path.lower(), wanted):
                return pattern
        return ""


NO_SAFETY_LIST = SafetyList()


def _matching(name: str, patterns: tuple[str, ...]) -> str:
    return next((pattern for pattern in patterns if fnmatchcase(name.lower(), pattern.lower())), "")
