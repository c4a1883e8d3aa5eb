import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.jobs.prompts import gather_prompts, read_prompts
from gensift.errors import ConfigError

# One line of text without control characters or lone surrogates, not blank.
LINES = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1).filter(
    lambda text: bool(text.strip())
)
PROMPTS = st.lists(LINES, min_size=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts")


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(PROMPTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_text_files_hold_one_prompt_per_line(folder, prompts, newline, has_mark):
    prompts = [prompt for prompt in prompts if not prompt.strip().startswith("#")] or ["x"]
    lines = [piece for prompt in prompts for piece in ("", "  # comment", prompt)]
    text = newline.join(lines).encode("utf-8-sig" if has_mark else "utf-8")
    assert read_prompts(write(folder, "p.txt", text)) == [p.strip() for p in prompts]


@given(PROMPTS, st.booleans())
def test_json_lines_round_trip(folder, prompts, is_ascii):
    rows = [json.dumps({"prompt": p, "n": 1}, ensure_ascii=is_ascii) for p in prompts]
    path = write(folder, "p.jsonl", "\n\n".join(rows))
    assert read_prompts(path) == [p.strip() for p in prompts]


@given(st.lists(st.lists(LINES, min_size=1, max_size=3).map("\n".join), min_size=1))
def test_csv_round_trips_with_quotes_commas_and_line_breaks(folder, prompts):
    buffer = io.StringIO(newline="")
    rows = csv.writer(buffer)
    rows.writerow(["id", " prompt "])
    rows.writerows((number, prompt) for number, prompt in enumerate(prompts))
    path = write(folder, "p.csv", buffer.getvalue())
    assert read_prompts(path) == [p.strip() for p in prompts]


@given(st.binary(), st.sampled_from([".txt", ".jsonl", ".csv"]))
def test_any_bytes_give_prompts_or_a_clear_error(folder, data, suffix):
    try:
        prompts = read_prompts(write(folder, f"junk{suffix}", data))
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert prompts and all(prompt == prompt.strip() != "" for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("empty.txt", "", "holds no prompt"),
        ("comments.txt", "# only\n\n# comments\n", "holds no prompt"),
        ("empty.jsonl", "\n", "holds no prompt"),
        ("empty.csv", "", "no column 'prompt' (columns: none)"),
        ("head.csv", "prompt\n", "holds no prompt"),
        ("other.csv", "text,id\na,1\n", "no column 'prompt' (columns: 'text', 'id')"),
        ("short.csv", "id,prompt\n1\n", "line 2 has no text in column 'prompt'"),
        ("quote.csv", 'prompt\n"a\n', "is not CSV"),
        ("bad.jsonl", '{"prompt": "a"}\nb\n', "line 2 is not JSON"),
        ("key.jsonl", '{"text": "a"}\n', "line 1 has no text under 'prompt'"),
        ("list.jsonl", '["a"]\n', "line 1 has no text under 'prompt'"),
        ("number.jsonl", '{"prompt": 3}\n', "line 1 has no text under 'prompt'"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "is not UTF-8 text"),
        ("latin.txt", "ein Gr\u00fcn".encode("latin-1"), "is not UTF-8 text"),
        ("prompts.doc", "a", "must end in .txt, .jsonl, .csv"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(folder, name, text, expected):
    with pytest.raises(ConfigError) as caught:
        read_prompts(write(folder, name, text))
    assert name in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ConfigError, match="directory"):
        read_prompts(tmp_path / "folder.txt")


def test_prompts_of_both_kinds_are_joined_in_order(tmp_path):
    path = write(tmp_path, "p.txt", "c\nd\n")
    assert gather_prompts(["a", "b"], str(path)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("prompts", [[], [" "], ["a", ""], ["\udcff"]])
def test_no_blank_and_undecodable_prompts_are_refused(prompts):
    with pytest.raises(ConfigError):
        gather_prompts(prompts, None)
