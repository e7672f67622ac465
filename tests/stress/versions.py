"""The suite on other versions than those that `make test` installs.

    python tests/stress/versions.py lowest         # the lowest that pyproject.toml allows
    python tests/stress/versions.py newest         # the newest, on newer Pythons that are found
    python tests/stress/versions.py trixie         # on Debian 13, in a chroot, after `make demo`

`--tests fast` runs what `make test-fast` does, `--tests short` (the default) the rooms of it that
meet other libraries most, on one newer Python alone, and `--tests whole` everything that needs no
peer. Environments are kept below `--folder`, and installed again only where requirements have
changed or newer releases are out. `trixie` alone needs root and `debootstrap`, and takes what is
committed. A Python that this machine lacks is named and left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("demo", "parquet", "tensorboard", "export", "tfds")
"""All but the peers, which take gigabytes, and the services."""
PYTEST = ("pytest>=8.3", "pytest-timeout>=2.3", "pytest-xdist>=3.6")
NEWER = ("3.12", "3.13", "3.14")
FAST = "not slow and not process and not peer"
PEERS = re.compile(r"^(import|from) (torch|torchvision|timm|keras|tensorflow)\b", re.MULTILINE)
BESIDE_PEERS = [
    f"--ignore={path.relative_to(ROOT)}"
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if PEERS.search(path.read_text(encoding="utf-8"))
]
"""Files of tests that cannot be imported without the peers, whatever their marks are."""
TESTS = {
    "short": ["-m", FAST, "tests/freeze", "tests/optim", "tests/runs", "tests/data/sources"],
    "fast": ["-m", FAST, *BESIDE_PEERS],
    "whole": ["-m", "not peer", *BESIDE_PEERS],
}


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    print("+", *command, flush=True)
    subprocess.run([*map(str, command)], check=True, cwd=ROOT, env={**os.environ, **(env or {})})


class Uv:
    """Installs: the one resolver that knows lowest versions.

    Args:
        folder: Below which environments are kept.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        own = folder / "uv"
        self._program = own / "bin" / "uv"
        if not self._program.exists():
            run(sys.executable, "-m", "venv", own)
            run(own / "bin" / "python", "-m", "pip", "install", "--quiet", "uv>=0.5")

    def environment(self, name: str, python: str, resolution: str) -> Path:
        """The interpreter of an environment that holds jtl and what its tests need."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        lock, interpreter = folder / "requirements.txt", folder / "venv" / "bin" / "python"
        if not interpreter.exists():
            run(self._program, "venv", "--quiet", "--python", python, folder / "venv")
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        run(
            *(self._program, "pip", "compile", "--quiet", "--upgrade", "--no-header"),
            *("--resolution", resolution, "--python", interpreter, *extras),
            *("pyproject.toml", "--output-file", lock),
        )
        install = (self._program, "pip", "install", "--quiet", "--python", interpreter)
        run(*install, "--requirement", lock, *PYTEST)
        run(*install, "--no-deps", "--editable", ".")
        return interpreter


def suite(interpreter: Path, tests: Iterable[str]) -> bool:
    """Whether the tests pass."""
    print(versions(interpreter), flush=True)
    command = [str(interpreter), "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *tests]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def versions(interpreter: Path) -> str:
    code = (
        "import sys; from importlib.metadata import version as v;"
        "print('Python', sys.version.split()[0], *(f'{n} {v(n)}' for n in"
        " ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'pillow')))"
    )
    return subprocess.run(
        [interpreter, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def found(version: str) -> str | None:
    """An interpreter of a version: on the path, or among pyenv's."""
    program = shutil.which(f"python{version}")
    # pyenv's stand-in exists for versions that are not switched on, and fails.
    if program and not subprocess.run([program, "-c", ""], capture_output=True).returncode:
        return program
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    programs = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(programs[-1]) if programs else None


def newest(folder: Path, tests: list[str]) -> bool:
    uv, passed = Uv(folder), True
    interpreters = {version: found(version) for version in NEWER}
    here = [version for version, program in interpreters.items() if program]
    for version, program in interpreters.items():
        if program is None:
            print(f"no Python {version} on this machine: left out", flush=True)
        elif tests is not TESTS["short"] or version == here[-1]:
            passed &= suite(uv.environment(f"newest-{version}", program, "highest"), tests)
    return passed


def lowest(folder: Path, tests: list[str]) -> bool:
    # Old releases of one library use what newer ones of another have deprecated.
    tests = ["-W", "ignore::DeprecationWarning", *tests]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = Uv(folder).environment(f"lowest-{version}", sys.executable, "lowest-direct")
    return suite(python, tests)


def trixie(folder: Path, tests: list[str]) -> bool:
    """A fresh clone in a Debian 13 of its own: a newcomer's first command, and the tests."""
    root = folder / "trixie"
    if not (root / "usr/bin/make").exists():
        packages = "python3,python3-venv,git,make,ca-certificates,libgomp1"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "trixie", root)
    # Processes that train together find each other by the host's name.
    for name in ("resolv.conf", "hosts", "hostname", "ssl/certs/ca-certificates.crt"):
        shutil.copyfile(f"/etc/{name}", root / "etc" / name)
    shutil.rmtree(root / "jtl", ignore_errors=True)
    run("git", "clone", "--quiet", ROOT, root / "jtl")
    for name in ("proc", "dev"):
        run("mount", "--rbind", "--make-rslave", f"/{name}", root / name)
    try:
        steps = (
            ["make", "demo"],
            [".venv/bin/python", "-m", "pip", "install", "--quiet", f"-e.[{','.join(EXTRAS)}]"],
            [".venv/bin/python", "-m", "pip", "install", "--quiet", *PYTEST],
            [".venv/bin/python", "-m", "pytest", "-q", "-n2", "--dist=worksteal", *tests],
        )
        script = " && ".join(["cd /jtl", *map(shlex.join, steps)])
        return (
            subprocess.run(["chroot", str(root), "sh", "-c", script], check=False).returncode == 0
        )
    finally:
        for name in ("dev", "proc"):
            run("umount", "--recursive", root / name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["lowest", "newest", "trixie"])
    parser.add_argument("--tests", choices=TESTS, default="short")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "jtl-versions")
    parser.add_argument("--folder", type=Path, default=default, help="for environments")
    options = parser.parse_args()
    tests, passed = TESTS[options.tests], True
    for what in options.what:
        passed &= {"lowest": lowest, "newest": newest, "trixie": trixie}[what](
            options.folder, tests
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
