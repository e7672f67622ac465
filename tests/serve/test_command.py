"""`jtl serve`: what it says, how it begins, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jtl
from jtl.common.errors import UserError
from jtl.serve import command as serve
from jtl.serve import server
from support import tiny
from support.commands import main
from support.serving import png, run_and_stop

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["--abstain", "1.5"], "--abstain must be a probability of at least 0 and below 1"),
        (["--max-batch", "24"], "--max-batch must be a power of two, not 24"),
        (["--max-upload", "many"], "--max-upload must be a size such as 4GB"),
        (["--max-upload", "0"], "--max-upload must be at least 1 byte"),
        (["--max-megapixels", "500"], "--max-megapixels must be from 1 to 178, not 500"),
        (["--name", "a/b"], "--name 'a/b' cannot be part of an address"),
        (["--host", "no.such.host.invalid"], "--host 'no.such.host.invalid' is no address"),
        (["--host", "203.0.113.7"], "cannot listen on --host 203.0.113.7, port 8000"),
    ],
)
def test_options_that_cannot_be(tiny_run, capsys, options, message):
    assert main("serve", tiny_run.folder, "--max-batch", 1, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    assert message in captured.err


def test_no_run(elsewhere, capsys):
    assert main("serve", "nowhere") == 2
    assert "'nowhere' is not a run" in capsys.readouterr().err


def test_a_port_in_use_is_told_before_anything_slow(tiny_run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main("serve", tiny_run.folder, "--port", port) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: port {port} of 127.0.0.1 is in use. Choose another one with --port, or any free "
        "one with --port 0.\n"
    )
    # Also while the other server is compiling.
    with server.bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match="is in use"), server.bound("127.0.0.1", port):
            pass


@pytest.mark.parametrize("module", serve.NEEDED)
def test_without_the_extra(tiny_run, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert main("serve", tiny_run.folder) == 2
    captured = capsys.readouterr()
    assert f"jtl serve needs {module}, which isn't installed" in captured.err
    assert "pip install 'jtl[serve]'" in captured.err


def test_addresses():
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "")):
        with server.bound(host, 0) as listening:
            port = listening.getsockname()[1]
            assert server.address(listening) == f"http://{shown or 'localhost'}:{port}"
            assert (server.own_names(listening, host) is None) == (host == "0.0.0.0")
    with server.bound("127.0.0.2", 0) as listening:
        names = server.own_names(listening, "127.0.0.2")
        assert names == ("localhost", "127.0.0.1", "::1", "127.0.0.2")
    with contextlib.suppress(UserError), server.bound("::1", 0) as listening:  # Without IPv6.
        assert server.address(listening).startswith("http://[::1]:")


def test_other_hosts_get_a_note_and_a_signal_ends_it(tiny_run, capsys):
    options = ["--host", "0.0.0.0", "--max-batch", 1, "--no-examples"]
    assert run_and_stop(tiny_run.folder, *options, host="other.example") == (0, 200)
    captured = capsys.readouterr()
    assert re.fullmatch(r"http://localhost:\d+\n", captured.out)
    assert "note: --host 0.0.0.0 lets every computer that reaches this one use" in captured.err
    assert run_and_stop(tiny_run.folder, *options[2:], host="other.example") == (0, 403)
    assert "note:" not in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.usefixtures("warm_starts")
def test_a_process_serves_and_ends(tiny_run, tiny_data, elsewhere):
    """Over loopback; SIGTERM lets what is in progress be answered, and the exit code is 0."""
    script = Path(tiny.__file__).with_name("tiny_serve.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tiny_run.folder), "--port", "0", "--max-batch", "2"],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)", address)
        assert found, (address, process.communicate(timeout=60))
        image = png(tiny.images(1)[0])
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(image)))
        connection.endheaders(image[:20])
        time.sleep(0.3)  # The server has begun to read it.
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.send(image[20:])
        answer = connection.getresponse()
        assert answer.status == 200
        (row,) = json.loads(answer.read())["predictions"]
        (expected,) = jtl.load(tiny_run).predict(tiny.images(1))
        assert row["classes"][0]["class"] == expected.label
        assert row["classes"][0]["probability"] == pytest.approx(expected.probability, abs=1e-6)
        connection.close()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert "compiling: 3/3 programs" in err
    assert "Serving '" in err
    assert "Stopping after what is in progress" in err
    assert "Traceback" not in err
    assert list(elsewhere.iterdir()) == []
