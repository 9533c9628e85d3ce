"""`ft` and `python -m ft`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; what a person did wrong is said in lines `where: what. fix`, with exit code 2."""
    from ft.errors import UserError
    from ft.imports import uncollected
    from ft.notices import quiet_libraries

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
        code = getattr(error, "code", None)
        if type(error).__name__ != "StageFailed":
            raise
        print(error, file=sys.stderr) if str(error) else None
        sys.exit(code)


if __name__ == "__main__":
    main()
