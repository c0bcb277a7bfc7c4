"""Android in the Zoo: one folder per episode, of a JSON file and PNGs; ids and points follow Android in the Wild.

Source: IMNearth/CoAT, ``data-example`` and README: a list of steps with ``instruction``, ``result_action_type``,
``result_touch_yx`` and ``ui_positions`` (JSON in strings, pixels) and a model's thoughts on each (``coat_*``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from android_env.actions import Action, ActionType
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.build import MEND, Frame, episode_of
from digiq.data.importers.files import files_under, other_format, source_folder
from digiq.data.importers.jsonl import size_of
from digiq.data.schema import Episode
from digiq.dialects.base import on_screen
from digiq.errors import DigiQError


@configclass
class AitZ:
    """Android in the Zoo's ``train`` and ``test`` folders, or any folder of their episodes."""

    source: Path = Path("android_in_the_zoo")
    """Folder with one folder per episode; those below a folder ``test`` form the split ``test``."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""

    def find(self) -> Sources:
        """See :class:`digiq.data.importers.base.Importer`."""
        source = source_folder(self.source, "aitz")
        files = [f for f in files_under(source) if f.suffix == ".json" and f.stem == f.parent.name]
        if not files:
            raise DigiQError(
                f"{source}: holds no folder with a JSON file of the same name (GENERAL-1/GENERAL-1.json)"
                f"{other_format(source, 'aitz')}."
            )
        return Sources(files)

    def read(self, part: Path) -> Iterator[Entry | BadEpisode]:
        """See :class:`digiq.data.importers.base.Importer`."""
        try:
            steps = json.loads(part.read_bytes())
            if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not steps:
                raise ValueError("not a list of steps")
            name = str(steps[0]["episode_id"])
        except (ValueError, KeyError, RecursionError) as error:
            yield BadEpisode(f"{part}: cannot be read ({error!r}); {MEND}")
            return
        yield Entry(name, functools.partial(self._make, part, name, steps))

    def _make(self, part: Path, name: str, steps: list[dict[str, Any]]) -> Episode:
        try:
            frames = [self._frame(part, t, step) for t, step in enumerate(steps)]
            if len(steps) != int(steps[0].get("episode_length", len(steps))):
                raise ValueError(
                    f"episode_length is {steps[0]['episode_length']}, but there are {len(steps)} steps"
                )
            inside = part.relative_to(self.source).parts
            return episode_of(
                frames,
                episode_id=name,
                goal=str(steps[0]["instruction"]),
                max_side=self.max_side,
                split="test" if "test" in inside else "train",
                task_id=part.parent.parent.name,
                policy="human",
            )
        except KeyError as error:
            raise BadEpisode(f"{part}: episode {name}: the field {error} is missing; {MEND}") from None
        except (ValueError, TypeError, OSError, AttributeError) as error:
            raise BadEpisode(f"{part}: episode {name}: {str(error).rstrip('.')}; {MEND}") from None

    def _frame(self, part: Path, t: int, step: dict[str, Any]) -> Frame:
        if int(step["step_id"]) != t:
            raise ValueError(f"step {t} has step_id {step['step_id']}")
        # The folder may have been moved; the image is beside the JSON file.
        image = (part.parent / Path(str(step["image_path"])).name).read_bytes()
        height, width = size_of(image, f"step {t}")
        boxes, texts, kinds = (_list(step.get(f"ui_{k}")) for k in ("positions", "text", "types"))
        elements = [
            {
                "text": str(texts[i]) if i < len(texts) else "",
                "role": str(kinds[i]) if i < len(kinds) else "",
                "yxhw": [round(v, 5) for v in (y / height, x / width, h / height, w / width)],
            }
            for i, (y, x, h, w) in enumerate(boxes)
        ]
        thoughts = {k.removeprefix("coat_"): v for k, v in step.items() if k.startswith("coat_")}
        return Frame(image=image, action=_action(step), ui_elements=elements, extras=thoughts)


def _action(step: dict[str, Any]) -> Action:
    kind = ActionType(int(step["result_action_type"]))
    if kind is ActionType.TYPE:
        return Action.type_text(str(step["result_action_text"]))
    if kind is not ActionType.DUAL_POINT:
        return Action(kind)
    touch, lift = (_list(step[f"result_{end}_yx"]) for end in ("touch", "lift"))
    if len(touch) != 2 or len(lift) != 2:
        raise ValueError("a DUAL_POINT needs two coordinates for touch and two for lift")
    start, end = ((on_screen(float(y)), on_screen(float(x))) for y, x in (touch, lift))
    return Action(kind, start, end)


def _list(value: Any) -> list[Any]:
    """The value if it is a list, or the list that it holds as JSON."""
    found = json.loads(value) if isinstance(value, str) else value
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{str(value)[:40]!r} is not a list")
    return found
