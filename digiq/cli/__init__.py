"""The ``digiq`` command.

There is one sub-command per stage, and ``run`` for all of them. Each stage's options are the fields of its config and
the artefacts that it reads, so ``--help`` shows the documentation of the configuration.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from digiq.cli.boundary import one_sentence
from digiq.errors import DigiQError
from digiq.pipeline.stages import STAGES
from digiq.processes import INTERRUPTED, TERMINATED
from digiq.switches import DEBUG, RAY, TRUST_CODE, TRUST_REMOTE_CODE

ALIASES = {"import-aitw": ("import", "aitw")}
"""Older names: the command, and the member whose settings are options without a prefix."""
COMMANDS = ("recipes", "init", "doctor", "status", "view", "compare", "rejudge", "verify", "devices")
"""Commands that are not stages; each has a module of its name here, with a ``main``."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Silences libraries that report at length when they load weights; variables that are already set stay."""
FLAGS = {"--trust-code": TRUST_CODE, "--trust-remote-code": TRUST_REMOTE_CODE, "--debug": DEBUG, "--ray": RAY}
"""Switches of every command, and the environment variables that they set."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; errors that a user can fix are one line, with exit status 2."""
    whole = arguments is None  # whether this is the main of the process
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # The user's own members (digiq.tables) are imported from the current directory, after everything that is installed,
    # whether the console script or ``digiq run`` started this process.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for flag, variable in FLAGS.items():
        if flag in arguments:
            arguments.remove(flag)
            os.environ[variable] = "1"  # inherited by stages in processes of their own
    if os.environ.get(DEBUG) != "1":
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        with one_sentence(inner=arguments[:1] in (["run-node"], ["serve-nodes"])):
            _dispatch(arguments)
    except SystemExit as stop:
        if whole and stop.code in (INTERRUPTED, TERMINATED):
            # Everything has been cleaned up. Native threads that still run, such as XLA's while it compiles, would
            # crash the interpreter during its shutdown.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code)
        raise


def usage() -> str:
    """The overview that ``digiq --help`` prints."""
    width = max(map(len, STAGES))
    lines = [f"  {name:<{width}}  {stage.about}" for name, stage in STAGES.items()]
    return "\n".join(
        [
            "usage: digiq COMMAND [options]",
            "",
            "Offline Q-learning for device-control agents. Start with:",
            "",
            "  digiq run quickstart        the whole method on the embedded phone",
            "  digiq run quickstart --help what people change in a recipe; --help-all shows every field",
            "  digiq recipes               the recipes that come with the package",
            "  digiq init mine.yaml        a recipe for logs of your own",
            "  digiq doctor                what this machine has and lacks, and how to mend it",
            "",
            "Stages, in order; each reads and writes artefact directories:",
            "",
            *lines,
            "",
            "Looking at a run:",
            "",
            "  status  its stages, how far each is, and the next command: digiq status runs/quickstart",
            "  view    its episodes in the browser, with candidates, Q and V: digiq view runs/quickstart",
            "  card    what its offline data is like: digiq card runs/quickstart",
            "  verify  reads every file again, and says what to rebuild: digiq verify runs/quickstart",
            "",
            "Studies and comparisons:",
            "",
            "  study    many arms and seeds as one graph, with records and a page: digiq study configs/study/worth.yaml",
            "  compare  which of two evaluations is the better one, with intervals: digiq compare A B",
            "  rejudge  judges recorded episodes again: digiq rejudge runs/night/recordings --judge.name rules",
            "",
            "Devices:",
            "",
            "  digiq devices doctor   what this machine lacks for Android emulators, and how to mend it",
            "  digiq devices start    brings emulators up and keeps them",
            "",
            "digiq COMMAND --help explains a command; digiq COMMAND FILE.yaml reads its config from a file. Your own classes",
            "are named package.module:Class. Code that only an artefact names is imported only with --trust-code, and code",
            "in a model directory only with --trust-remote-code. --debug shows where an error happened. --ray plays",
            "evaluations on the devices of a Ray cluster.",
        ]
    )


def welcome() -> str:
    """The text that ``digiq`` without arguments prints: the pipeline, and what to do first."""
    return """DigiQ trains agents that operate phones and web pages from logged episodes alone.

  collect or import ─► fit-policy ─► propose ─► tune-vlm, featurize ─► train-q ─► distill ─► evaluate
  episodes             behaviour     N actions  a frozen VLM, once     Q and V    a policy   on devices

  digiq run quickstart      all of it on the embedded phone: minutes on a laptop, nothing to download
  digiq init mine.yaml      a recipe for logs of your own
  digiq doctor              what this machine has and lacks

A run is a directory. 'digiq status RUN' says how far it is and what comes next, 'digiq view RUN' shows its episodes.
'digiq --help' lists all commands."""


def _dispatch(arguments: list[str]) -> None:
    if not arguments:
        print(welcome())
        return
    if arguments[0] in ("-h", "--help"):
        print(usage())
        return
    command, rest = arguments[0], arguments[1:]
    if command == "evaluate" and "--offline" in rest:
        command, rest = "offline", [argument for argument in rest if argument != "--offline"]
    if command == "evaluate" and any(argument.partition("=")[0] == "--proposer" for argument in rest):
        command = "evaluate-agent"
    if command == "--version":
        from digiq import __version__

        print(f"digiq {__version__}")
    elif command == "run":
        from digiq.cli.run import main as run

        run(rest)
    elif command in ("study", "card"):
        from digiq.cli import study

        {"study": study.main, "card": study.card}[command](rest)
    elif command in ("run-node", "serve-nodes"):
        from digiq.cli import node

        {"run-node": node.main, "serve-nodes": node.serve}[command](rest)
    elif command in COMMANDS:
        import importlib

        importlib.import_module(f"digiq.cli.{command}").main(rest)
    elif command in STAGES or command in ALIASES:
        from digiq.cli import stage as stages

        command, member = ALIASES.get(command, (command, ""))
        if member:
            rest = stages.with_member(STAGES[command], member, rest)
        if "--schema" in rest:
            print(stages.schema(STAGES[command], rest))
        else:
            rest = stages.with_source(STAGES[command], rest) if command == "import" else rest
            stages.main(command, STAGES[command], rest)
    else:
        import difflib

        near = difflib.get_close_matches(
            command,
            [*STAGES, "run", "study", "card", *COMMANDS],
            n=1,
        )
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise DigiQError(f"unknown command '{command}'.{hint} 'digiq --help' lists all commands.")
