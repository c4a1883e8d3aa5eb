"""The model hub: whether it can be reached, what of it is here already, and its errors as ours.

Every library has errors of its own for a model that is absent, gated, damaged or half fetched, and
they change from version to version; `foreign_errors` is the one place that turns them into a line.
"""

from __future__ import annotations

import functools
import pickle
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gensift.errors import ConfigError, GensiftError, MissingExtraError

_HUB_ID = r"\w([\w.-]*\w)?/\w([\w.-]*\w)?"
"""The hub takes no other names, nor those with two hyphens or dots in a row."""
_PROBE_TIMEOUT_S = 3
_PROBE_VALID_S = 60
_BUILTIN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError),
    *(EOFError, ImportError, pickle.UnpicklingError),
)
"""What readers of models, configs and tokenizers raise on files that are absent or damaged."""
_LIBRARIES = ("huggingface_hub", "httpx", "httpx2", "requests", "urllib3", "safetensors", "zipfile")
"""Whose own errors are foreign, too; which HTTP client the hub uses differs between versions."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` of the hub, and not that of a path."""
    is_named = re.fullmatch(_HUB_ID, name, re.ASCII) is not None
    return is_named and len(name) <= 96 and "--" not in name and ".." not in name


def is_local(source: str) -> bool:
    """Whether a model is a file or a folder here, or can be nothing else."""
    return not is_hub_id(source) or Path(source).exists()


def is_offline(source: str) -> bool:
    """Whether a model is to be loaded without a network: it lies here, or the hub is away."""
    return is_local(source) or is_hub_away()


def is_hub_away() -> bool:
    """Whether nothing can be fetched: offline mode is on, or the hub does not answer."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _answers(int(time.monotonic() // _PROBE_VALID_S))


@functools.lru_cache(maxsize=1)
def _answers(minute: int) -> bool:
    """Whether the hub answers; asked once a minute, as its own retries take long."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except Exception:  # of the HTTP client, which differs between versions of the hub
        return False
    return True


def cached_file(hub_id: str, filename: str) -> Path | None:
    """A file of a hub model in the local cache; None where it is not."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, filename)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def check_available(source: str, what: str, advice: str) -> None:
    """Refuse at once a hub model that is neither in the local cache nor can be fetched.

    Args:
        source: a hub id; anything else passes.
        what: names the model in the message, such as "Model 'owner/name'".
        advice: what to do instead, such as "Give a local folder".

    Raises:
        ConfigError: there is nothing of it in the cache, and the hub is away.
    """
    if is_local(source) or _is_begun(source) or not is_hub_away():
        return
    raise ConfigError(f"{what} is not in the local hub cache, and {_why_away()}. {advice}.")


def _is_begun(hub_id: str) -> bool:
    """Whether the cache holds anything of a model."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model")
    return any(folder.glob("snapshots/*/*"))


def _why_away() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE keeps it from being fetched"
    return f"{constants.ENDPOINT} cannot be reached"


@contextmanager
def foreign_errors(what: str, advice: str, source: str = "") -> Iterator[None]:
    """Turn the errors of other libraries inside the block into one line.

    Args:
        what: what is being loaded, such as "Model 'owner/name'".
        advice: what to do, such as "Give a folder or hub id".
        source: the place that it comes from; a hub id is refused at once, see `check_available`.

    Raises:
        ConfigError: it is unknown to the hub, gated, not or only partly in the cache while the hub
            is away, or cannot be read.
        MissingExtraError: a package is missing.
    """
    check_available(source, what, advice)
    try:
        yield
    except GensiftError:
        raise
    except Exception as error:  # of any library below; what is none of theirs is raised again
        if not _is_foreign(error):
            raise
        if isinstance(error, ImportError):
            raise MissingExtraError(
                f"{what} needs a missing package: {one_line(error)}; install it."
            ) from error
        raise ConfigError(f"{what} {_reason(error, source)}. {advice}.") from error


def one_line(error: BaseException) -> str:
    """The message of an error of another library, short enough to quote."""
    return " ".join(str(error).split())[:300].rstrip(".:;, ") or type(error).__name__


def _is_foreign(error: Exception) -> bool:
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return isinstance(error, _BUILTIN) or not modules.isdisjoint(_LIBRARIES)


def _reason(error: BaseException, source: str) -> str:
    """What is wrong, in words of ours where the hub is the cause."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{source}"
    causes = tuple(_chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"is gated: accept its terms at {page}, then log in by `hf auth login`"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"is unknown to {constants.ENDPOINT}, or private: check the name, or log in by "
            "`hf auth login`"
        )
    if source and not is_local(source) and is_hub_away():
        state = "is only partly" if _is_begun(source) else "is not"
        return f"{state} in the local hub cache, and {_why_away()} ({one_line(error)})"
    return f"cannot be loaded: {one_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
