import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.jobs.prompts import PromptRow, gather_prompts, gather_rows, read_prompts
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


@given(st.binary(), st.sampled_from([".txt", ".csv", ".tsv", ".json", ".jsonl"]))
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
        ("other.csv", "words,id\na,1\n", "no column 'prompt' (columns: 'words', 'id')"),
        ("short.csv", "id,prompt\n1\n", "line 2 has no text in column 'prompt'"),
        ("quote.csv", 'prompt\n"a\n', "is not CSV"),
        ("bad.jsonl", '{"prompt": "a"}\nb\n', "line 2 is not JSON"),
        ("key.jsonl", '{"words": "a"}\n', "line 1 has no text under 'prompt'"),
        ("list.jsonl", '["a"]\n', "line 1 has no text under 'prompt'"),
        ("number.jsonl", '{"prompt": 3}\n', "line 1 has no text in column 'prompt'"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "is not UTF-8 text"),
        ("latin.txt", "ein Gr\u00fcn".encode("latin-1"), "is not UTF-8 text"),
        ("prompts.doc", "a", "must end in .txt, .csv, .tsv, .json, .jsonl"),
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


PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "a red circle\tAbstract\tBasic\t\n"
    '"three ""green"" crosses"\tAbstract\tQuantity\t\n'
)
LAYOUTS = {
    "capital.csv": ("Prompt,Seed\na red circle,5\n", ["a red circle"]),
    "drawbench.csv": (
        'Prompts,Category\na red circle,Colors\n"a ""blue"" square, twice",Counting\n',
        ["a red circle", 'a "blue" square, twice'],
    ),
    "excel_de.csv": ("prompt;seed\r\na red circle;5\r\n;\r\n", ["a red circle"]),
    "excel_sep.csv": ("sep=,\r\nprompt,seed\r\na red circle,5\r\n", ["a red circle"]),
    "tabs.csv": ("caption\tid\na red circle\t1\n", ["a red circle"]),
    "unicode.csv": (
        "prompt\tseed\r\nein grüner Kreis\t5\r\n".encode("utf-16"),
        ["ein grüner Kreis"],
    ),
    "utf16.txt": ("ein grüner Kreis\r\n".encode("utf-16"), ["ein grüner Kreis"]),
    "parti.tsv": (PARTI, ["a red circle", 'three "green" crosses']),
    "plain_quotes.tsv": (
        'Prompt\tNote\n"Stop" on a sign\t\na 9" disc\t\n',
        ['"Stop" on a sign', 'a 9" disc'],
    ),
    "hpd.json": ('["a red circle", "a blue square"]', ["a red circle", "a blue square"]),
    "objects.json": ('[{"Caption": "a red circle", "id": 1}]', ["a red circle"]),
    "textkey.jsonl": ('{"text": "a red circle"}\n', ["a red circle"]),
    "strings.jsonl": ('"a red circle"\n', ["a red circle"]),
    "geneval.jsonl": (
        '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], '
        '"prompt": "a photo of a bench"}\n',
        ["a photo of a bench"],
    ),
    "compbench.txt": ("a green bench and a red car.\n", ["a green bench and a red car."]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_read_as_people_have_them(folder, name):
    content, expected = LAYOUTS[name]
    assert read_prompts(write(folder, name, content)) == expected


@pytest.mark.parametrize("name", ["named.csv", "named.jsonl", "named.json"])
def test_a_column_is_named(folder, name):
    content = {
        "named.csv": "id;Beschreibung;prompt\n1;a red circle;no\n",
        "named.jsonl": '{"Beschreibung": "a red circle", "prompt": "no"}\n',
        "named.json": '[{"Beschreibung": "a red circle", "prompt": "no"}]',
    }[name]
    path = write(folder, name, content)
    assert read_prompts(path, "Beschreibung") == read_prompts(path, "beschreibung")
    assert read_prompts(path, "Beschreibung") == ["a red circle"]
    with pytest.raises(ConfigError, match="Bescreibung"):
        read_prompts(path, "Bescreibung")


def test_a_column_without_columns_is_refused(folder):
    with pytest.raises(ConfigError, match="plain text, which has no columns"):
        gather_prompts([], str(write(folder, "c.txt", "a\n")), "prompt")
    with pytest.raises(ConfigError, match="no file of prompts"):
        gather_prompts(["a"], None, "prompt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "settings.csv",
            "prompt,Seed,Negative Prompt,WIDTH,height\na,5,blur,64,128\nb,,,,\n",
        ),
        (
            "settings.jsonl",
            '{"prompt": "a", "seed": 5, "negative_prompt": "blur", "width": 64, "height": 128}\n'
            '{"prompt": "b", "seed": null}\n',
        ),
    ],
)
def test_settings_of_single_prompts_are_read(folder, name, content):
    path = str(write(folder, name, content))
    own = {"negative_prompt": "blur", "width": 64, "height": 128}
    assert gather_rows(["first"], path) == [
        PromptRow("first"),
        PromptRow("a", 5, own),
        PromptRow("b"),
    ]
    with pytest.warns(UserWarning, match="height, negative_prompt, seed, width of single prompts"):
        assert gather_prompts([], path) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("seed.csv", "prompt,seed\na,x\n", "line 2 has seed 'x'; give a whole number from 0 on"),
        ("seed.csv", "prompt,seed\na,-1\n", "line 2 has seed '-1'"),
        ("seed.jsonl", '{"prompt": "a", "seed": true}', "line 1 has seed True"),
        ("seed.jsonl", '{"prompt": "a", "seed": 1e400}', "line 1 has seed inf"),
        ("seed.jsonl", '{"prompt": "a", "seed": ' + "9" * 30 + "}", "line 1 has seed 999"),
        (
            "size.csv",
            "sep=;\nprompt;width\na;0\n",
            "line 3 has width '0'; give a whole number from 1",
        ),
        ("size.json", '[{"prompt": "a", "height": 2.5}]', "entry 1 has height 2.5"),
        ("words.json", '[{"prompt": "a", "negative_prompt": 3}]', "entry 1 has negative_prompt 3"),
        ("object.json", '{"prompt": "a"}', "it is no list"),
        ("cut.json", '["a"', "it is not JSON"),
    ],
)
def test_bad_settings_are_named_with_their_line(folder, name, content, expected):
    with pytest.raises(ConfigError) as caught:
        read_prompts(write(folder, name, content))
    assert expected in str(caught.value)


def test_lines_that_other_programs_read_otherwise_are_warned_about_once(folder):
    lines = [
        "// batch for the shop window",
        '--prompt "a red circle" --negative_prompt "blur" --seed 5 --steps 4',
        '"a blue square" -n4 -H64 -W64 -S1234',
        "it's a green cross",
        "a half-open door - twice -- at night",
    ]
    path = write(folder, "flags.txt", "\n".join(lines))
    with pytest.warns(UserWarning) as caught:
        assert read_prompts(path) == lines
    comment, options = (str(warning.message) for warning in caught)
    assert "line 1 begins with //" in comment
    assert "each of lines 2, 3 looks like options" in options
