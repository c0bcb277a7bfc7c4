"""Web tasks from MiniWoB++ (MIT, Farama Foundation): one page each, which states the goal and gives the reward itself.

The seed of an episode chooses the page's problem. `miniwob` has sixteen pages that have an oracle and that random taps
do not solve; `miniwob_all` has every page of the wheel that can be played with a finger.
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
"""Level and budget of actions, by page."""
TEST_PAGES: dict[str, tuple[int, int]] = {
    "simple-arithmetic": (2, 6),
    "search-engine": (3, 10),
    "social-media": (3, 10),
    "email-inbox-delete": (2, 6),
}
"""As `TRAIN_PAGES`, for the test split."""


UNPLAYABLE: dict[str, str] = {
    "chase-circle": "the pointer must hover over a circle that moves; a finger does not hover",
    "drag-cube": "the cube turns with every move of a mouse, at the speed of its events",
    "highlight-text": "text is selected by dragging a mouse; a finger scrolls",
    "highlight-text-2": "text is selected by dragging a mouse; a finger scrolls",
    "hover-shape": "the pointer must hover over a shape that moves; a finger does not hover",
    "hot-cold": "the hints depend on where the pointer hovers; a finger does not hover",
    "moving-items": "the items keep moving while the agent decides",
    "resize-textarea": "only a mouse can drag the corner of a text area",
    "text-editor": "text is selected by dragging a mouse; a finger scrolls",
    "copy-paste": "copying and pasting need key chords, which the action space lacks",
    "copy-paste-2": "copying and pasting need key chords, which the action space lacks",
}
"""Pages of the wheel that are not tasks, and why."""
_LONG = frozenset(
    {
        "book-flight",
        "book-flight-nodelay",
        "click-checkboxes-large",
        "choose-date",
        "choose-date-nodelay",
        "email-inbox-forward",
        "form-sequence-3",
        "guess-number",
        "number-checkboxes",
        "order-food",
        "phone-book",
        "simon-says",
        "social-media-all",
        "social-media-some",
        "stock-market",
        "tic-tac-toe",
        "buy-ticket",
        "daily-calendar",
    }
)
"""Pages that take more than a few actions."""


def all_tasks() -> tuple[Task, ...]:
    """A task for every page of the installed wheel that can be played with a finger; none if it is not installed.

    Pages of `tasks` keep their level, budget and split. The others are in the split `more`; some of them have no
    oracle, and random taps solve some.
    """
    known = {task.params["page"]: task for task in tasks()}
    from android_env.devices.miniwob import page_names
    from android_env.errors import SetupError

    try:
        names = page_names()
    except SetupError:
        names = sorted(known)
    made = []
    for page in names:
        if page in known:
            made.append(known[page])
        elif page not in UNPLAYABLE:
            steps = 20 if page in _LONG else 10
            params = {"page": page}
            made.append(Task(f"miniwob/{page}", f"MiniWoB++ {page}", "miniwob", 2, "more", params, steps))
    return tuple(made)


def tasks() -> tuple[Task, ...]:
    """All tasks of the family; `test_page` has pages that training never opens."""
    return tuple(
        Task(f"miniwob/{page}", f"MiniWoB++ {page}", "miniwob", level, split, {"page": page}, max_steps)
        for split, pages in (("train", TRAIN_PAGES), ("test_page", TEST_PAGES))
        for page, (level, max_steps) in pages.items()
    )
