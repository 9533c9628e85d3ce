import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft.data.formats.messages import BadRow
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source, hub, missing, read
from ft.errors import Problem, UserError
from wording import Like

Bad = list[tuple[str, Any, str, str]]


def everything(path: Path, **how: Any) -> tuple[list[SourceRow], Bad]:
    """The rows of a source and what was reported about others."""
    bad: Bad = []

    def report(where: str, row: Any, problem: BadRow) -> None:
        bad.append((where, row, problem.what, problem.fix))

    return list(read(Source(str(path), **how), report)), bad


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        list(read(Source(str(path), **how)))
    return str(error.value).replace(str(path), "F").replace(str(path.parent), "D")


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


CONTENT = {
    "x.jsonl": '{"a": "1", "b": "é"}\n\n{"a": "2", "b": ""}\n',
    "x.jsonl.gz": '\ufeff{"a": "1", "b": "é"}\r\n\r\n{"a": "2", "b": ""}',
    "x.json": '\ufeff[{"a": "1", "b": "é"},\n {"a": "2", "b": ""}]',
    "x.json.gz": '{"version": 2, "data": [{"a": "1", "b": "é"}, {"a": "2", "b": ""}]}',
    "x.csv": "\ufeffa,b\n1,é\n\n2,\n",
    "x.csv.gz": 'a,b\r\n"1","é"\r\n2,""',
    "x.tsv": "a\tb\n1\té\n2\t\n",
}
LINES = {"x.jsonl": (1, 3), "x.jsonl.gz": (1, 3), "x.csv": (2, 4), "x.csv.gz": (2, 3), "x.tsv": (2, 3)}


@pytest.mark.parametrize("name", CONTENT)
def test_each_text_file_gives_its_rows_with_their_place(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, CONTENT[name])
    first, second = LINES.get(name, (1, 2))

    assert everything(path) == (
        [SourceRow(f"{path}:{first}", {"a": "1", "b": "é"}), SourceRow(f"{path}:{second}", {"a": "2", "b": ""})],
        [],
    )


def test_parquet_rows_are_counted_over_its_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(5)]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)

    assert everything(path)[0] == [SourceRow(f"{path}:{number}", row) for number, row in enumerate(rows, 1)]


def test_bad_lines_are_reported_and_the_others_read(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a" 1}', b'{"a": "\xff"}', b"[1]", b"7", b'{"a": 2}', b'{"a": ' + b"[" * 100_000]
    path = written(tmp_path / "x.jsonl", b"\n".join(lines))

    rows, bad = everything(path)

    assert [row.row for row in rows] == [{"a": 1}, {"a": 2}]
    assert bad[:4] == [
        (
            f"{path}:2",
            '{"a" 1}',
            "no JSON: Expecting ':' delimiter at column 6",
            "Write one JSON object a line.",
        ),
        (f"{path}:3", '{"a": "\ufffd"}', "byte 8 of the line (0xff) is not UTF-8", "Save as UTF-8."),
        (f"{path}:4", [1], "the row is a list, not an object", 'Write {"column": value, …}.'),
        (f"{path}:5", 7, "the row is a number, not an object", 'Write {"column": value, …}.'),
    ]
    assert [where for where, *_ in bad[4:]] == [f"{path}:7"]


def test_without_a_report_the_first_bad_line_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '{"a": 1}\n{"a"\n')

    assert refusal(path) == Like("F:2: … Expecting ':' delimiter … 5 …")


def test_an_array_spread_over_lines_is_sent_to_a_json_file(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '[\n{"a": 1}\n]')

    assert everything(path)[1][0][3] == "A JSON array belongs in a .json file."


def test_csv_rows_with_the_wrong_number_of_cells_bytes_or_quotes_are_reported(tmp_path: Path) -> None:
    content = b'a,b\n1,"two\nlines"\n1,2,3\n\xe9,2\n1,"x"y\n3,4\n5,"open'
    path = written(tmp_path / "x.csv", content)

    rows, bad = everything(path)

    assert rows == [
        SourceRow(f"{path}:2", {"a": "1", "b": "two\nlines"}),
        SourceRow(f"{path}:7", {"a": "3", "b": "4"}),
    ]
    assert [row for _, row, *_ in bad] == [["1", "2", "3"], ["\udce9", "2"], '1,"x"y', '5,"open']
    assert [(where.removeprefix(str(path)), what, fix) for where, _, what, fix in bad] == [
        (":4", "3 cells for 2 columns", "Quote cells that hold the separator."),
        (":5", "column a is not UTF-8", "Save as UTF-8."),
        (":6", "no CSV: ',' expected after '\"'", Like("… quotes double …")),
        (":8", "no CSV: unexpected end of data", Like("… quotes double …")),
    ]


def test_a_csv_cell_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], ["x" * 200_000]])

    assert len(everything(path)[0][0].row["text"]) == 200_000


WHOLE_FILE_ERRORS: list[tuple[str, str | bytes, str]] = [
    ("x.jsonl", "", "F: holds no rows."),
    ("x.jsonl", "\n\n", "F: holds no rows."),
    ("x.json", "", "F: holds no rows."),
    ("x.json", "[]", "F: holds no rows."),
    ("x.csv", "", "F: holds no rows."),
    ("x.csv", "a,b\n", "F: holds no rows."),
    ("x.jsonl", '{"a": 1}'.encode("utf-16"), "F: is UTF-16 text. Save it as UTF-8."),
    ("x.json", '[{"a": 1},\n{"a" 2}]', "F:2: no JSON: Expecting ':' delimiter at column 6."),
    ("x.json", '{"a": 1}\n{"a": 2}', "F:2: no JSON: Extra data at column 1. One object a line? Then name it .jsonl."),
    ("x.json", b'[{"a": 1},\n{"a": "\xff"}]', "F:2: byte 0xff is not UTF-8. Save it as UTF-8."),
    (
        "x.json",
        '{"a": 1}',
        "F: holds an object with 0 lists, not a list of rows. Write an array of rows, or one object a line as .jsonl.",
    ),
    (
        "x.json",
        '{"a": [], "b": []}',
        "F: holds an object with 2 lists, not a list of rows. Write an array of rows, or one object a line as .jsonl.",
    ),
    (
        "x.json",
        '"a"',
        "F: holds a string, not a list of rows. Write an array of rows, or one object a line as .jsonl.",
    ),
    ("x.csv", "a,a\n1,2\n", "F:1: two columns are named 'a'. Rename one."),
    ("x.csv", "a,\n1,2\n", "F:1: column 2 has no name. The first line names the columns."),
    ("x.csv", b"a,\xe9\n1,2\n", "F:1: the name of column 2 is not UTF-8. Save the file as UTF-8."),
    ("x.parquet", b"PAR", "F: is not whole Parquet: "),
    (
        "x.docx",
        "a",
        "F: is of no known type. There are: .jsonl, .json, .csv, .tsv, .parquet, .txt, and .gz of the text ones.",
    ),
    (
        "x.parquet.gz",
        "a",
        "F: is of no known type. There are: .jsonl, .json, .csv, .tsv, .parquet, .txt, and .gz of the text ones.",
    ),
]


@pytest.mark.parametrize(("name", "content", "text"), WHOLE_FILE_ERRORS)
def test_what_is_wrong_with_a_whole_file_is_said(tmp_path: Path, name: str, content: str | bytes, text: str) -> None:
    path = written(tmp_path / name, content)
    said = refusal(path)

    assert said.startswith(text) if text.endswith(": ") else said == text


def test_a_torn_gzip_file_is_said_after_the_rows_it_still_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 50_000)[:-20])
    rows = read(Source(str(path)))

    assert next(rows) == SourceRow(f"{path}:1", {"a": 1})
    with pytest.raises(UserError, match=r"is not a whole gzip file: .*\. Pack or fetch it again\.$"):
        list(rows)


def test_a_file_that_is_not_gzip_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(b'{"a": 1}\n')

    assert refusal(path) == Like("F: … gzipped … (b'{\"') …")


def test_a_json_file_too_large_to_load_whole_is_sent_to_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b" " * 2**24, compresslevel=1) * 17)

    assert refusal(path) == Like("F: … 256 MiB … object …")


# Folders


def test_a_folder_gives_its_files_in_name_order(tmp_path: Path) -> None:
    written(tmp_path / "b.jsonl", '{"a": "2"}')
    written(tmp_path / "a.csv", "a\n1\n")
    written(tmp_path / "README.md", "about")

    assert everything(tmp_path)[0] == [
        SourceRow(f"{tmp_path}/a.csv:2", {"a": "1"}),
        SourceRow(f"{tmp_path}/b.jsonl:1", {"a": "2"}),
    ]


def test_what_a_folder_holds_beside_rows_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "a.jsonl", '{"a": 1}')
    written(tmp_path / "b.xlsx", "")
    (tmp_path / "more").mkdir()

    everything(tmp_path)

    assert caplog.messages == [f"{tmp_path}: not rows, left unread: b.xlsx, more"]


def test_files_named_by_split_are_read_by_split(tmp_path: Path) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test", "train_sft")):
        written(tmp_path / f"{name}.jsonl", json.dumps({"a": number}))

    assert [row.row["a"] for row in everything(tmp_path)[0]] == [0, 1]
    assert [row.row["a"] for row in everything(tmp_path, split="test")[0]] == [2]
    assert [row.row["a"] for row in everything(tmp_path, split="train_sft")[0]] == [3]
    assert refusal(tmp_path, split="dev") == Like("F: … folder … 'dev' …")


def test_a_file_of_no_split_beside_files_of_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        written(tmp_path / f"{name}.jsonl", '{"a": 1}')

    assert refusal(tmp_path) == Like("F: extra.jsonl belongs …")


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == Like("F: … no file of rows …")


# Absent


def test_files_near_an_absent_one_are_named(tmp_path: Path) -> None:
    written(tmp_path / "rows.jsonl", "")
    written(tmp_path / "zebra.txt", "")
    near, far = Source(str(tmp_path / "row.jsonl")), Source(str(tmp_path / "q.csv"))

    assert missing(near, "x.yaml:3") == Problem(
        "x.yaml:3", f"no file or folder '{near.path}'", f"Did you mean '{tmp_path}/rows.jsonl'?"
    )
    assert missing(far, "x.yaml:3") == Problem(
        "x.yaml:3", f"no file or folder '{far.path}'", f"In '{tmp_path}' there are: rows.jsonl, zebra.txt."
    )
    assert missing(Source(str(tmp_path / "a/b.csv")), "w") == Problem(
        "w", f"no file or folder '{tmp_path}/a/b.csv'", f"There is no folder '{tmp_path}/a' either."
    )


def test_nothing_is_missing_of_a_file_that_is_there_or_of_a_hub_id(tmp_path: Path) -> None:
    assert missing(Source(str(tmp_path)), "w") is None
    assert missing(Source("HuggingFaceH4/ultrachat_200k"), "w") is None


def test_reading_an_absent_file_says_so(tmp_path: Path) -> None:
    written(tmp_path / "rows.jsonl", "")

    assert refusal(tmp_path / "row.jsonl") == Like("F: … folder … 'D/rows.jsonl' …")


# Hub, with local files in the Hub's place


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_data_set_is_read_by_split_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "set"
    repository.mkdir()
    written(repository / "train.jsonl", '{"text": "a"}\n')
    written(repository / "test.jsonl", '{"text": "b"}\n{"text": "c"}\n')

    assert list(hub(Source(str(repository), split="test", streaming=streaming))) == [
        SourceRow(f"{repository}[test]:1", {"text": "b"}),
        SourceRow(f"{repository}[test]:2", {"text": "c"}),
    ]


def test_what_keeps_a_hub_data_set_from_loading_is_said(tmp_path: Path) -> None:
    absent = Source(str(tmp_path / "absent"), name="default", split="test")

    with pytest.raises(UserError) as error:
        list(hub(absent))

    assert str(error.value).startswith(f"{absent.path}[default, test]: cannot be loaded: ")
    assert str(error.value).endswith(
        ". The Hub does not answer: download it once while it does. A local path starts with ./"
    )
