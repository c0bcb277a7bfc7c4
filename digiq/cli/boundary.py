"""The one place where errors become sentences: what went wrong, where, and how to fix it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Generator
from typing import Any

from android_env.errors import AndroidEnvError
from digiq.errors import DigiQError
from digiq.extras import EXTRAS, mend
from digiq.processes import INTERRUPTED, TERMINATED, exit_when_asked
from digiq.switches import DEBUG

_NOT_OURS = "this error is unexpected; add --debug to see where it happened"


@contextlib.contextmanager
def one_sentence(*, inner: bool = False) -> Generator[None, None, None]:
    """Ends a failed process with one line on standard error instead of a traceback: exit status 2, 130 if interrupted
    (Ctrl-C), 143 if terminated (SIGTERM).

    With :data:`digiq.switches.DEBUG` set, the traceback comes first.

    Args:
      inner: whether another process of this program started this one, and itself reports that it was stopped.
    """
    complaints = _Complaints()
    if os.environ.get(DEBUG) != "1":
        # Orbax logs, with a traceback, errors of its own thread that it then also raises here.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        sys.unraisablehook = complaints.add
    try:
        with exit_when_asked(lambda how: _stopped(how, inner)):
            yield
        complaints.release()
    except BrokenPipeError:
        # The reader of the output has closed the pipe (``digiq train-q --help | head``).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        _stopped("interrupted", inner)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _stopped("terminated", inner)
        raise
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            traceback.print_exc()
        else:
            # Unfinished work of libraries would complain once more while the interpreter shuts down.
            sys.unraisablehook = threading.excepthook = lambda _: None
        print(f"error: {explain(error)}", file=sys.stderr)
        raise SystemExit(2) from None


class _Complaints:
    """Complaints of libraries where nothing can be raised: printed if all goes well, and dropped if there is an error,
    as they result from it (a full disk closes an event loop, and tasks that waited for it complain)."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, unraisable: Any) -> None:
        """Replaces ``sys.unraisablehook``; keeps only text, as keeping the objects would resurrect them."""
        lines = traceback.format_exception(
            unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
        )
        self._texts.append(
            f"{unraisable.err_msg or 'Exception ignored in'}: {unraisable.object!r}\n{''.join(lines)}"
        )

    def release(self) -> None:
        """Prints the complaints so far, and leaves later ones to the interpreter."""
        sys.unraisablehook = sys.__unraisablehook__
        for text in self._texts:
            print(text, file=sys.stderr, end="")


def _stopped(how: str, inner: bool) -> None:
    if not inner:
        print(f"{how}; the same command goes on from here.", file=sys.stderr, flush=True)


def explain(error: BaseException) -> str:
    """One or two sentences about an error, with the file if it names one."""
    if isinstance(error, DigiQError | AndroidEnvError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in EXTRAS:
            return f"this {mend(package)}."
    # Libraries wrap errors of the system, so a full disk is looked for among the causes.
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            return _of_the_system(cause)
    if "No space left on device" in str(error):
        return "No space left on device; free some and run the same command again to go on."
    if isinstance(error, UnicodeError):
        return f"text that is not UTF-8 ({error}); save the file as UTF-8."
    first = " ".join(str(error).split())[:300] or "no message"
    return f"{type(error).__name__}: {first} ({_NOT_OURS})."


def _causes(error: BaseException | None) -> Generator[BaseException, None, None]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_the_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    mends = {
        errno.ENOSPC: "free some space and run the same command again to go on",
        errno.EDQUOT: "free some space and run the same command again to go on",
        errno.EACCES: "name a place that you may read and write",
        errno.EPERM: "name a place that you may read and write",
        errno.EROFS: "name a directory that can be written",
        errno.ENOTDIR: "a part of that path is a file; name another directory",
        errno.ENOENT: "check the path",
        errno.EISDIR: "that is a directory; name a file",
        errno.EEXIST: "a file of that name exists; name another directory",
        errno.ENAMETOOLONG: "name a shorter path",
    }
    mend = mends.get(error.errno or 0, _NOT_OURS)
    return f"{where}{os.strerror(error.errno or 0)}; {mend}."
