"""A stage that takes no time, for tests of what runs stages: it counts its inputs, or fails for want of a file."""

import os
import time
from pathlib import Path

from digiq import artifacts
from digiq.config import configclass
from digiq.errors import DigiQError

STAGE, VERSION = "toy", 1


@configclass
class ToyConfig:
    """What to write, a file without which it fails, one that it tells its process in, and how long to wait."""

    text: str = ""
    needs: str = ""
    tells: str = ""
    seconds: float = 0.0


def run(
    config: ToyConfig,
    *,
    first: Path | None = None,
    second: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> artifacts.Artifact:
    """Writes ``text`` after the texts of its inputs."""
    with artifacts.write(
        out,
        stage=STAGE,
        version=VERSION,
        config=config,
        inputs={"first": first, "second": second},
        overwrite=overwrite,
    ) as writer:
        if writer.done:
            return writer.artifact
        if config.needs and not Path(config.needs).exists():
            raise DigiQError(f"{config.needs} is not there.")
        if config.tells:
            artifacts.atomic_write_text(Path(config.tells), str(os.getpid()))
        time.sleep(config.seconds)
        read = [(path / "text").read_text() for path in (first, second) if path is not None]
        (writer.path / "text").write_text("".join([*read, config.text]))
        return writer.complete()
