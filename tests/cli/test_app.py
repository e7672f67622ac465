"""What ends a command from outside: closed pipes, full disks, little memory, poor locales."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jtl.cli import app
from jtl.common.errors import UserError, explain, suggest
from jtl.data.sources import registry
from support.toy_command import NAMES, Options


def start(*args: str, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.toy_command", *args],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
    )


@pytest.mark.process
@pytest.mark.parametrize("args", [("--do", "lines"), ("--do", "line"), ("--help",)])
def test_a_reader_that_has_gone_ends_it_quietly(args: tuple[str, ...]):
    readable, writable = os.pipe()
    os.close(readable)  # As `head` does, here before the first line.
    process = start(*args, stdout=writable)
    os.close(writable)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("do", ["lines", "line"])
def test_a_full_disk_behind_stdout_is_told(do: str):
    with Path("/dev/full").open("wb") as full:
        process = start("--do", do, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.decode() == "error: No space left on device. Free some space, or write elsewhere.\n"


@pytest.mark.process
def test_names_that_the_locale_cannot_write():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = start("--do", "names", **ascii_only)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.decode("ascii").splitlines() == ["\\xf6-ash", "\\u6a3a", "plain", "a\\udcff"]


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_locale(encoding: str):
    process = start("--do", "json", PYTHONIOENCODING=encoding)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out.decode(encoding)) == {"names": list(NAMES)}
    assert ("樺" in out.decode(encoding)) == (encoding == "utf-8")


@pytest.mark.process
def test_a_defect_keeps_its_traceback():
    process = start("--do", "defect")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"KeyError: 'a defect of jtl'" in err


def wrapped(outer: Exception, inner: Exception) -> Exception:
    """`outer` as raised while `inner` was handled."""
    try:
        try:
            raise inner
        except Exception:
            raise outer  # noqa: B904
    except Exception as error:
        return error


TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "x/0": Failed to write 7 bytes to file 4: '
    "No space left on device [os_error_code='28']"
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "run/x"),
            "No space left on device: 'run/x'. Free some space, or write elsewhere.",
        ),
        (
            wrapped(ValueError("cleanup failed"), OSError(errno.ENOSPC, "No space left on device")),
            "No space left on device. Free some space",
        ),
        (ValueError(TENSORSTORE), 'No space left on device: Error writing "x/0"'),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            "Permission denied: 'x'. Allow it, or name another place.",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "File name too long: 'x'. Name a"),
        (MemoryError("Unable to allocate 9 TiB"), "not enough memory: Unable to allocate"),
        (MemoryError(), "not enough memory: no more is available"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            "not enough memory: Out of memory allocating 9 bytes.\n",
        ),
        (UserError("do it otherwise"), "do it otherwise"),
    ],
)
def test_what_is_explained(error: Exception, told: str, capsys: pytest.CaptureFixture[str]):
    assert (explain(error) or "").startswith(told)

    def fail(options: Options) -> None:
        raise error

    assert app.main(Options, fail, prog="it", args=[]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {told}")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of another kind"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        jax.errors.JaxRuntimeError("INTERNAL: of another kind"),
    ],
)
def test_what_is_a_defect(error: Exception):
    assert explain(error) is None

    def fail(options: Options) -> None:
        raise error

    with pytest.raises(type(error)):
        app.main(Options, fail, prog="it", args=[])


def test_a_suggestion_takes_no_notice_of_case():
    assert suggest("HEAD_ONLY", ["full", "head_only"]) == " Did you mean 'head_only'?"
    assert suggest("adam", ["Adam", "sgd"]) == " Did you mean 'Adam'?"
    assert suggest("stage99", ["stem", "head"], 0.7) == ""


def test_an_unreadable_image_is_counted_once(tmp_path: Path):
    for name in ("ants", "bees"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "val" / name).mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(np.full((8, 8, 3), index, np.uint8))
            image.save(tmp_path / "train" / name / f"{index}.png")
            image.save(tmp_path / "val" / name / f"{index}.png")
    last = tmp_path / "train" / "bees" / "2.png"
    last.write_bytes(last.read_bytes()[:-30])
    split = registry.load(f"folder:{tmp_path}", seed=0).train
    # As the last batch of a split comes: filled up with repeats.
    with pytest.raises(UserError) as caught:
        split.read(np.asarray([0, 1, 2, 3, 4, 5, 5, 5, 5, -1]), None)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"1 of 6 images of {tmp_path} (train) cannot be read:"
    assert len(lines) == 3
