"""`ft` and `python -m ft`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; what a person did wrong is said in lines `where: what. fix`, with exit code 2."""
    from ft.errors import UserError
    from ft.imports import uncollected
    from ft.notices import quiet_libraries

    _use_utf8()
    quiet_libraries()
    try:
        with uncollected():
            from ft.cli import app
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _exit_for(error)


def _exit_for(error: Exception) -> None:
    """End with the exit code and the line of a stage that failed, or of a disk that refused; else raise the error."""
    from ft.disk import disk_problem

    if type(error).__name__ == "StageFailed":
        print(error, file=sys.stderr) if str(error) else None
        sys.exit(getattr(error, "code", 1))
    if isinstance(error, OSError) and (problem := disk_problem(error)):
        print(problem, file=sys.stderr)
        sys.exit(2)
    raise error


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: tables hold more than its letters, and
    libraries open files without naming one. Processes started from here on inherit it."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
