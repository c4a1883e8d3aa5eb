"""What users wrote is shown as they wrote it, by whatever way it reaches the terminal."""

import io
import json
import subprocess
import sys
import warnings

import pytest
from rich.table import Table

from apps import console
from apps.console import PlainConsole, plain_warnings, say, visible, write, write_heading
from apps.jobs.progress import progress_bar

TEXTS = [
    "[cat:dog:0.5] and a red circle",
    ":star: :smiley: [bold]red[/bold] [/] [link=x]y[/link]",
    "C:\\folder\\[0].png  with two  spaces",
    "https://example.org/[x] 1 2 3 'quoted' None True",
    "\u00fc\u4e2d\U0001f600",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_written_as_they_are(text, capsys):
    say(text)
    write(text)
    write_heading(text, ": " + text)
    table = Table(text, title=text, box=None)
    table.add_row(text)
    console.out.print(table)
    with plain_warnings():
        warnings.warn(text, stacklevel=1)
    written = capsys.readouterr()
    assert written.err.splitlines() == [text, f"warning: {text}"]
    lines = [line.strip() for line in written.out.splitlines()]
    assert lines == [text, f"{text}: {text}", text, text, text]


def test_texts_are_written_as_they_are_to_a_terminal(monkeypatch):
    file = io.StringIO()
    terminal = PlainConsole(file=file, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr(console, "out", terminal)
    monkeypatch.setattr("apps.jobs.progress.log", terminal)
    write(":star: [bold]x[/bold]")
    with progress_bar("[bold]:star:[/bold]", 3):
        pass
    with terminal.status(":star: [bold]y[/bold]"):
        pass
    shown = file.getvalue()
    for text in (":star: [bold]x[/bold]", "[bold]:star:[/bold]", ":star: [bold]y[/bold]"):
        assert text in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\x00\x7f\x9b31m", "a\\x0db\\x00\\x7f\\x9b31m"),
        ("left\u202eright\u2066", "left\\u202eright\\u2066"),
        ("name\udcff", "name\\udcff"),
    ],
)
def test_what_steers_a_terminal_is_made_visible(text, shown, capsys):
    assert visible(text) == shown
    write(text)
    table = Table("prompt", box=None, show_header=False)
    table.add_row(text)
    console.out.print(table)
    written = capsys.readouterr().out.expandtabs()
    assert [line.strip() for line in written.splitlines()] == 2 * shown.expandtabs().splitlines()


def test_lines_on_stderr_are_single(capsys):
    say("one\n  two \r\n three\x1b[0m")
    assert capsys.readouterr().err == "one two three\\x1b[0m\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_encoding_that_lacks_characters_is_no_failure(encoding):
    code = (
        "from apps.console import accept_all_characters, say, write\n"
        "accept_all_characters()\n"
        "write('\\u4e2d\\udcff'); say('\\u4e2d\\u2026')"
    )
    environment = {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    decoded = done.stdout.decode(encoding) + done.stderr.decode(encoding)
    assert ("\u4e2d" if encoding == "utf-8" else "\\u4e2d") in decoded


def test_a_run_shows_prompt_and_folder_as_they_were_given(generate, tmp_path):
    prompt = "[cat:dog:0.5] and a :red_circle: " + "very " * 30 + "long"
    done = generate("--sampler", "fake", "--prompt", prompt, "--output", "out/run:star:1")
    assert done.code == 0
    assert "Saved in out/run:star:1" in done.out.splitlines()
    assert (tmp_path / "out/run:star:1/run.json").is_file()
    assert prompt in done.out


def test_progress_and_errors_show_names_as_they_are(generate, tmp_path):
    prompts = ["a :star: [b]", "b \x1b[31mred"]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    done = generate("--sampler", "fake", "--prompts", "p.json", "--output", "out")
    assert any(line.endswith(prompts[0]) for line in done.err.splitlines())
    assert any(line.endswith("b \\x1b[31mred") for line in done.err.splitlines())
    assert "\x1b" not in done.err + done.out
    done = generate("--prompts", "no:star:[x]\x1b.csv", "--output", "out")
    assert "no:star:[x]\\x1b.csv" in done.error
