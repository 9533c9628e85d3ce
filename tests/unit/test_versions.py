"""What ft says of its own version and of its libraries'."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
from typer.testing import CliRunner

import ft
from ft.cli import app
from ft.versions import LIBRARIES


@pytest.fixture
def _never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ft as a checkout on PYTHONPATH: no metadata of a package is there."""

    def version_of(name: str) -> str:
        if name == "ft":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("ft.versions.version", version_of)


@pytest.mark.usefixtures("_never_installed")
def test_versions_are_printed_from_a_checkout_that_was_never_installed():
    printed = CliRunner().invoke(app, ["--version"])
    assert printed.exit_code == 0
    own, libraries = printed.stdout.splitlines()
    assert own == f"ft {ft.__version__}"
    assert libraries.split(", ")[1:] == [f"{name} {version(name)}" for name in LIBRARIES]
