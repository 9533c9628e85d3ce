"""`ft` and `python -m ft`."""

from __future__ import annotations

import errno
import os
import sys

# What a machine answers that is full, or lets nobody write; and names that it cannot have.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


def main() -> None:
    """Run the command line; what a person did wrong is said in lines `where: what. fix`, with exit code 2."""
    from ft.errors import UserError, fail
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
    except OSError as error:
        if error.filename is None or error.errno not in MACHINE:
            raise
        print(fail(str(error.filename), str(error.strerror), "Nothing finished is lost."), file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        code = getattr(error, "code", None)
        if type(error).__name__ != "StageFailed":
            raise
        print(error, file=sys.stderr) if str(error) else None
        sys.exit(code)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: tables hold more than its letters, and
    libraries open files without naming one. Processes started from here on inherit it."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
