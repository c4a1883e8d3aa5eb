import time
from collections.abc import Iterator

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from gensift import hub
from gensift.errors import ConfigError
from rewards.loading import find_checkpoint, load_strictly, read_checkpoint
from rewards.registry import load_reward


class Evil:
    def __reduce__(self):
        return (open, ("evil.txt", "w"))


def test_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "model.pt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_checkpoint("model.pt")
    assert not (tmp_path / "evil.txt").exists()


def test_other_contents_are_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="no tensors by key"):
        read_checkpoint(str(tmp_path / "list.pt"))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_checkpoint(str(tmp_path / "empty.safetensors"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["/no/such/file.pt", "nothing", "./a", "a/b/c"])
def test_what_is_neither_file_nor_hub_id(source):
    with pytest.raises(ConfigError, match="is not there; give a file"):
        find_checkpoint(source, "w.pt", allow_pickle=True)


def test_hub_file_is_fetched_by_its_published_name(monkeypatch):
    monkeypatch.setattr(hub, "is_hub_away", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *given, **_: "/".join(given))
    assert find_checkpoint("owner/name", "w.pt", allow_pickle=True) == "owner/name/w.pt"
    with pytest.raises(ConfigError, match=r"owner/name/w\.pt' is not safetensors"):
        find_checkpoint("owner/name", "w.pt", allow_pickle=False)


@pytest.fixture(autouse=True)
def _forget_the_hub() -> Iterator[None]:
    """What one test says of the hub holds for no other."""
    hub._answers.cache_clear()
    yield
    hub._answers.cache_clear()


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "hpsv2.1", "imagereward", "aesthetic"])
@pytest.mark.parametrize("is_offline", [True, False])
def test_unreachable_hub_gives_one_line_at_once(name, is_offline, monkeypatch, tmp_path):
    """Whether offline by choice, or because nobody answers: without the hub's retries."""
    asked = []

    class Unreachable:
        def head(self, address, timeout):
            asked.append(address)
            raise RuntimeError("nobody")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_session", Unreachable)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="is not in the local hub cache, and") as caught:
        load_reward(name, allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert len(asked) == (0 if is_offline else 1)
    assert time.monotonic() - started < 10


def test_reachable_hub_is_asked_for_the_file(monkeypatch):
    class Reachable:
        def head(self, address, timeout):
            return None

    given = {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Reachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: given.update(k) or "x")
    assert find_checkpoint("owner/name", "w.pt", allow_pickle=True) == "x"
    assert given == {"local_files_only": False}


def test_weights_lie_in_memory_as_those_made_by_torch(tmp_path):
    """Else the same weights elsewhere give other last digits."""
    network = torch.nn.Linear(16, 16)
    # A name of another length moves all that follows in the file.
    file = tmp_path / "model.safetensors"
    save_file({**network.state_dict(), "unused": torch.ones(1, dtype=torch.uint8)}, file)
    with torch.device("meta"):
        loaded = torch.nn.Linear(16, 16)
    load_strictly(loaded, read_checkpoint(str(file)), str(file), ("unused",))
    for name, value in loaded.named_parameters():
        assert value.data_ptr() % 64 == torch.empty(16).data_ptr() % 64 == 0
        assert torch.equal(value, network.get_parameter(name))
