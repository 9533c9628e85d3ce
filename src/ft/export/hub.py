"""The Hub, touched only when a push is asked for. The token comes from HF_TOKEN and from nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft.errors import Problems, fail
from ft.secret_files import scan_all


def ready(name: str) -> str:
    """The token. Raises UserError, before any work, where there is none or the name is none of the Hub's."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise fail("--push", f"'{name}' names no repository", "Write owner/name.")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise fail("--push", "there is no token", "Set HF_TOKEN in the environment to one that may write.")
    return token


def push(folder: Path, name: str, private: bool, api: Callable[..., Any] | None = None) -> str:
    """Upload an exported folder; the address. `api` stands for huggingface_hub.HfApi in tests."""
    token = ready(name)
    problems = Problems(scan_all([folder]))
    problems.raise_any()
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi
    hub = api(token=token)
    hub.create_repo(repo_id=name, repo_type="model", private=private, exist_ok=True)
    hub.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model", commit_message="Upload by ft export")
    return f"https://huggingface.co/{name}"
