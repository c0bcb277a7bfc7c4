"""The facts of a pre-training scene, as answers to the prompts' read-out questions."""

from __future__ import annotations

import re

from android_env.actions import Action, ActionType
from android_env.devices.simulated.screen import FIELD_ROLES, Element
from digiq.vlm.tiny.architecture import KINDS
from digiq.vlm.tiny.screens import Scene

YES, NO, NONE = "yes", "no", "none"
_CLOSING = re.compile(r"accept|reject|close|later|ok|cancel|allow|deny|got it|no thanks", re.IGNORECASE)


def named_part(scene: Scene, text: str) -> str:
    """Which of the goal's names a text is: ``place``, ``query`` or ``none``.

    A site may also be named without its ending, as in titles and icons. A product's name may continue after the query.
    """
    text, goal = text.lower().strip(), scene.goal
    place, query = goal.place.lower(), goal.query.lower()
    if place and text in (place, place.split(".")[0]):
        return "place"
    if query and (text == query or text.startswith(f"{query} ")):
        return "query"
    return NONE


def typed_fits(scene: Scene, text: str) -> bool:
    """Whether ``text`` is what the goal requires in the screen's field: the place in an address bar, else the query."""
    field = scene.field_element
    part = named_part(scene, text)
    if field is not None and field.role == "url_bar":
        return part == "place" and ("." not in scene.goal.place or text.lower() == scene.goal.place.lower())
    return part != NONE and text.lower() in (scene.goal.query.lower(), scene.goal.place.lower())


def reached(scene: Scene) -> bool:
    """Whether the screen shows what the goal requires."""
    goal = scene.goal
    at_place = not goal.place or not scene.address or scene.address == goal.place
    if scene.overlay:
        return False
    if goal.entry:
        return scene.kind == "details" and at_place
    if goal.query and "." in goal.place:
        return scene.kind == "product list" and scene.query == goal.query and at_place
    return scene.kind == "site home" and bool(goal.place) and scene.address == goal.place


def pair_answers(scene: Scene, action: Action, element: Element | None) -> dict[str, str]:
    """Answers to the pair prompt's questions; ``element`` is the topmost one at the touched point, if any."""
    if action.type is ActionType.DUAL_POINT and action.is_tap:
        return _tap_answers(scene, element)
    kind, part, fits, changes = "", NONE, False, False
    field = scene.field_element
    focused = field is not None and "focused" in field.flags and not scene.overlay
    if action.type is ActionType.TYPE:
        kind = field.role if focused and field else ""
        part = named_part(scene, action.text)
        fits, changes = focused and typed_fits(scene, action.text), focused
    elif action.type is ActionType.PRESS_ENTER:
        kind = field.role if focused and field else ""
        part = named_part(scene, field.text) if focused and field else NONE
        fits = bool(focused and field and typed_fits(scene, field.text))
        changes = bool(focused and field and field.text)
    elif action.type is ActionType.STATUS_TASK_COMPLETE:
        fits = reached(scene)
    elif action.type in (ActionType.PRESS_BACK, ActionType.PRESS_HOME):
        changes = scene.kind != "launcher"
    if scene.screen.loading:
        fits, changes = fits and action.type is ActionType.STATUS_TASK_COMPLETE, False
    return _answers(kind, part, fits, changes)


def _tap_answers(scene: Scene, element: Element | None) -> dict[str, str]:
    if scene.screen.loading:
        return _answers("loading", NONE, False, False)
    if element is None:
        return _answers("", NONE, False, False)
    part = named_part(scene, element.text)
    if part == NONE and element.role == "result_row":
        part = named_part(scene, element.detail)
    if element.id == scene.first and scene.goal.entry and scene.query == scene.goal.query:
        part = "first entry"
    fits = part != NONE and element.tappable and element.role not in FIELD_ROLES
    if part == NONE or element.role in FIELD_ROLES:
        leads = (
            (element.role == "search_box" and bool(scene.goal.query))
            or (element.role == "url_bar" and "." in scene.goal.place)
            or (element.role == "dialog_button" and bool(_CLOSING.fullmatch(element.text)))
        )
        part = "way" if leads else part if part != NONE else NONE
    live = element.tappable and "disabled" not in element.flags
    changes = live and not (element.role in FIELD_ROLES and "focused" in element.flags)
    return _answers(element.role, part, fits and live, changes)


def _answers(role: str, part: str, fits: bool, changes: bool) -> dict[str, str]:
    return {
        "kind": KINDS[role],
        "part": part,
        "fits": YES if fits else NO,
        "changes": YES if changes else NO,
    }


def observation_answers(scene: Scene) -> dict[str, str]:
    """Answers to the observation prompt's questions."""
    field = scene.field_element
    if field is None:
        right = NONE
    elif not field.text:
        right = "empty"
    else:
        right = YES if typed_fits(scene, field.text) else NO
    return {
        "screen": scene.kind,
        "overlay": KINDS[scene.overlay] if scene.overlay else NONE,
        "field": right,
        "query": NONE if not scene.query else YES if scene.query == scene.goal.query else NO,
        "address": NONE if not scene.address else YES if scene.address == scene.goal.place else NO,
    }
