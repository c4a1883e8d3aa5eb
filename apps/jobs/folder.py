"""The folder of a run: opened, looked through for what is done, and left as it was found."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from apps.console import say
from apps.jobs.job import Job
from gensift import __version__
from gensift.errors import GensiftError, ProcessLostError, RunFolderError
from gensift.json_files import DamagedError, read_object
from gensift.protocols import JsonObject
from gensift.runs import LOCK, PLAN, SUMMARY, RunFolder

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "accelerate", "numpy")


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    found = {"gensift": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def open_folder(job: Job) -> Iterator[RunFolder]:
    """Open the run folder, and take away again what a run that came to nothing has begun."""
    was_run = (job.folder / SUMMARY).exists()
    missing = [p for p in (job.folder, *job.folder.parents) if not p.exists()]
    with RunFolder(
        job.folder,
        config=job.config,
        command=job.command,
        pipeline_call=job.pipeline_call,
        versions=versions(),
    ) as folder:
        try:
            yield folder
        except GensiftError as error:
            # A lost process is no mistake in the request: the same command shall go on.
            is_refused = not isinstance(error, ProcessLostError)
            if is_refused and not was_run and not folder.results():
                _discard(folder, missing)
            raise


def _discard(folder: RunFolder, made: Sequence[Path]) -> None:
    """Remove what the run has begun: its files, and the folders that it `made`, innermost first."""
    for name in (SUMMARY, PLAN, LOCK):
        (folder.path / name).unlink(missing_ok=True)
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        parent.rmdir()


def say_what_is_done(job: Job, folder: RunFolder) -> set[int]:
    """Indices of the prompts that an earlier run has finished.

    Raises:
        RunFolderError: the folder holds results for other prompts.
    """
    for line in folder.results():
        index = line["prompt_index"]
        if index < len(job.prompts) and line["prompt"] != job.prompts[index]:
            raise RunFolderError(
                f"{folder.path} holds a result for prompt {index}, {line['prompt']!r}, but now it "
                f"is {job.prompts[index]!r}; add new prompts at the end, or give another --output."
            )
        if index < len(job.prompts) and line.get("own", {}) != job.row(index).own:
            raise RunFolderError(
                f"{folder.path} holds a result for prompt {index} drawn with "
                f"{line.get('own') or 'nothing of its own'}, but now it sets "
                f"{job.row(index).own or 'nothing'}; repeat that, or give another --output."
            )
    finished = folder.finished(job.prompts)
    if finished:
        say(
            f"Resuming {folder.path}: {len(finished)} of {len(job.prompts)} prompts are finished "
            "and skipped."
        )
    lost = {index for index in folder.lost() if index < len(job.prompts)}
    if lost:
        say(
            f"{len(lost)} finished prompts have lost files or torn pictures "
            f"({', '.join(map(str, sorted(lost)[:8]))}{', …' if len(lost) > 8 else ''}); they are "
            "drawn again.",
            style="yellow",
        )
    _number_first_trace(job, folder)
    return finished


def _number_first_trace(job: Job, folder: RunFolder) -> None:
    """A folder that began with a single prompt holds that trace without a number."""
    for kind in ("json", "png"):
        single, numbered = (folder.path / f"{name}.{kind}" for name in ("trace", "trace-0000"))
        if len(job.prompts) > 1 and single.exists() and not numbered.exists():
            single.replace(numbered)


def combine_traces(job: Job, folder: RunFolder) -> None:
    """Join the traces of all prompts; while the run lasts each has a file of its own.

    One growing file would be written again for every prompt.
    """
    if len(job.prompts) == 1:
        return
    files = [folder.path / f"{job.trace_name(index)}.json" for index in range(len(job.prompts))]
    prompts = [prompt for file in files if file.exists() for prompt in _prompts_in(file)]
    folder.write_json("trace.json", {"prompts": prompts})


def _prompts_in(file: Path) -> list[JsonObject]:
    """The prompts of a trace file; none, with a warning, of one that is damaged."""
    try:
        found = read_object(file).get("prompts")
        if isinstance(found, list):
            return found
        reason = "it holds no prompts"
    except DamagedError as error:
        reason = str(error)
    say(f"warning: {file} is damaged ({reason}) and left out of trace.json.", style="yellow")
    return []
