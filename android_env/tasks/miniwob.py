"""Web tasks from MiniWoB++: a page each, which words the goal and gives the reward itself (MIT, Farama Foundation).

The seed of an episode chooses the page's problem. Pages whose gestures a finger cannot make (hovering, right clicks)
and pages that random taps solve are left out.
"""

from __future__ import annotations

from android_env.tasks.task import Task

TRAIN_PAGES: dict[str, tuple[int, int]] = {
    "click-link": (1, 4),
    "click-dialog-2": (1, 4),
    "grid-coordinate": (1, 4),
    "click-option": (1, 6),
    "click-tab-2": (2, 8),
    "click-collapsible-2-nodelay": (2, 8),
    "click-checkboxes": (2, 10),
    "enter-text": (2, 6),
    "enter-password": (2, 8),
    "login-user": (2, 8),
    "scroll-text-2": (3, 8),
    "terminal": (3, 8),
}
"""Level and budget of actions by page."""
TEST_PAGES: dict[str, tuple[int, int]] = {
    "simple-arithmetic": (2, 6),
    "search-engine": (3, 10),
    "social-media": (3, 10),
    "email-inbox-delete": (2, 6),
}
"""As `TRAIN_PAGES`, kept for the test split."""


def tasks() -> tuple[Task, ...]:
    """All tasks of the family; `test_page` holds pages that training never opens."""
    return tuple(
        Task(f"miniwob/{page}", f"MiniWoB++ {page}", "miniwob", level, split, {"page": page}, max_steps)
        for split, pages in (("train", TRAIN_PAGES), ("test_page", TEST_PAGES))
        for page, (level, max_steps) in pages.items()
    )
