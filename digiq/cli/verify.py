"""``digiq verify``: re-reads every file of a run's artefacts and checks it."""

from __future__ import annotations

import shlex
from pathlib import Path

from digiq import artifacts
from digiq.cli.following import say_next
from digiq.errors import ArtifactError, ConfigError

HELP = """usage: digiq verify RUN

Reads every file of every artefact below RUN and checks it against its checksum, even if it was verified before.
Prints one line per artefact, and what to rebuild. Exit status 1 if anything is missing, changed or unfinished.

  digiq verify runs/quickstart"""


def main(arguments: list[str]) -> None:
    """Runs ``digiq verify RUN``."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(HELP)
        return
    from digiq.pipeline.run import RECIPE

    root = Path(arguments[0])
    found = {file.parent for name in (artifacts.MANIFEST, artifacts.CHECKSUMS) for file in root.rglob(name)}
    if not found:
        raise ConfigError(f"{root}: holds no artefact; name the directory of a run.")
    # A stage leaves a lock where it wrote; without a manifest beside it, the stage was not completed.
    found |= {file.parent for file in root.rglob(artifacts.LOCK)}
    wrong: list[Path] = []
    for path in sorted(found):
        problem, count = verify(path)
        wrong += [path] * bool(problem)
        print(f"{'WRONG' if problem else 'ok':5}  {path}  {problem or f'{count} files'}")
    rebuild = (
        f"{len(wrong)} of {len(found)} to rebuild: delete them and run the recipe again; the rest is kept."
    )
    print(f"\n{rebuild if wrong else 'Everything is as it was written.'}")
    recipe = root / RECIPE
    if not wrong:
        say_next("verify", run=root)
    elif recipe.is_file():
        say_next("verify, damaged", damaged=shlex.join(map(str, wrong)), recipe=recipe)
    raise SystemExit(1 if wrong else 0)


def verify(path: Path) -> tuple[str, int]:
    """What is wrong with the artefact, empty if it is intact; and its number of files."""
    try:
        if not (path / artifacts.MANIFEST).is_file():
            if (path / artifacts.LOCK).exists():
                return f"{path / artifacts.MANIFEST}: missing; run its stage again with --overwrite.", 0
            artifacts.check_directory(path, ())
            return "", len(artifacts.checksums(path))
        manifest = artifacts.read_manifest(path)
        artifacts.Artifact(path, manifest).verify()
        _read_rows(path, manifest)
    except ArtifactError as error:
        return str(error), 0
    return "", len(manifest.files)


def _read_rows(path: Path, manifest: artifacts.Manifest) -> None:
    """Reads the rows of features, whose store has checksums of its own, which reading verifies."""
    if manifest.stage in ("featurize", "import-features"):
        from digiq.features.extract import load_features

        load_features(path)
