import json

import pytest

from apps.web.run_store import RunStore
from gensift.errors import ConfigError


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "runs"
    for name in ("20260101-a", "20260102-b"):
        (root / name).mkdir(parents=True)
        (root / name / "run.json").write_text(json.dumps({"command": name}))
    (root / "20260101-a" / "results.jsonl").write_text('{"prompt": "x", "samples": []}\n')
    (root / "20260101-a" / ".gensift.lock").write_text("")
    (root / "no-run").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "run.json").write_text("{}")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "20260102-b" / "secret.png").symlink_to(tmp_path / "secret" / "run.json")
    return RunStore(root)


def test_runs_are_listed_newest_first_and_nothing_else_is(store):
    assert store.names() == ["20260102-b", "20260101-a"]


def test_a_run_is_read_without_its_lock(store):
    run = store.open("20260101-a")
    assert run.summary == {"command": "20260101-a"}
    assert run.lines == [{"prompt": "x", "samples": []}]
    assert [file.name for file in run.files] == ["results.jsonl", "run.json"]


def test_links_lead_nowhere(store):
    assert store.open("20260102-b").file("secret.png") is None


@pytest.mark.parametrize(
    "name",
    ["..", "../secret", "/etc", "link", "20260101-a/../20260102-b", "", None, 7, "x" * 10_000],
)
def test_no_name_leads_out_of_the_folder(store, name):
    with pytest.raises(ConfigError, match="no run") as caught:
        store.open(name)
    assert len(str(caught.value)) < 300


def test_damaged_files_are_said_to_be(store, tmp_path):
    (tmp_path / "runs" / "20260101-a" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        store.open("20260101-a")
