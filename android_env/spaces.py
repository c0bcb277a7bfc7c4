"""`AnyText`: the space of all strings up to a maximum length."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import create_shared_memory


class AnyText(spaces.Text):
    """Strings of any characters up to a maximum length; samples consist of letters and digits."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length


@create_shared_memory.register(AnyText)
def _refuse(space: AnyText, n: int = 1, ctx: Any = None) -> Any:
    # gymnasium's own allows only letters and digits, and is read only once, so texts would keep their first value.
    raise CustomSpaceError(
        "texts do not fit gymnasium's shared memory; give AsyncVectorEnv shared_memory=False."
    )
