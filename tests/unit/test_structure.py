"""The house keeps its shape: imports go one way, private names stay in one file, nothing is hard-coded."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from ft import artifacts
from ft.recipe.kind import function_at
from ft.secrets import find, variables
from ft.stages import STAGES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ft"
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own layer and from those before it.
LAYERS = (
    ("artifacts", "columns", "imports", "lazy_sequence", "notices", "secrets"),
    ("printable",),
    ("bounds", "console", "disk", "errors", "files", "hub", "manifest", "progress", "result", "versions"),
    ("secret_files",),
    ("recipe",),
    ("data",),
    ("encode",),
    ("families",),
    ("models",),
    ("gatt",),
    ("rewards", "preferences"),
    ("training", "rl", "evaluation", "figures"),
    ("stages",),
    ("results", "run"),
    ("fit", "report", "export", "tools"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(file: Path) -> list[tuple[str, str | None]]:
    """(module, name) of every import in the file, those inside functions too."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def ours(file: Path) -> set[str]:
    """The parts of ft that a file imports."""
    parts = set()
    for module, name in imported(file):
        if module == "ft" and name:
            parts.add(name)
        elif module.startswith("ft."):
            parts.add(module.split(".")[1])
    return parts - {"__version__"}


def test_every_module_has_its_layer():
    assert {part(file) for file in FILES} - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_one_way(file):
    if part(file) == "__init__":
        assert ours(file) == set()
        return
    assert sorted(name for name in ours(file) if LEVEL[name] > LEVEL[part(file)]) == []


def test_data_knows_no_recipe():
    assert [file.name for file in FILES if part(file) == "data" and "recipe" in ours(file)] == []


def private(file: Path) -> list[str]:
    """Underscore names of TRL and transformers that a file imports, or uses of a module it imported from them."""
    found = []
    theirs = set()
    for module, name in imported(file):
        if module.split(".")[0] in ("trl", "transformers", "peft", "accelerate"):
            theirs.add(name or module.split(".")[0])
            found += [p for p in [*module.split("."), name or ""] if re.match(r"_[a-z]", p)]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            found += [a.value for a in node.args if isinstance(a, ast.Constant) and re.match(r"_[a-z]", str(a.value))]
        if not isinstance(node, ast.Attribute) or not re.match(r"_[a-z]", node.attr):
            continue
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if owner in theirs or owner in ("trainer", "model", "config", "accelerator", "super"):
            found.append(f"{owner}.{node.attr}")
    return found


def test_private_names_of_the_libraries_are_touched_in_files_named_for_that():
    touched = {str(file.relative_to(SOURCE)): names for file in FILES if (names := private(file))}
    assert list(touched) == ["rl/trl_compat.py", "training/trl_compat.py"]


def speaks_for_others(file: Path) -> bool:
    """Names, methods and defaults of other trainers stand here: `ft import`, and the table of their names."""
    return "importing" in file.parts or file.name == "aliases.py"


def test_no_hyperparameter_is_copied_into_the_source():
    own = [file for file in FILES if not speaks_for_others(file)]
    given = re.compile(r"""learning_rate["']?\s*[:=]""")  # a log's value may be shown
    assert [str(file) for file in own if given.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", STAGES)
def test_every_function_and_class_that_a_kind_names_is_there(name):
    kind = STAGES[name]
    paths = [kind.make, kind.memory, kind.trainer, kind.preflight, *kind.display.sections]
    assert [path for path in paths if path and not callable(function_at(path))] == []
    assert [owner.path for owner in kind.blocks.values() if not isinstance(owner.load(), type)] == []


OTHER_MEANINGS = {
    ("cli", "judge"): "a module and its command, `ft judge`",
    ("cli", "reward"): "who judges: a reward model",
    ("data", "summaries"): "the name of a format, that of OpenAI's comparisons, and its column",
    ("data", "questions"): "rows by what they ask: those without an answer of their own",
    ("evaluation", "questions"): "a column of rows, and a value that a prompt shows",
    ("evaluation", "quiz"): "a column of rows",
    ("families", "qformer"): "a part of a BLIP-2, as transformers calls it",
    ("recipe", "qformer"): "what a stage leaves",
    ("fit", "questions"): "a moment of the harness",
    ("fit", "attention"): "a part of a block",
    ("tools", "attention"): "a part of a block",
    ("figures", "tokenizer"): "a column of a table",
    ("fit", "tokenizer"): "the block of `scratch`",
    ("models", "tokenizer"): "a part of a model's folder, and of a key",
    ("results", "tokenizer"): "a part of a key",
    ("report", "tokenizer"): "a part of a key",
    ("run", "tokenizer"): "a part of a key",
    ("encode", "tokenizer"): "where an error stands",
    ("recipe", "tokenizer"): "a block",
    ("report", "preferences"): "a group of curves",
    ("evaluation", "consistency"): "a number: how often a judge said the same in both orders",
    ("figures", "reward"): "a number that is logged",
    ("figures", "consistency"): "the name of a file, consistency.svg",
    ("figures", "attention"): "the name of a file, attention.svg",
    ("figures", "judge"): "the name of a file, judge.svg",
    ("figures", "evaluate"): "the block of options",
    ("fit", "judge"): "the name of an input: the model that judges",
    ("results", "attention"): "a key of a recipe's model",
    ("report", "reward"): "the name of a file, reward.png",
    ("report", "evaluate"): "the block of options",
    ("rl", "reward"): "a number that is logged, and the block of options",
    ("rl", "ppo"): "a tag of the saved model, and where an error says it is from",
    ("training", "sft"): "one of the losses of TRL's DPOTrainer",
    ("tools", "questions"): "rows by what they ask: those without an answer of their own",
    ("tools", "judge"): "`ft judge` makes a stage of this kind outside of any recipe",
    ("tools", "reward"): "who judges: a reward model",
}
"""(room, name of a kind) → what the word means there, where it does not tell kinds apart."""


def test_no_module_outside_stages_knows_a_kind_by_name():
    """What is known of a kind stands in its entry of STAGES, so that a new one needs no other."""
    found = [
        (f"{file.relative_to(SOURCE)}:{node.lineno}", node.value)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in STAGES
        if part(file) != "stages" and (part(file), node.value) not in OTHER_MEANINGS
        if not speaks_for_others(file)
    ]
    assert found == []


def test_files_are_written_beside_and_renamed_in_one_place():
    """`ft.files.atomic` is the one that does; elsewhere only whole results are renamed."""
    own = re.compile(r'os\.(replace|rename)\(|with_name\(f?"\.|folder / f?"\.')
    found = [str(file.relative_to(SOURCE)) for file in FILES if own.search(file.read_text(encoding="utf-8"))]
    assert found == ["files.py"]


@pytest.mark.parametrize(
    ("fact", "owner"),
    [
        (r"(?<!\d)-100\b(?!,)", "encode/loss_mask.py"),  # the label that no loss counts
        (r"(?i)threshold.*\b0\.15\b", "data/axes.py"),  # the safety threshold
        (r"\"helpful\"[^:}]", "data/axes.py"),  # an axis
    ],
)
def test_a_fact_stands_in_one_place(fact: str, owner: str):
    code = {file: re.sub(r'""".*?"""', "", file.read_text(encoding="utf-8"), flags=re.DOTALL) for file in FILES}
    assert [str(file.relative_to(SOURCE)) for file, text in code.items() if re.search(fact, text)] == [owner]


def test_names_of_artifacts_stand_in_their_module_alone():
    names = {value for name, value in vars(artifacts).items() if name.isupper() and value != artifacts.PACKED_ROWS}
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if " " not in text and text.rpartition("/")[2] in names and file.name != "artifacts.py":
                found.append(f"{file.relative_to(SOURCE)}: {text}")
    assert found == []


DEFINED_TWICE = {  # names to make one of; shorten the list, never lengthen it
    *("Answer", "Change", "Dialogue", "Kind", "Layout", "Lines", "Point"),
    *("Row", "Spans", "Words"),
}


def test_a_class_has_a_name_of_its_own_in_the_whole_package():
    files: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(str(file.relative_to(SOURCE)))
    twice = {name: where for name, where in files.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in DEFINED_TWICE} == {}


def test_unit_tests_stand_in_the_rooms_of_what_they_test():
    folders = [file.relative_to(ROOT / "tests" / "unit") for file in (ROOT / "tests" / "unit").rglob("test_*.py")]
    assert [str(file) for file in folders if not (SOURCE / file.parent).is_dir()] == []


def test_tests_use_no_private_name_of_ours():
    """What a test needs is public, so that the inside of a room can change without its tests."""
    found = []
    for file in (ROOT / "tests").rglob("*.py"):
        ours = [(module, name) for module, name in imported(file) if module.split(".")[0] == "ft"]
        names = {name for _, name in ours}
        found += [f"{file.name}: {module}.{name}" for module, name in ours if re.match(r"_[a-z]", name or "")]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and ast.unparse(node.value) in names:
                found.append(f"{file.name}: {ast.unparse(node)}")
    assert found == []


def test_test_files_have_names_of_their_own():
    """pytest imports them by name alone, and collects nothing where two are called the same."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name not in ("conftest.py", "__init__.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_planning_imports_no_library_that_takes_seconds():
    script = (
        "import ft.results.store, ft.run.run, ft.report.terminal, ft.cli, sys; "
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    command = ["-c", script]
    done = subprocess.run(
        [importlib.import_module("sys").executable, *command], capture_output=True, text=True, check=True
    )
    slow = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib", "pyarrow")
    assert [name for name in slow if f"'{name}'" in done.stdout] == []


def tracked() -> list[Path]:
    """Text files under version control; where there is no git, those that would be."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = ("src", "tests", "recipes", "docs", "benchmarks")
        names = [*ROOT.glob("*.*"), *(file for folder in folders for file in (ROOT / folder).rglob("*"))]
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".jinja", ".json", ".cfg", ""}
    return [file for file in names if file.is_file() and file.suffix in suffixes and "__pycache__" not in file.parts]


def reads_text(call: ast.Call) -> bool:
    """Whether the call reads or writes a file as text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        place = 0 if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") != "gzip" else 1
        named = [word.value for word in call.keywords if word.arg == "mode"]
        mode = getattr((call.args[place : place + 1] or named or [ast.Constant("r")])[0], "value", None)
        owner = getattr(getattr(call.func, "value", None), "id", "")
        return owner not in ("os", "Image") and isinstance(mode, str) and "b" not in mode
    return (name, len(call.args)) in (("read_text", 0), ("write_text", 1)) and isinstance(call.func, ast.Attribute)


def test_files_are_read_and_written_in_an_encoding_that_is_named():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in ("src", "tests", "benchmarks", "data")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and reads_text(node) and "encoding" not in {word.arg for word in node.keywords}
    ]
    assert found == []


MADE_UP = "abcdefghijklm"  # the secrets of our tests hold this
MACHINE = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt|scratch)/\w")


def test_no_file_holds_a_secret_or_a_path_of_one_machine():
    found = []
    known = variables()
    for file in tracked():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            real = [one for one in find(line, known) if MADE_UP not in one.value]
            if real or MACHINE.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


READS_LABELS = {
    "training/dpo/shared_prefix.py": "the padded batch of TRL's loss, which is a causal model's",
    "training/held_out.py": "the batch of TRL's SFTTrainer, whose loss is a causal model's",
    "training/packing.py": "rows of one sequence, which alone can be packed",
}
"""Files outside families/ and encode/ that read labels, and why they may."""


def test_nobody_but_a_family_takes_labels_to_be_as_long_as_ids():
    """An encoder-decoder's are not; `encode.encoder.row_tokens` says which tokens of any row are trained."""
    reads = re.compile(r"\[[\"']labels[\"']\]|\.labels\b|\(\"labels\"\)")
    files = [file for file in FILES if part(file) not in ("families", "encode")]
    found = {str(file.relative_to(SOURCE)) for file in files if reads.search(file.read_text(encoding="utf-8"))}
    assert found == {*READS_LABELS}


def test_classes_of_a_family_are_named_in_families_alone():
    names = re.compile(r"AutoModelFor[A-Z]\w+|ForSequenceClassification|[\"'](CAUSAL_LM|SEQ_CLS)[\"']")
    files = [file for file in FILES if part(file) != "families"]
    assert [str(file.relative_to(SOURCE)) for file in files if names.search(file.read_text(encoding="utf-8"))] == []
