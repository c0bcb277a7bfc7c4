"""The ``export`` stage: a critic's preferences as training data for TRL and LLaMA-Factory, to tune an agent on."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from android_env.actions import Action
from android_env.errors import ActionError
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.critics.critic import candidate_values, load_critic
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode, Step
from digiq.dialects.base import Dialect, Screen
from digiq.dialects.choice import DialectConfig
from digiq.errors import ArtifactError, DigiQError
from digiq.features.extract import open_features
from digiq.progress import progress
from digiq.proposals.asking import TEMPLATE, read_template
from digiq.proposals.propose import Proposals, load_proposals

STAGE, VERSION = "export", 1
DATA, CARD, IMAGES = "data.jsonl", "README.md", "images"


@configclass
class ExportConfig:
    """What is exported, and how it is written."""

    format: Literal["trl-sft", "trl-dpo", "sharegpt"] = "trl-dpo"
    """``trl-sft``: the best candidate of each kept state, as prompt and completion. ``trl-dpo``: pairs of a better and
    a worse candidate. ``sharegpt``: as ``trl-sft``, in LLaMA-Factory's format."""
    say: DialectConfig = DialectConfig()
    """The dialect that actions are written in: that of the agent to be tuned."""
    prompt: Path | None = None
    """A file with the agent's prompt, with ``{manual}``, ``{goal}`` and ``{past}``. None takes that of ``propose
    --source endpoint``."""
    history: Annotated[int, Field(ge=0)] = 4
    """Number of past actions in the prompt."""
    threshold: float | None = 0.0
    """``trl-sft`` and ``sharegpt``: keep a state if the best candidate's Q exceeds the critic's baseline by more than
    this, in units of return; none keeps all."""
    margin: Annotated[float, Field(ge=0)] = 0.1
    """``trl-dpo``: least difference of Q in a pair, in units of return."""
    pairs: Annotated[int, Field(ge=1)] = 2
    """``trl-dpo``: most pairs per state; the best candidate is paired with those nearest below the margin."""
    images: Literal["referenced", "embedded"] = "referenced"
    """``referenced``: files in ``images``, one per screen; ``embedded``: base64 in each row."""
    split: str = "train"
    """Export only episodes of this split."""


def run(
    config: ExportConfig,
    *,
    episodes: Path,
    proposals: Path,
    features: Path,
    critic: Path,
    out: Path,
    rewards: Path | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Writes ``data.jsonl``, a card, and the screens.

    Raises:
      DigiQError: the artefacts are of different episodes, or nothing is left to export.
    """
    inputs = {
        "episodes": episodes,
        "proposals": proposals,
        "features": features,
        "critic": critic,
        "rewards": rewards,
    }
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        store, candidates = LabelledEpisodes(episodes, rewards), load_proposals(proposals)
        q, baseline = candidate_values(load_critic(critic), open_features(features))
        if q.shape != candidates.valid.shape:
            raise ArtifactError(
                f"{features}: has {q.shape} states and candidates, but {proposals} has {candidates.valid.shape}; name "
                "those of one run."
            )
        exporter = _Exporter(config, w.path)
        lines: list[str] = []
        counts = {"rows": 0, "states": 0, "kept_states": 0, "unwritable": 0}
        with progress("export", len(q), unit="states") as bar:
            for s, episode, step, past in _states(store):
                bar.advance(1)
                if episode.split != config.split or episode.copy_of:
                    continue
                rows = list(exporter.rows(s, step, past, candidates, q[s], baseline[s]))
                counts["states"] += 1
                counts["kept_states"] += bool(rows)
                lines += [json.dumps(row, ensure_ascii=False) for row in rows]
        counts |= {"rows": len(lines), "unwritable": exporter.unwritable, "images": len(exporter.written)}
        if not lines:
            raise DigiQError(
                f"{episodes}: no state of split '{config.split}' has anything to export; lower threshold or margin."
            )
        artifacts.atomic_write_text(w.path / DATA, "\n".join(lines) + "\n")
        artifacts.atomic_write_text(w.path / CARD, _card(config, counts, inputs))
        return w.complete(counts=counts)


class _Exporter:
    def __init__(self, config: ExportConfig, path: Path):
        self.config, self.path = config, path
        self.dialect: Dialect = config.say.chosen
        self.template = TEMPLATE if config.prompt is None else read_template(config.prompt)
        self.written: set[str] = set()
        self.unwritable = 0

    def rows(
        self,
        s: int,
        step: Step,
        past: Sequence[Action],
        proposals: Proposals,
        q: np.ndarray,
        baseline: float,
    ) -> Iterator[dict[str, Any]]:
        """The rows of one state."""
        distinct: dict[Action, float] = {}
        for n in np.flatnonzero(proposals.valid[s] & ~np.isnan(q)):
            distinct.setdefault(proposals.action(s, int(n)), float(q[n]))
        if not distinct:
            return
        with Image.open(io.BytesIO(step.screenshot)) as image:
            screen = (image.height, image.width)
        said = {action: words for action in distinct if (words := self._words(action, screen)) is not None}
        ranked = sorted(said, key=lambda action: -distinct[action])
        if not ranked:
            return
        best = ranked[0]
        if self.config.format != "trl-dpo":
            threshold = self.config.threshold
            if threshold is None or distinct[best] - baseline > threshold:
                yield self._row(step, past, screen, {"completion": said[best]}, {"q": distinct[best]})
            return
        worse = [
            a for a in ranked if distinct[best] - distinct[a] >= self.config.margin and said[a] != said[best]
        ]
        for action in worse[: self.config.pairs]:
            values = {"q_chosen": distinct[best], "q_rejected": distinct[action]}
            yield self._row(step, past, screen, {"chosen": said[best], "rejected": said[action]}, values)

    def _words(self, action: Action, screen: Screen) -> str | None:
        try:
            return self.dialect.write(action, screen)
        except ActionError:
            self.unwritable += 1
            return None

    def _row(
        self,
        step: Step,
        past: Sequence[Action],
        screen: Screen,
        answers: dict[str, str],
        values: dict[str, float],
    ) -> dict[str, Any]:
        done = [self._words(action, screen) for action in past[len(past) - self.config.history :]]
        text = self.template.format(
            manual=self.dialect.manual,
            goal=step.goal,
            past="".join(f"Before: {words}\n" for words in done if words is not None),
        )
        image = self._image(step.screenshot)
        if self.config.format == "sharegpt":
            talk = [
                {"from": "human", "value": f"<image>{text}"},
                {"from": "gpt", "value": answers["completion"]},
            ]
            return {"conversations": talk, "images": [image], **values}
        prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        told = {
            key: [{"role": "assistant", "content": [{"type": "text", "text": words}]}]
            for key, words in answers.items()
        }
        return {"prompt": prompt, **told, "images": [image], **values}

    def _image(self, data: bytes) -> str:
        kind = {b"\x89P": "png", b"\xff\xd8": "jpeg", b"RI": "webp"}.get(data[:2], "png")
        if self.config.images == "embedded":
            return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        name = f"{IMAGES}/{hashlib.sha256(data).hexdigest()[:20]}.{kind}"
        if name not in self.written:
            (self.path / IMAGES).mkdir(exist_ok=True)
            artifacts.atomic_write_bytes(self.path / name, data)
            self.written.add(name)
        return name


def load_export(path: str | Path) -> list[dict[str, Any]]:
    """The rows of an ``export`` artefact with images opened (PIL, RGB), for ``datasets.Dataset.from_list``.

    Raises:
      ArtifactError: absent, unfinished, or an image is missing.
    """
    folder = artifacts.open(path, stage=STAGE).path
    rows = []
    for line in (folder / DATA).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row["images"] = [_opened(folder, image) for image in row["images"]]
        rows.append(row)
    return rows


def _opened(folder: Path, image: str) -> Image.Image:
    _, embedded, data = image.partition(";base64,")
    try:
        content = base64.b64decode(data) if embedded else (folder / image).read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise ArtifactError(
            f"{folder}: image {image[:60]} cannot be read ({error}); run 'export' again."
        ) from None


def _states(episodes: LabelledEpisodes) -> Iterator[tuple[int, Episode, Step, tuple[Action, ...]]]:
    """Every row of ``observation_index``, in its order, with the actions before it."""
    s = 0
    for episode in episodes:
        past: tuple[Action, ...] = ()
        for step in episode.steps:
            if step.is_terminal:
                continue
            yield s, episode, step, past
            s += 1
            if step.action is not None:
                past = (*past, step.action)


def _card(config: ExportConfig, counts: dict[str, int], inputs: dict[str, Path | None]) -> str:
    how = {
        "trl-sft": "The completion is the candidate of highest Q, where it exceeds the critic's baseline by more than "
        f"{config.threshold}.",
        "sharegpt": "The answer is the candidate of highest Q, where it exceeds the critic's baseline by more than "
        f"{config.threshold}.",
        "trl-dpo": "`chosen` is the candidate of highest Q, `rejected` one whose Q is at least "
        f"{config.margin} lower; at most {config.pairs} pairs per state.",
    }[config.format]
    sources = "\n".join(
        f"- {name}: {artifacts.content_digest(path)[:16]}"
        for name, path in inputs.items()
        if path is not None
    )
    registry = {"conversations": "conversations", "images": "images"}
    extra = (
        "\nFor LLaMA-Factory, in its `dataset_info.json`:\n\n```json\n"
        + json.dumps({"digiq": {"file_name": DATA, "formatting": "sharegpt", "columns": {"messages": registry["conversations"], "images": "images"}}})
        + "\n```\n"
        if config.format == "sharegpt"
        else ""
    )  # fmt: skip
    return f"""# Training data ranked by a learned Q

Format: `{config.format}`. Actions are written in the dialect `{config.say.dialect}`. {how}

{counts["rows"]} rows from {counts["kept_states"]} of {counts["states"]} states of split `{config.split}`; images are {config.images}.
Each row has the Q values that ranked it. Q is an estimate from logged episodes, not a fact: look at some rows, and
evaluate any model tuned on them.

Made from (content digests):

{sources}

`digiq.extraction.export.load_export(folder)` opens the rows with their images, for `datasets.Dataset.from_list`.
{extra}"""
