"""Labels from a file: outcomes, rewards, scores of a process reward model, or the place of the first error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import ConfigDict, Field

from digiq.config import configclass
from digiq.data.labels.base import Unlabelled
from digiq.data.labels.outcome import Outcome
from digiq.data.rewards import Label
from digiq.data.schema import Episode, Outline
from digiq.data.transitions import outlines_of
from digiq.errors import DigiQError

Number = Annotated[float, Field(allow_inf_nan=False)]


class FileLine(pydantic.BaseModel):
    """One line: an episode, and one of ``outcome``, ``rewards``, ``step_scores`` and ``first_error``."""

    model_config = ConfigDict(extra="forbid")
    episode_id: str
    outcome: Literal["success", "failure"] | None = None
    """Pays 1 or 0 at the last action."""
    rewards: list[Number] | None = None
    """One per action."""
    step_scores: list[Number] | None = None
    """One per action, from a process reward model; each, times ``scale``, is that action's reward."""
    first_error: Annotated[int, Field(ge=0)] | None = None
    """Index of the first wrong action, from 0; the episode ends after it, as a failure."""
    source: str = ""
    """Where the label comes from; kept as its provenance."""

    @pydantic.model_validator(mode="after")
    def _one(self) -> FileLine:
        given = (self.outcome, self.rewards, self.step_scores, self.first_error)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of outcome, rewards, step_scores and first_error")
        return self


@configclass
class File:
    """A file of JSON lines, one per episode."""

    path: Path = Path("labels.jsonl")
    """Lines such as ``{"episode_id": "7", "first_error": 3, "source": "annotator"}``."""
    missing: Literal["error", "outcome", "leave_out"] = "error"
    """Whether an episode missing from the file stops the labelling, keeps its recorded rewards, or is left out and
    counted."""
    scale: float = 1.0
    """Reward for a step score of 1."""

    @staticmethod
    def schema() -> dict[str, object]:
        """JSON Schema of a line."""
        return FileLine.model_json_schema()

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled]:
        """See :class:`digiq.data.labels.base.Labels`."""
        lines = self._lines()
        recorded = {label.episode_id: label for label in Outcome().rewards(episodes)}
        for episode in outlines_of(episodes):
            line = lines.get(episode.episode_id)
            if line is not None:
                yield self._label(line, episode)
            elif self.missing == "outcome":
                yield recorded[episode.episode_id]
            elif self.missing == "leave_out":
                yield Unlabelled(episode.episode_id, f"{self.path} has no line about it")
            else:
                raise DigiQError(
                    f"{self.path}: has no line about episode {episode.episode_id}; add one, or set file.missing."
                )

    def _lines(self) -> dict[str, FileLine]:
        found: dict[str, FileLine] = {}
        try:
            texts = self.path.read_bytes().splitlines()
        except OSError as error:
            raise DigiQError(f"{self.path}: cannot be read ({error.strerror}); set file.path.") from None
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                continue
            try:
                line = FileLine.model_validate_json(text)
            except pydantic.ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "the line"
                raise DigiQError(f"{self.path}, line {number}: {field}: {first['msg']}.") from None
            if line.episode_id in found:
                raise DigiQError(
                    f"{self.path}, line {number}: episode {line.episode_id} appears twice; keep one line."
                )
            found[line.episode_id] = line
        return found

    def _label(self, line: FileLine, episode: Outline) -> Label:
        count, length = episode.num_actions, None
        paid: Sequence[float]
        if line.outcome is not None:
            paid = [0.0] * (count - 1) + [float(line.outcome == "success")]
        elif line.first_error is not None:
            if line.first_error >= count:
                raise DigiQError(
                    f"{self.path}: episode {line.episode_id}: first_error is {line.first_error}, but it has {count} actions."
                )
            length = line.first_error + 1
            paid = [0.0] * length
        else:
            given = line.rewards if line.rewards is not None else line.step_scores or []
            paid = given if line.rewards is not None else [self.scale * score for score in given]
            if len(paid) != count:
                raise DigiQError(
                    f"{self.path}: episode {line.episode_id}: {len(paid)} numbers for {count} actions."
                )
        return Label(
            episode_id=episode.episode_id,
            source_id=episode.episode_id,
            goal=None,
            rewards=tuple(paid),
            provenance=f"file {line.source}".strip(),
            length=None if length == count and episode.is_terminated else length,
        )
