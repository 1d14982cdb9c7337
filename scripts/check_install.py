"""Proves that what users get installs and works: `make check-install`.

Builds the sdist and the wheel from it, looks at what they hold, installs the wheel into empty environments with the
newest and with the lowest versions that pyproject.toml allows, on each Python that the machine has and the classifiers
name, and uses each installation from another folder (install_smoke.py). Runs the unit tests in the unpacked sdist.
Packages come from wherever pip is set up to take them from.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_LOWEST = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9][0-9A-Za-z.]*)")
_CLASSIFIER = "Programming Language :: Python :: "
_NOT_SHIPPED = ("benchmarks/results/",)


class Wrong(Exception):
    """What is not as it must be, in words for whoever reads the log."""


def lowest() -> dict[str, str]:
    """Package → the lowest version that pyproject.toml allows. Wrong for a dependency that names none."""
    found: dict[str, str] = {}
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]:
        if requirement.startswith("delaybox["):
            continue
        match = _LOWEST.match(requirement)
        if match is None:
            raise Wrong(f"pyproject.toml: {requirement!r} names no lowest version; write name>=version")
        found[match[1]] = match[2]
    return found


def pythons() -> Iterator[tuple[str, str]]:
    """Version and path of each interpreter to try, newest first; what no classifier names is left out, and said."""
    named = {line.removeprefix(_CLASSIFIER) for line in PROJECT["classifiers"] if line.startswith(_CLASSIFIER)}
    done = run([str(ROOT / "scripts/find-python"), "--all"], what="looking for Pythons")
    for line in done.splitlines():
        version, path = line.split(" ", 1)
        if version in named:
            yield version, path
        else:
            print(f"  Python {version} is not among the classifiers of pyproject.toml: left out")


def run(
    arguments: Sequence[str | Path],
    *,
    what: str,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 600,
) -> str:
    """What a command wrote; Wrong, with its last words, when it fails."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise Wrong(f"{what} failed with exit code {done.returncode}:\n{done.stdout[-6_000:]}")
    return done.stdout


def build(scratch: Path) -> tuple[Path, Path]:
    """The unpacked sdist, and a wheel that was built there, as pip does where an index has no wheel."""
    dist = scratch / "dist"
    builder = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    run([*builder, "-t", "sdist"], what="building the sdist", folder=ROOT)
    (packed,) = dist.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (source,) = (scratch / "sdist").iterdir()
    run([*builder, "-t", "wheel"], what="building the wheel from the sdist", folder=source)
    (wheel,) = dist.glob("*.whl")
    return source, wheel


def look_at_sdist(source: Path) -> None:
    """All that git has is there: `make test` and `make check` need it. Without git there is nothing to compare with."""
    if not (ROOT / ".git").exists():
        return
    kept = run(["git", "ls-files", "-z"], what="asking git for its files", folder=ROOT).split("\0")
    missing = [
        name
        for name in kept
        if name and (ROOT / name).exists() and not name.startswith(_NOT_SHIPPED) and not (source / name).exists()
    ]
    if missing:
        raise Wrong(f"the sdist lacks {', '.join(missing[:10])}; see [tool.hatch.build.targets.sdist]")


def look_at_wheel(wheel: Path) -> None:
    """It holds what users need and nothing that only tests may have; its page on an index leads somewhere."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        texts = {name: archive.read(name).decode() for name in names}
    package = ROOT / "src" / "delaybox"
    needed = {
        f"delaybox/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    needed |= {
        f"delaybox/proto/{path.relative_to(ROOT / 'proto').as_posix()}" for path in ROOT.glob("proto/**/*.proto")
    }
    code = {name for name in names if ".dist-info/" not in name}
    if code != needed:
        raise Wrong(f"the wheel's files and those of the source differ: {sorted(code ^ needed)[:10]}")
    for name, text in texts.items():
        if "DELAYBOX_FAILPOINTS" in text:
            raise Wrong(f"{name} reads DELAYBOX_FAILPOINTS: whoever sets a node's environment could make it fail")
    metadata = next(text for name, text in texts.items() if name.endswith(".dist-info/METADATA"))
    if relative := re.findall(r"\]\((?!https?://|#)([^)]*)\)", metadata):
        raise Wrong(f"links in the readme lead nowhere from an index: {relative[:5]}; see hatch_build.py")
    if "Project-URL: Repository, " not in metadata:
        raise Wrong("the metadata name no repository; see [project.urls]")


def look_at_changelog(wheel: Path) -> None:
    """A version that is no development version has its section, with a date."""
    version = wheel.name.split("-")[1]
    if ".dev" not in version and f"\n## [{version}] - 2" not in (ROOT / "CHANGELOG.md").read_text():
        raise Wrong(f"CHANGELOG.md has no section `## [{version}] - DATE`, and {version} is no development version")


def environment(python: str, folder: Path) -> Path:
    """An empty environment; the path of its Python. pip stays outside and installs into it."""
    run([python, "-m", "venv", "--without-pip", str(folder)], what=f"making an environment with {python}")
    return folder / "bin" / "python"


def pip(into: Path, wheel: str, constraints: Path | None, *, what: str) -> None:
    command: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", into]
    command += ["install", "--quiet", wheel]
    if constraints is not None:
        command += ["--constraint", constraints]
    run(command, what=what)


def install_and_use(wheel: Path, version: str, python: str, constraints: Path | None, folder: Path) -> str:
    """One line about an installation that works. Wrong otherwise."""
    started = time.monotonic()
    kind = "lowest" if constraints else "newest"
    what = f"Python {version}, {kind} versions"
    inside = environment(python, folder / "env")
    pip(inside, f"{wheel}[all]", constraints, what=f"installing on {what}")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    environ = {"HOME": str(elsewhere), "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    smoke: list[str | Path] = [inside, "-P", ROOT / "scripts/install_smoke.py", elsewhere]
    run(smoke, what=f"using it on {what}", folder=elsewhere, environ=environ, timeout_s=240)
    shutil.rmtree(folder)
    return f"{what}: installed and used in {time.monotonic() - started:.0f} s"


def client_alone(wheel: Path, python: str, constraints: Path | None, folder: Path) -> str:
    """Without extras the package is a client and a worker; the command line says which extra it needs."""
    kind = "lowest" if constraints else "newest"
    inside = environment(python, folder / "env")
    pip(inside, str(wheel), constraints, what=f"installing the client ({kind})")
    names = "import delaybox; [getattr(delaybox, name) for name in delaybox.__all__]"
    run([inside, "-P", "-c", names], what=f"importing the client alone ({kind})", folder=folder)
    done = subprocess.run([inside.parent / "delaybox", "serve"], capture_output=True, text=True, timeout=60)
    if done.returncode == 0 or "pip install 'delaybox[all]'" not in done.stderr or "Traceback" in done.stderr:
        raise Wrong(f"`delaybox serve` without the server's parts does not say what to install: {done.stderr[-2000:]}")
    shutil.rmtree(folder)
    return f"the client alone, {kind} versions: installed"


def tests_in(source: Path) -> str:
    """The unit tests of the unpacked sdist, on its own code; every other test is at least found."""
    environ = {"PYTHONPATH": str(source / "src")}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run([*pytest, "-n", "2", "tests/unit"], what="the unit tests in the sdist", folder=source, environ=environ)
    run([*pytest, "--collect-only"], what="finding the tests in the sdist", folder=source, environ=environ)
    return "the sdist: its unit tests pass"


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="delaybox-install-") as name:
        scratch = Path(name)
        constraints = scratch / "lowest.txt"
        try:
            constraints.write_text("".join(f"{package}=={version}\n" for package, version in lowest().items()))
            source, wheel = build(scratch)
            look_at_sdist(source)
            look_at_wheel(wheel)
            print(f"built {wheel.name}", flush=True)
            found = list(pythons())
            if not found:
                raise Wrong("none of the Pythons that pyproject.toml's classifiers name is on this machine")
            with ThreadPoolExecutor(max_workers=2) as pool:
                jobs = []
                for version, python in found:
                    for limits in (None, constraints):
                        folder = scratch / f"{version}-{'lowest' if limits else 'newest'}"
                        folder.mkdir()
                        jobs.append(pool.submit(install_and_use, wheel, version, python, limits, folder))
                for limits in (None, constraints):
                    folder = scratch / f"client-{'lowest' if limits else 'newest'}"
                    folder.mkdir()
                    jobs.append(pool.submit(client_alone, wheel, found[-1][1], limits, folder))
                try:
                    for job in jobs:
                        print(job.result(), flush=True)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            print(tests_in(source), flush=True)
            look_at_changelog(wheel)
        except Wrong as wrong:
            print(f"check-install: {wrong}", file=sys.stderr)
            return 1
    print(f"check-install: all of it works ({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
