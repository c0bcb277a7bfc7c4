"""The notation of Auto-UI, DigiRL and Digi-Q: ``"action_type": "DUAL_POINT", "touch_point": "[y, x]", ...``."""

from __future__ import annotations

from android_env.actions import Action, ParseError, format_action, parse_action
from digiq.config import configclass
from digiq.dialects.base import Screen


@configclass
class DigiRL:
    """As written by :func:`android_env.actions.format_action`; coordinates are fractions of the screen."""

    def parse(self, text: str, screen: Screen) -> Action | ParseError:
        """See :class:`digiq.dialects.base.Dialect`."""
        return parse_action(text)

    def write(self, action: Action, screen: Screen) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        return format_action(action)

    @property
    def manual(self) -> str:
        """See :class:`digiq.dialects.base.Dialect`."""
        return (
            'Answer with one line: "action_type": "TYPE", "touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]", '
            '"typed_text": "...". The action types are DUAL_POINT (a tap where both points are the same, else a swipe; '
            "points are [y, x], fractions of the screen), TYPE, PRESS_BACK, PRESS_HOME, PRESS_ENTER, "
            "STATUS_TASK_COMPLETE and STATUS_TASK_IMPOSSIBLE."
        )
