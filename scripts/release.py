"""Makes a release's files: `make release`, into dist/VERSION.

Wheel and sdist, the image where a container engine answers (and says so where none does), a bill of materials
(CycloneDX, of what requirements/runtime.txt installs), release notes from CHANGELOG.md, and SHA256SUMS of all of them,
looked at as whoever takes them would. The same commit gives the same files, but for the image. Refuses when version,
changelog and chart do not agree, when the version's tag names another commit, or when the tree holds what no commit
has. Publishes nothing.

`make check-release` is its rehearsal: the same files but the image, in a folder that is gone afterwards. Then the tree
may have changes, and the changelog some that are in no version yet.
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

from hatch_build import absolute
from scripts.check_install import PROJECT, Wrong, build, look_at_sdist, look_at_wheel, run

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools/venv/bin"
ENGINES = ("docker", "podman", "buildah")
SUMS = "SHA256SUMS"
NOTES = "NOTES.md"
REHEARSAL = "--check"
_VALID = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(wrong) if wrong else 0)
"""


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


def changes(root: Path, *, rehearsed: bool = False) -> str:
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
    return found[0][2]


def notes(version: str, words: str, made: Sequence[str]) -> str:
    """What whoever takes the files reads first. ``made``: their names; ``words``: what has changed."""
    wheel, image = f"delaybox-{version}-py3-none-any.whl", f"delaybox-{version}-image.tar"
    uses = {
        wheel: f"nodes, workers, clients and the command line: `pip install './{wheel}[all]'`",
        image: f"the same as an image: `docker load --input {image}`",
        f"delaybox-{version}.tar.gz": "the source, with documents, tests and `deploy/`",
        f"delaybox-{version}.cdx.json": "what an installation with every extra is made of, with licences (CycloneDX)",
        SUMS: f"the SHA-256 of each: `sha256sum --check {SUMS}`",
    }
    files = "".join(f"| `{name}` | {use} |\n" for name, use in uses.items() if name in made or name == SUMS)
    text = (
        f"# DelayBox {version}\n\nBefore you upgrade: [what this version needs](docs/upgrading.md). How to install and "
        f"run it: [in production](docs/production.md).\n\n| file | what it is |\n| --- | --- |\n{files}\n{words}\n"
    )
    # Read beside the files, not in the repository.
    return absolute(text, f"{PROJECT['urls']['Repository'].rstrip('/')}/blob/{tag_of(version)}/")


def tag_of(version: str) -> str:
    """The tag of a version."""
    return f"v{version}"


def tagged(version: str) -> bool:
    """Whether this commit has the version's tag. Wrong when another one has it."""
    if not (ROOT / ".git").exists():
        return True
    found, head = (
        subprocess.run(
            ["git", "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.strip()
        for name in (f"refs/tags/{tag_of(version)}", "HEAD")
    )  # fmt: skip
    if found and found != head:
        raise Wrong(
            f"the tag {tag_of(version)} names another commit ({found[:8]}), so that version is out; raise __version__, "
            f"or check the tag out to make its files again"
        )
    return bool(found)


def committed() -> None:
    """Wrong where the tree is not what a commit has; nothing to look at outside of git."""
    if not (ROOT / ".git").exists():
        return
    if changed := run(["git", "status", "--porcelain"], what="asking git for changes", folder=ROOT).rstrip():
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
    words, version = changes(ROOT, rehearsed=rehearsed), version_of(ROOT)
    if not rehearsed:
        tagged(version)
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
    if rehearsed:
        left_out.append("the image: `make check-deploy` carries its steps out")
    elif command := engine():
        print(f"image, with {command}", flush=True)
        image(command, version, target / f"delaybox-{version}-image.tar")
    else:
        left_out.append(
            f"the image: none of {', '.join(ENGINES)} answers here; where one does: "
            f"docker build --file deploy/Dockerfile --tag delaybox:{version} ."
        )
    (target / NOTES).write_text(notes(version, words, [path.name for path in target.iterdir()]))
    (target / SUMS).write_text(sums(target))
    look_at(target)
    return left_out


def look_at(target: Path) -> None:
    """What whoever takes the files relies on. Wrong."""
    version = version_of(ROOT)
    expected = {f"delaybox-{version}{end}" for end in ("-py3-none-any.whl", ".tar.gz", ".cdx.json")} | {
        NOTES,
        SUMS,
    }
    expected |= {path.name for path in target.glob("*-image.tar")}
    if (made := {path.name for path in target.iterdir()}) != expected:
        raise Wrong(f"the files are {', '.join(sorted(made))}, and should be {', '.join(sorted(expected))}")
    if command := shutil.which("sha256sum"):
        run([command, "--check", "--strict", SUMS], what=f"checking {SUMS}", folder=target)
    file = target / f"delaybox-{version}.cdx.json"
    run([TOOLS / "python", "-c", _VALID, file], what="checking the bill of materials against CycloneDX's schema")
    bill = json.loads(file.read_text())
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
    if not tagged(version_of(ROOT)):
        tag = tag_of(version_of(ROOT))
        print(f"next: git tag --annotate {tag} --message 'DelayBox {version_of(ROOT)}', push it, hand the files out")
    return 0


def show(target: Path, left_out: Sequence[str]) -> None:
    """Says what was made, and what was not."""
    for path in sorted(target.iterdir()):
        print(f"  {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    for what in left_out:
        print(f"left out: {what}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
