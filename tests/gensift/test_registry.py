import sys
from importlib.metadata import EntryPoint

import pytest

from gensift.errors import DuplicateNameError, MissingExtraError, PluginError, UnknownNameError
from gensift.registry import Registry

GROUP = "gensift.things"


class FakeDistribution:
    def __init__(self, name):
        self.name = name
        self.metadata = {"Summary": f"Things of {name}"}


def entry_point(name, value, distribution):
    entry = EntryPoint(name, value, GROUP)
    vars(entry)["dist"] = FakeDistribution(distribution)
    return entry


@pytest.fixture
def registry():
    return Registry("thing", GROUP)


@pytest.fixture
def installed(monkeypatch):
    """A list that stands for the entry points of the installed distributions."""
    entries, reads = [], []

    def fake(group):
        reads.append(group)
        return entries

    monkeypatch.setattr("gensift.registry.entry_points", fake)
    entries_and_reads = (entries, reads)
    return entries_and_reads


def test_decorator_direct_and_lazy_registration_give_the_same_objects(registry):
    @registry.register("decorated")
    def decorated():
        return 1

    registry.register("direct", decorated)
    registry.register("lazy", "collections:OrderedDict.fromkeys")
    from collections import OrderedDict

    assert registry.get("decorated") is decorated
    assert registry.get("direct") is decorated
    assert registry.get("lazy") == OrderedDict.fromkeys
    assert registry.names() == ["decorated", "direct", "lazy"]
    assert [name for name, _ in registry.items()] == registry.names()


def test_lazy_target_is_imported_only_when_asked_for(registry, tmp_path, monkeypatch):
    (tmp_path / "lazy_plugin_module.py").write_text("VALUE = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.register("lazy", "lazy_plugin_module:VALUE")
    assert "lazy" in registry
    assert registry.names() == ["lazy"]
    assert "lazy_plugin_module" not in sys.modules
    assert registry.get("lazy") is registry.get("lazy")
    assert "lazy_plugin_module" in sys.modules


def test_a_duplicate_names_both_targets_and_keeps_the_first(registry):
    registry.register("a", "json:loads")
    with pytest.raises(DuplicateNameError, match=r"'a'.*json:loads.*json:dumps"):
        registry.register("a", "json:dumps")
    import json

    assert registry.get("a") is json.loads


def test_a_module_may_decorate_what_is_registered_lazily(registry):
    registry.register("path", "pathlib:PurePosixPath")
    from pathlib import PurePosixPath

    assert registry.register("path", PurePosixPath) is PurePosixPath


def test_a_miss_names_the_nearest_and_all(registry):
    registry.register("ttsnap", 1)
    registry.register("odd", 2)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("tsnap")
    expected = "'tsnap' is not a registered thing. Nearest: 'ttsnap'. Known: odd, ttsnap."
    assert str(caught.value) == expected


@pytest.mark.parametrize("target", ["no_such_module_x:f", "json:no_such", "json"])
def test_a_lazy_target_that_fails_to_import_says_which(registry, target):
    registry.register("bad", target)
    with pytest.raises(MissingExtraError, match=f"'bad' is registered as '{target}'"):
        registry.get("bad")


def test_check_refuses_an_object_of_another_kind():
    registry = Registry("reward", GROUP, check=callable)
    registry.register("number", 3)
    with pytest.raises(PluginError, match="'number' is 3, which is not a reward"):
        registry.get("number")


def test_entry_points_of_others_are_read_once_and_own_ones_ignored(registry, installed):
    entries, reads = installed
    entries.append(entry_point("theirs", "json:dumps [extra]", "other-package"))
    entries.append(entry_point("ours", "json:loads", "gensift"))
    registry.register("ours", 1)
    assert reads == []
    import json

    assert registry.get("theirs") is json.dumps
    assert registry.get("ours") == 1
    assert "theirs" in registry
    assert reads == [GROUP]


def test_a_clash_between_installed_packages_is_reported_every_time(registry, installed):
    entries, _ = installed
    entries.append(entry_point("same", "json:dumps", "one"))
    entries.append(entry_point("same", "json:loads", "two"))
    for _ in range(2):
        with pytest.raises(DuplicateNameError, match=r"json:dumps.*json:loads"):
            registry.names()


def test_what_is_said_of_a_name_is_read_without_importing_it(registry, installed):
    entries, _ = installed
    entries.append(entry_point("theirs", "nowhere.at.all:Thing", "others"))
    registry.register("ours", "not.there:Thing", summary="One of ours.", modality="image")
    assert registry.about("ours") == {"summary": "One of ours.", "modality": "image"}
    assert registry.about("theirs") == {"summary": "Things of others (from others)"}
    with pytest.raises(UnknownNameError, match="'neither' is not a registered thing"):
        registry.about("neither")
