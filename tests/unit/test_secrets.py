"""No token is written into a result, and none is shown."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.run.rows import prepare_rows
from ft.run.run import run
from ft.run.stage import make_stage
from ft.secret_files import clean, refuse, scan_all
from ft.secrets import PATTERNS, find, hide, look, mask, variables
from wording import Like

WORD = "abcdefghijklmnopqrstuvwxyz"
HF = "hf_" + WORD
SECRETS = {
    "Hugging Face token": HF,
    "OpenAI or Anthropic key": f"sk-proj-{WORD}7",
    "GitHub token": f"ghp_{WORD}0123456789",
    "GitLab token": f"glpat-{WORD}",
    "AWS key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "Google key": "AIza" + WORD + "123456789",
    "Slack token": f"xoxb-{WORD}",
    "PyPI token": f"pypi-{WORD}{WORD}",
    "JSON web token": f"eyJ{WORD}.eyJ{WORD}.{WORD}",
    "private key": "-----BEGIN OPENSSH PRIVATE " + "KEY-----",
    "W&B key": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "key in an assignment": f"api_key: '{WORD}0'",
    "password in an address": f"https://me:{WORD}@host/v1",
}
HARMLESS = (
    "runs/chat/sft-0123456789ab/model.safetensors",
    "0123456789abcdef0123456789abcdef01234567",  # a commit
    "eos_token: <|endoftext|>, tokenizer: 0123456789abcdef0123456789",
    "sk-learn-and-other-libraries-of-python",
    "hf_internal_testing/tiny-random-LlamaForCausalLM",
    "the key: a word that opens a door, https://huggingface.co/datasets/me/mine@main",
)


@pytest.mark.parametrize("kind", PATTERNS)
def test_each_form_of_secret_is_found_and_masked(kind: str):
    text = f"before {SECRETS[kind]} behind"
    assert [one.kind for one in find(text)] == [kind]
    assert WORD not in hide(text)
    assert hide(text).startswith("before ")
    assert hide(text).endswith((" behind", "host/v1 behind"))


def test_of_an_assignment_only_the_value_is_masked():
    assert hide(f"api_key: '{WORD}0', more") == "api_key: '…(27 characters)', more"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one_is_left_alone(text: str):
    assert find(text) == []


def test_a_masked_secret_shows_its_kind_and_length_only():
    assert mask(HF) == "hf_…(29 characters)"
    assert mask("0123456789abcdef") == "…(16 characters)"


def test_values_of_the_environment_are_known_whatever_their_form(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TRACKER_TOKEN", "correct-horse-battery")
    monkeypatch.setenv("SIGNING_KEY", "/etc/keys/signing-key.pem")
    monkeypatch.setenv("SHORT_TOKEN", "true")
    monkeypatch.setenv("JUDGE", "a-value-without-form")
    assert variables() | {} == variables()
    assert [str(one) for one in find("x=correct-horse-battery")] == ["the value of MY_TRACKER_TOKEN (…(21 characters))"]
    assert find("/etc/keys/signing-key.pem true a-value-without-form") == []
    with pytest.raises(UserError, match="the value of JUDGE"):
        refuse("job.json", {"backend": {"key_env": "JUDGE"}, "train": {"run_name": "a-value-without-form"}})


def test_a_secret_in_a_plain_value_is_named_by_its_key():
    value = {"train": {"notes": ["fine", {"deep": HF}]}, HF: 1}
    assert [key for key, _ in look(value)] == ["train.notes.1.deep", "a key"]
    assert [key for key, _ in look({"wandb_api_key": "0123456789abcdef" * 2 + "01234567"})] == ["wandb_api_key"]
    with pytest.raises(UserError) as refused:
        refuse("done.json", {"numbers": {"note": HF}})
    assert HF not in str(refused.value)
    assert str(refused.value).startswith("done.json: numbers.note holds Hugging Face token (hf_…(29 characters)).")


@pytest.fixture
def file(tmp_path: Path, base: Path, data: Path) -> Path:
    return tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base))


PLACES = {
    "a tracker's project": ("sft.train.project={}", "train.project"),
    "a deep value": ("sft.train.optim_args={}", "train.optim_args"),
    "a column's name": ("sft.data.0.columns.messages={}", "columns.messages"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_token_in_set_is_refused_before_anything_is_written(file: Path, place: str):
    words, key = PLACES[place]
    with pytest.raises(UserError) as refused:
        tiny.checked(file, [words.format(HF)])
    assert f"{key} looks like a secret" in str(refused.value)
    assert HF not in str(refused.value)


def test_a_token_in_a_recipe_is_named_by_line_and_nothing_is_kept(file: Path, tmp_path: Path):
    file.write_text(
        file.read_text(encoding="utf-8").replace("max_steps: 4", f"max_steps: 4\n    run_name: my {HF} run"),
        encoding="utf-8",
    )
    line = next(n for n, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if HF in text)
    done = CliRunner().invoke(app, ["run", str(file), "--runs", str(tmp_path / "runs")])
    assert isinstance(done.exception, UserError)
    said = str(done.exception)
    assert said == Like(f"{file}:{line}: train.run_name … (HF_TOKEN) …")
    assert [problem.where for problem in scan_all([tmp_path / "runs"])] == []


def test_an_environment_variable_that_a_recipe_echoes_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "correct-horse-battery")
    with pytest.raises(UserError, match=r"train\.run_name looks like a secret"):
        tiny.checked(file, ["sft.train.run_name=of-correct-horse-battery"])


def test_what_comes_past_the_recipe_is_refused_before_the_folder_is_made(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = tiny.checked(file, ["sft.train.run_name=correct-horse-battery"])  # no secret yet
    monkeypatch.setenv("WANDB_API_KEY", "correct-horse-battery")
    with pytest.raises(UserError, match=r"train\.run_name holds the value of WANDB_API_KEY"):
        run(recipe, tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/sft-*"))


def wrote(file: Path, runs: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage whose function writes `text` into `name`, run to its end."""
    job = tiny.job(tiny.planned(file, runs), "sft")

    def make(job: object) -> dict[str, int]:
        (folder / name).write_text(text, encoding="utf-8")
        return {"steps": 1}

    folder = job.folder
    monkeypatch.setattr("ft.run.stage.function_at", lambda path: make)
    make_stage(job.write())
    return folder


def test_a_stage_that_wrote_a_token_is_not_made_and_the_token_is_gone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError) as refused:
        wrote(file, tmp_path / "runs", "metrics.jsonl", f'{{"step": 1}}\n{{"url": "{HF}"}}\n', monkeypatch)
    folder = next((tmp_path / "runs").glob("*/sft-*"))
    assert str(refused.value).startswith(f"{folder}/metrics.jsonl:2: holds Hugging Face token (hf_…(29 characters)).")
    assert (folder / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1}\n{"url": "hf_…(29 characters)"}\n'
    assert not (folder / "done.json").exists()


def test_a_token_in_rows_is_the_users_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = wrote(file, tmp_path / "runs", "rows.jsonl", json.dumps({"text": HF}), monkeypatch)
    assert read_json(folder / "done.json")["numbers"] == {"steps": 1}
    assert HF in (folder / "rows.jsonl").read_text(encoding="utf-8")
    said = " ".join(capsys.readouterr().err.split())
    assert f"{folder}/rows.jsonl:1: holds Hugging Face token" in said
    assert HF not in said


def test_a_token_in_the_data_is_told_of_when_rows_are_prepared_and_counted(tmp_path: Path, base: Path):
    rows = tiny.rows(tmp_path / "rows.jsonl")
    lines = rows.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace("snow", f"snow {HF}")
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    stage = tiny.sft(rows, {"max_length": 120})
    there = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs")
    prepare_rows(there, there.stage("sft"))
    [note] = tiny.planned(there.recipe.file, tmp_path / "runs").stage("sft").prepared["notes"]
    assert note.startswith(f"{rows}:3 holds Hugging Face token (hf_…(29 characters)). A model learns")
    said = CliRunner().invoke(app, ["stats", str(rows), "--json"]).stdout
    assert json.loads(said)[0]["sources"][0]["secrets"] == [note]


def test_files_are_scanned_on_demand(tmp_path: Path):
    write_json(tmp_path / "a" / "job.json", {"fine": 1})
    assert CliRunner().invoke(app, ["secrets", str(tmp_path)]).exit_code == 0
    (tmp_path / "a" / "card.md").write_text(f"one\n{HF}\n", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(HF.encode())
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.write(f"{HF}\n")
    done = CliRunner().invoke(app, ["secrets", str(tmp_path)])
    assert done.exit_code == 1
    found = [line.partition(": ")[0] for line in done.stdout.splitlines() if ": holds" in line]
    assert found == [f"{tmp_path}/rows.jsonl.gz:1", f"{tmp_path}/a/card.md:2"]
    assert HF not in done.output


def test_a_clean_folder_is_left_as_it_is(tmp_path: Path):
    write_json(tmp_path / "key.json", {"weights": "0123456789abcdef"})
    before = (tmp_path / "key.json").stat().st_mtime_ns
    assert clean(tmp_path) == []
    assert (tmp_path / "key.json").stat().st_mtime_ns == before
