"""Makes a release's files: `make release`, into dist/VERSION.

Wheel and sdist, the image where a container engine answers (and says so where none does), a bill of materials
(CycloneDX, of what requirements/runtime.txt installs), release notes from CHANGELOG.md, and SHA256SUMS of all of them.
Refuses when version, changelog and chart do not agree, or when the tree holds what no commit has. Publishes nothing.

`make check-release` is its rehearsal: the same files but the image, in a folder that is gone afterwards, looked at as
whoever takes them would. Then the tree may have changes, and the changelog some that are in no version yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.check_install import Wrong, build, look_at_sdist, look_at_wheel, run

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools/venv/bin"
ENGINES = ("docker", "podman", "buildah")
SUMS = "SHA256SUMS"
REHEARSAL = "--check"


def version_of(root: Path) -> str:
    """The package's version."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / "src/delaybox/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise Wrong("src/delaybox/__init__.py names no __version__")
    return found[1]


def chart_versions(root: Path) -> dict[str, str]:
    """What the chart names: ``version`` and ``appVersion``."""
    text = (root / "deploy/helm/delaybox/Chart.yaml").read_text()
    return dict(re.findall(r"^(version|appVersion): \"?([^\"\s]+)\"?$", text, re.MULTILINE))


def sections(changelog: str) -> list[tuple[str, str, str]]:
    """The changelog's parts, the newest first: (version, or "Unreleased"; date; text)."""
    parts = re.split(r"^## \[([^\]]+)\](?: - (\S+))?\n", changelog, flags=re.MULTILINE)[1:]
    return [(parts[at], parts[at + 1] or "", parts[at + 2].strip()) for at in range(0, len(parts), 3)]


def notes(root: Path, *, rehearsed: bool = False) -> str:
    """The changelog's words on this version. Wrong when version, changelog and chart do not agree."""
    version = version_of(root)
    for name, value in chart_versions(root).items():
        if value != version:
            raise Wrong(f"deploy/helm/delaybox/Chart.yaml: {name} is {value}, and the package is {version}")
    found = sections((root / "CHANGELOG.md").read_text())
    if found and found[0][0] == "Unreleased":
        if found[0][2] and not rehearsed:
            raise Wrong(
                f"CHANGELOG.md: there are changes under [Unreleased], which would be in no notes; give them the "
                f'heading "## [{version}] - DATE", or raise __version__'
            )
        found = found[1:]
    if not found or found[0][0] != version:
        newest = found[0][0] if found else "none"
        raise Wrong(f"CHANGELOG.md: its newest version is {newest}, and the package is {version}")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", found[0][1]):
        raise Wrong(f'CHANGELOG.md: the section of {version} has no date; write "## [{version}] - YYYY-MM-DD"')
    if not found[0][2]:
        raise Wrong(f"CHANGELOG.md: the section of {version} is empty")
    return (
        f"# DelayBox {version}\n\nUpgrade: docs/upgrading.md. What each file is: {SUMS} lists them, with their "
        f"SHA-256.\n\n{found[0][2]}\n"
    )


def committed() -> None:
    """Wrong where the tree is not what a commit has; nothing to look at outside of git."""
    if not (ROOT / ".git").exists():
        return
    if changed := run(["git", "status", "--porcelain"], what="asking git for changes", folder=ROOT).strip():
        raise Wrong(f"the tree has changes that no commit has; commit them first:\n{changed}")


def bill_of_materials(wheel: Path, version: str, scratch: Path) -> str:
    """What an installation with every extra holds, as CycloneDX in JSON: made from one, so with licences."""
    environment = scratch / "installed"
    run([sys.executable, "-m", "venv", environment], what="making an environment")
    python = environment / "bin/python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(
        [*install, "--require-hashes", "--requirement", ROOT / "requirements/runtime.txt"],
        what="installing requirements/runtime.txt",
    )
    run([*install, "--no-deps", wheel], what="installing the wheel")
    # What only puts packages there is none of them.
    run([*install[:3], "uninstall", "--quiet", "--yes", "setuptools", "pip"], what="removing pip")
    made = scratch / "sbom.json"
    run(
        [
            TOOLS / "cyclonedx-py", "environment", "--output-reproducible", "--of", "JSON", "--mc-type", "application",
            "--pyproject", ROOT / "pyproject.toml", "-o", made, python,
        ],
        what="cyclonedx-py",
    )  # fmt: skip
    bill = json.loads(made.read_text())
    # The version in pyproject.toml is read from the package, which cyclonedx-py does not do.
    bill["metadata"]["component"]["version"] = version
    if not bill.get("components"):
        raise Wrong("cyclonedx-py found no packages")
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def engine() -> str:
    """The container engine that answers; "": none does."""
    for name in ENGINES:
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return name
    return ""


def image(command: str, version: str, file: Path) -> None:
    """Builds the image and writes it to ``file``."""
    tag = f"delaybox:{version}"
    archive = ["push", tag, f"docker-archive:{file}:{tag}"]
    written = archive if command == "buildah" else ["save", "--output", str(file), tag]
    run(
        [command, "build", "--file", ROOT / "deploy/Dockerfile", "--tag", tag, ROOT],
        what="building the image",
        timeout_s=3_600,
    )
    run([command, *written], what="writing the image", timeout_s=600)


def sums(folder: Path) -> str:
    """SHA-256 of each file, as `sha256sum --check` reads it."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.name != SUMS
    )


def release(target: Path, *, rehearsed: bool = False) -> list[str]:
    """Makes all files in ``target``. Answers what could not be made, and why."""
    words, version = notes(ROOT, rehearsed=rehearsed), version_of(ROOT)
    if not rehearsed:
        committed()
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        print(f"wheel and sdist of {version}", flush=True)
        source, wheel = build(scratch)
        look_at_sdist(source)
        look_at_wheel(wheel)
        print("bill of materials", flush=True)
        bill = bill_of_materials(wheel, version, scratch)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(scratch / "dist", target)
    (target / f"delaybox-{version}.cdx.json").write_text(bill)
    (target / "NOTES.md").write_text(words)
    if rehearsed:
        left_out.append("the image: `make check-deploy` carries its steps out")
    elif command := engine():
        print(f"image, with {command}", flush=True)
        image(command, version, target / f"delaybox-{version}-image.tar")
    else:
        left_out.append(f"the image: none of {', '.join(ENGINES)} answers here")
    (target / SUMS).write_text(sums(target))
    return left_out


def look_at(target: Path) -> None:
    """What whoever takes the files relies on. Wrong."""
    version = version_of(ROOT)
    expected = {f"delaybox-{version}{end}" for end in ("-py3-none-any.whl", ".tar.gz", ".cdx.json")} | {
        "NOTES.md",
        SUMS,
    }
    if (made := {path.name for path in target.iterdir()}) != expected:
        raise Wrong(f"the files are {', '.join(sorted(made))}, and should be {', '.join(sorted(expected))}")
    if command := shutil.which("sha256sum"):
        run([command, "--check", "--strict", SUMS], what=f"checking {SUMS}", folder=target)
    bill = json.loads((target / f"delaybox-{version}.cdx.json").read_text())
    parts = {part["name"].lower(): part for part in bill["components"]}
    required = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    needed = {re.sub(r"[._-]+", "-", name) for name in required}
    there = {re.sub(r"[._-]+", "-", name) for name in parts}
    if not there & needed:
        raise Wrong("the bill of materials names nothing of requirements/runtime.txt")
    if strange := there - needed - {"delaybox"}:
        raise Wrong(f"the bill of materials names what requirements/runtime.txt does not: {', '.join(sorted(strange))}")
    if nameless := [name for name, part in parts.items() if not part.get("version")]:
        raise Wrong(f"the bill of materials has no version of {', '.join(sorted(nameless))}")


def rehearse() -> None:
    """Makes the files and looks at them. Wrong."""
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "release"
        left_out = release(target, rehearsed=True)
        look_at(target)
        show(target, left_out)


def main(arguments: Sequence[str]) -> int:
    os.chdir(ROOT)
    try:
        if REHEARSAL in arguments:
            rehearse()
            return 0
        target = Path(arguments[0]) if arguments else ROOT / "dist" / version_of(ROOT)
        left_out = release(target)
    except Wrong as wrong:
        print(f"release: {wrong}", file=sys.stderr)
        return 1
    show(target, left_out)
    return 0


def show(target: Path, left_out: Sequence[str]) -> None:
    """Says what was made, and what was not."""
    for path in sorted(target.iterdir()):
        print(f"  {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    for what in left_out:
        print(f"left out: {what}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
