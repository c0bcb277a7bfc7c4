"""``digiq view``: shows a run's episodes with their candidates, Q and V in the browser."""

from __future__ import annotations

import dataclasses
import sys
import webbrowser
from pathlib import Path

import tyro

from digiq.errors import ConfigError

HELP = """usage: digiq view RUN [--html PATH] [options]

Shows the episodes of a run in the browser: screens with the candidates drawn on them and coloured by Q, Q, V, advantage and
log-probability of each, Q along the episode, and two critics or arms side by side. RUN is the directory of a run, or an
artefact of episodes or of an evaluation. Without --html the page is served to this machine alone, until Ctrl-C.

  digiq view runs/quickstart
  digiq view runs/quickstart --critics runs/iql runs/mc
  digiq view runs/quickstart --html page.html          one file with everything inside, to pass on
  digiq view runs/quickstart --html page               a folder, for long runs"""


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Shows a run's episodes with their candidates, Q and V."""

    run: tyro.conf.Positional[Path]
    """The directory of a run, of episodes or of an evaluation."""
    html: Path | None = None
    """Write the page instead of serving it: one file if this ends in .html, otherwise a folder."""
    critics: tuple[Path, ...] = ()
    """Further critics, trained on the run's features."""
    most: int | None = None
    """Maximum number of episodes per source."""
    port: int = 0
    """Port on which the page is served; 0: any free port."""
    open: bool = False
    """Open the browser."""


def main(arguments: list[str]) -> None:
    """Runs ``digiq view RUN``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    from digiq.cli.stage import parse
    from digiq.report.viewer.gather import RunView, find
    from digiq.report.viewer.pages import write
    from digiq.report.viewer.serve import ViewServer

    options = parse(ViewOptions, arguments, program="digiq view")
    if options.most is not None and options.most < 1:
        raise ConfigError(f"digiq view: --most is {options.most}; use at least 1.")
    run = options.run
    view = RunView(find(run, options.critics), f"DigiQ · {run.resolve().name}", options.most)
    if options.html is not None:
        size = write(view, options.html)
        page = options.html if options.html.is_file() else options.html / "index.html"
        print(f"{len(view)} episodes, {size / 2**20:.1f} MiB. Look at it: open {page}", file=sys.stderr)
        return
    server = ViewServer(view, options.port)
    try:
        print(
            f"{len(view)} episodes at {server.url}\nCtrl-C stops it; ? on the page lists its keys.",
            flush=True,
        )
        if options.open:
            webbrowser.open(server.url)
        server.serve()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
