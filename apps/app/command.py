"""`gensift app`: the command."""

from __future__ import annotations

from typing import Any

from apps.app.options import PANELS, AppOptions
from apps.command_line import collect, takes_options_of
from apps.preparation import check_output
from gensift.config import from_dict


@takes_options_of(AppOptions, PANELS, {})
def app(**given: Any) -> None:
    """Serve a page on which the sifting can be watched, until Ctrl-C.

    Example: gensift app --port 7860
    """
    options = from_dict(AppOptions, collect(AppOptions, given))
    check_output(options.output)
    from apps.app.serving import serve

    serve(options)
