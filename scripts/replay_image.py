"""Carries deploy/Dockerfile out without a container engine, as far as that goes: a part of `make check-deploy`.

Each stage gets a root file system that is this machine's, with its changes in memory, and the base image's Python at
/usr/local. So it shows that the commands work and that what is copied is enough. The program then starts as the image's
user, without any right and on a root file system that is read-only, becomes healthy, takes a task, and ends at the stop
signal; then a worker. It does not show that the base image has what else this machine has.

    unshare --mount python scripts/replay_image.py PREFIX SCRATCH

as root. PREFIX: of the Python that stands for the base image's. SCRATCH: an empty folder, on which all is mounted. The
mounts are seen by this process alone and are gone with it; whoever made the folder removes it afterwards, not before.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy/Dockerfile"
APP = ROOT / "deploy/compose/app/app.py"
"""A worker for the image, as deploy/compose/worker.yaml runs it."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NETWORK = re.compile(r"PIP_|(HTTPS?|NO)_PROXY$|SSL_CERT_|REQUESTS_CA_", re.IGNORECASE)
"""What a build needs of this machine's environment to reach an index of packages."""
_KNOWN = frozenset({"LABEL", "EXPOSE"})
"""Steps that change nothing in the file system or the process."""
_HEALTHY_S, _END_S = 90, 20
_SIOCSIFFLAGS, _UP = 0x8914, 0x41


NOT_HERE = 3
"""The exit code where this machine lets nobody mount such a file system."""


class Failed(Exception):
    """A step that does not work."""


class NotHere(Exception):
    """Why no step can be tried."""


@dataclass(slots=True)
class Stage:
    """A stage under way. ``root``: its file system; ``env``: the image's variables."""

    name: str
    base: str
    root: str
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    folder: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    stop: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what stands behind them; continued lines are joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parts = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def taken(path: str, ignored: Sequence[str]) -> bool:
    """Whether a file of the repository is sent to the engine. ``ignored``: the lines of .dockerignore."""
    found = True
    names = [path, *(str(one) for one in Path(path).parents if str(one) != ".")]
    for line in ignored:
        pattern = line.strip().lstrip("!")
        if not pattern or line.startswith("#"):
            continue
        tail = pattern.removeprefix("**/")
        if any(fnmatch(name, pattern) or (tail != pattern and fnmatch(Path(name).name, tail)) for name in names):
            found = line.startswith("!")
    return found


def context() -> Iterator[str]:
    """The files that are sent to the engine: of those that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    return (name for name in listed.split("\0") if name and (ROOT / name).is_file() and taken(name, ignored))


def replay(python: Path, scratch: Path) -> None:
    """Carries the steps out; ``python``: the prefix of the base image's. Failed."""
    mount("tmpfs", scratch, "-t", "tmpfs")
    stages: list[Stage] = []
    for word, rest in steps(DOCKERFILE.read_text()):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name or str(len(stages)), base, str(file_system(scratch, len(stages), python))))
            continue
        one_step(stages, word, rest)
        print(f"    {word} {rest[:90]}", flush=True)
    last = stages[-1]
    uid, gid = last.user.split(":")
    for volume in last.volumes:
        mount("tmpfs", Path(f"{last.root}{volume}"), "-t", "tmpfs", "-o", f"uid={uid},gid={gid},mode=700")
    mount("overlay", Path(last.root), "-o", "remount,ro")
    # A network of its own, because its ports may be taken here.
    done = subprocess.run(
        ["unshare", "--net", sys.executable, __file__, "--serve", json.dumps(asdict(last))], check=False
    )
    if done.returncode:
        raise Failed("the program of the image does not run; see above")


def file_system(scratch: Path, number: int, python: Path) -> Path:
    """This machine's, with changes in memory."""
    root, above, work = (scratch / f"{name}{number}" for name in ("root", "above", "work"))
    for folder in (root, above, work):
        folder.mkdir()
    try:
        mount("overlay", root, "-t", "overlay", "-o", f"lowerdir=/,upperdir={above},workdir={work}")
    except Failed as failed:
        raise NotHere(str(failed)) from None
    for name in ("proc", "dev"):
        mount(f"/{name}", root / name, "--rbind")
    mount("tmpfs", root / "tmp", "-t", "tmpfs", "-o", "mode=1777")
    if python != Path("/usr"):
        mount(str(python), root / "usr/local", "--bind")
        mount(str(python), root / "usr/local", "-o", "remount,bind,ro")
        # Its library is found there, as in the base image, by users who may not read where it lies on this machine.
        subprocess.run(["chroot", root, "/sbin/ldconfig"], check=True)
    return root


def mount(what: str, where: Path, *options: str) -> None:
    """In this process's own view of the file system. Failed."""
    done = subprocess.run(["mount", *options, what, where], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"mount {' '.join(options)} {what}: {done.stderr.strip()}")


def one_step(stages: list[Stage], word: str, rest: str) -> None:
    """Carries out one instruction of the last stage. Failed."""
    stage = stages[-1]
    match word:
        case "RUN":
            outside = {name: value for name, value in os.environ.items() if _NETWORK.match(name)}
            run(stage, ["sh", "-ec", rest], {**outside, **stage.env, "HOME": "/root"})
        case "ENV":
            for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', rest):
                stage.env[name] = re.sub(r"\$(\w+)", lambda found: stage.env.get(found[1], ""), value.strip('"'))
        case "WORKDIR":
            stage.folder = rest
            Path(f"{stage.root}{rest}").mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy(stages, rest.split())
        case "USER":
            stage.user = rest
        case "VOLUME":
            stage.volumes.append(rest)
        case "STOPSIGNAL":
            stage.stop = rest
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
        case "ENTRYPOINT":
            stage.entry = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case other if other not in _KNOWN:
            raise Failed(f"{DOCKERFILE.name}: {other} is a step that scripts/replay_image.py does not know")


def copy(stages: list[Stage], words: list[str]) -> None:
    """From an earlier stage, or from the repository. Failed."""
    stage = stages[-1]
    *sources, target = [word for word in words if not word.startswith("--")]
    into = Path(f"{stage.root}{Path(stage.folder, target)}")
    if words[0].startswith("--from="):
        (earlier,) = (one for one in stages if one.name == words[0].removeprefix("--from="))
        into.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{earlier.root}{sources[0]}", into], check=True)
        return
    for name in context():
        inner = next((name if one == "." else Path(name).name for one in sources if one in (".", name)), None)
        if inner is not None:
            (into / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / inner)
    if lost := [one for one in sources if one != "." and one not in set(context())]:
        raise Failed(f"COPY {' '.join(words)}: .dockerignore keeps {', '.join(lost)} away, or it is not there")


def run(stage: Stage, command: Sequence[str], environ: Mapping[str, str]) -> None:
    """As root in the stage's file system. Failed, with the last words."""
    inside = ["chroot", stage.root, "env", f"--chdir={stage.folder}", *command]
    done = subprocess.run(inside, capture_output=True, text=True, check=False, env=dict(environ), timeout=1_800)
    if done.returncode:
        raise Failed(f"{command[-1]}:\n{(done.stdout + done.stderr)[-4_000:]}")


def serve(stage: Stage) -> None:
    """Runs the image as its user, in this process's network. Failed."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _UP))
    uid, gid = stage.user.split(":")
    rights = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
    as_user = ["chroot", stage.root, "setpriv", f"--reuid={uid}", f"--regid={gid}", *rights]
    as_user += ["env", f"--chdir={stage.folder}"]
    environ = {**stage.env, "DELAYBOX_INSECURE": "true", "HOME": stage.volumes[0]}
    refused = subprocess.run(["touch", f"{stage.root}/opt/written"], capture_output=True, text=True, check=False)
    if "Read-only file system" not in refused.stderr:
        raise Failed(f"the root file system is not read-only: {refused.stderr}")
    with healthy(stage, as_user, stage.command, environ) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if f"Uid:\t{uid}" not in status or not re.search(r"^CapEff:\t0+$", status, re.MULTILINE):
            raise Failed(f"the program has rights that it needs not:\n{status}")
        body = {"Content-Type": "application/json"}
        asked = urllib.request.Request("http://127.0.0.1:8088/v1/tasks", b'{"payload": "x"}', body, method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            if answer.status != 201:
                raise Failed(f"it does not take a task: {answer.status}")
    shutil.copy(APP, f"{stage.root}{stage.folder}")
    straight = {**environ, "DELAYBOX_WORKER_REDIS": f"file:{environ['DELAYBOX_DATA_DIR']}"}
    with healthy(stage, as_user, ["worker", f"{APP.stem}:worker"], straight):
        print("    a worker is healthy by the image's own check", flush=True)


@contextlib.contextmanager
def healthy(
    stage: Stage, as_user: Sequence[str], command: Sequence[str], environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """One of the program's commands, as soon as the image's check finds it well; ended in order behind. Failed."""
    process = subprocess.Popen([*as_user, *stage.entry, *command], env=environ)
    try:
        until = time.monotonic() + _HEALTHY_S
        while subprocess.run([*as_user, *stage.health], env=environ, capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{command[0]} is not healthy (exit code {process.poll()})")
            time.sleep(0.5)
        yield process
        process.send_signal(getattr(signal, stage.stop))
        if code := process.wait(_END_S):
            raise Failed(f"{command[0]} ended with {code}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    try:
        if arguments[0] == "--serve":
            serve(Stage(**json.loads(arguments[1])))
        else:
            replay(Path(arguments[0]), Path(arguments[1]))
    except NotHere as reason:
        print(reason, file=sys.stderr)
        return NOT_HERE
    except Failed as failed:
        print(f"{DOCKERFILE.relative_to(ROOT)}: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
