import dataclasses
import json
import sys
import types

import pytest

from apps.commands import main as shell
from apps.commands import zoo


@pytest.fixture
def gensift(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = shell.main(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def recipe(monkeypatch):
    """A zoo with one model, whose recipe notes how it was called."""
    calls = []
    module = types.ModuleType("fake_recipe")
    module.train = lambda folder, steps: calls.append((folder, steps)) or folder / "done"
    module.evaluate = lambda: {"overall": 0.5, "nested": {"a": 1}}
    monkeypatch.setitem(sys.modules, "fake_recipe", module)
    entry = dataclasses.replace(
        next(iter(zoo.ZOO.values())),
        name="tiny",
        train="fake_recipe:train",
        evaluate="fake_recipe:evaluate",
    )
    monkeypatch.setattr(zoo, "ZOO", {"tiny": entry})
    return calls


def test_list_names_all_kinds_of_plugins(gensift):
    code, out, err = gensift("list", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert {"best-of-n", "ttsnap"} <= set(document["samplers"])
    assert {"rewards", "caches"} <= document.keys()
    assert "shapes-flux" in [model["name"] for model in document["zoo"]]
    code, out, err = gensift("list")
    assert code == 0 and "ttsnap" in out and "shapes-flux" in out


def test_doctor_reports_versions_devices_and_the_zoo(gensift):
    code, out, _ = gensift("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["versions"]["torch"]
    assert report["devices"][0]["name"] == "cpu"
    assert isinstance(report["zoo"]["shapes-flux"], bool)
    assert report["xformers"]
    code, out, _ = gensift("doctor")
    assert code == 0 and "devices" in out and "cpu" in out


def test_zoo_train_calls_the_recipe(gensift, recipe, tmp_path):
    code, out, err = gensift("zoo", "train", "tiny", "--folder", str(tmp_path), "--steps", "3")
    assert (code, out) == (0, "") and str(tmp_path / "done") in err
    gensift("zoo", "train", "tiny")
    assert [(str(folder), steps) for folder, steps in recipe] == [
        (str(tmp_path), 3),
        ("training/tiny", None),
    ]


def test_zoo_evaluate_prints_the_figures(gensift, recipe):
    code, out, _ = gensift("zoo", "evaluate", "tiny", "--json")
    assert (code, json.loads(out)) == (0, {"overall": 0.5, "nested": {"a": 1}})
    assert "overall: 0.5" in gensift("zoo", "evaluate", "tiny")[1]


def test_zoo_list_says_whether_weights_are_there(gensift, recipe):
    code, out, _ = gensift("zoo", "list", "--json")
    assert code == 0
    assert json.loads(out)["zoo"][0]["has_weights"] is False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["zoo", "train", "shapes-flu"], "Nearest: 'shapes-flux'"),
        (["zoo", "train", "shapes-flux", "--steps", "0"], "--steps"),
        (["zoo", "trian"], "Did you mean 'train'"),
        (["zoo"], "Missing command"),
        (["lst"], "Did you mean 'list'"),
        (["list", "--jsn"], "No such option"),
    ],
)
def test_mistakes_give_one_line(gensift, arguments, expected):
    code, out, err = gensift(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line


def test_a_recipe_that_cannot_be_imported_says_so(gensift, recipe, monkeypatch):
    monkeypatch.delitem(sys.modules, "fake_recipe")
    code, _, err = gensift("zoo", "train", "tiny")
    assert code == 2 and "fake_recipe:train" in err


def test_no_arguments_show_the_help(gensift):
    code, out, _ = gensift()
    assert code == 0 and "doctor" in out
