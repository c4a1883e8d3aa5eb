"""`gensift app`: the command."""

from __future__ import annotations

from apps.commands.command_line import collect, takes_options_of
from apps.jobs.job import check_output
from apps.web.options import PANELS, AppOptions
from gensift.config import from_dict


@takes_options_of(AppOptions, PANELS, {})
def app(**given: object) -> None:
    """Serve a page on which the sifting can be watched, until Ctrl-C.

    Example: gensift app --port 7860
    """
    options = from_dict(AppOptions, collect(AppOptions, given))
    check_output(options.output)
    from apps.web.serving import serve

    serve(options)
