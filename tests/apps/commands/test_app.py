"""`gensift app` as a command: what it refuses before anything heavy is loaded."""

import socket

import pytest

from apps.commands import main as shell
from apps.web.serving import check_port
from gensift.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--port", "99999"), "port"),
        (("--port", "x"), "port"),
        (("--max-candidates", "0"), "max_candidates"),
        (("--dtype", "int8"), "dtype"),
        (("--output", "/etc/hostname/runs"), "cannot be made"),
        (("--host", "192.0.2.1", "--share"), "share"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, arguments, part):
    assert shell.main(["app", *arguments]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("error: ") and part in line


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
