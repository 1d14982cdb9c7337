"""Looks at everything under deploy/ with the tools that its readers have: `make check-deploy`.

Python's tools come from requirements/deploy.txt, helm from the Go module proxy where it is not on the PATH, and the
others (promtool, nginx, docker-compose, systemd-analyze) from the system. A tool that is missing is named and its check
left out; DELAYBOX_ALL_TOOLS=1 makes that a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".tools"
MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
}
"""Tools that are built with Go where they are not on the PATH."""
KUBERNETES = ("1.30", "1.37")
CHART = DEPLOY / "helm/delaybox"
MANIFESTS = DEPLOY / "kubernetes"
"""Examples beside the chart, as they are."""
WAYS_TO_SET_IT = (
    "redis.url=redis://redis:6379,insecure=true",
    "redis.url=redis://redis:6379,insecure=true,api.autoscaling.enabled=true,clock.autoscaling.enabled=true",
    "redis.url=redis://redis:6379,insecure=true,networkPolicy.enabled=true,ingress.enabled=true,ingress.tlsSecret=tls",
    "redis.url=redis://redis:6379,insecure=true,serviceMonitor.enabled=true,prometheusRule.enabled=true",
    "redis.existingSecret=store,auth.existingSecret=tokens,keda.enabled=true,keda.tokenSecret=scaler",
    "redis.existingSecret=store,auth.existingSecret=tokens,clock.enabled=false,api.roles=api\\,clock\\,work",
    "redis.existingSecret=store,insecure=true,config.webhooks.enabled=true,config.otel.endpoint=http://otel:4317",
    "redis.url=rediss://r,insecure=true,volumes[0].name=ca,volumes[0].secret.secretName=ca,volumeMounts[0].name=ca,volumeMounts[0].mountPath=/c",
)
SCHEMAS = (
    "configmap-v1", "deployment-apps-v1", "horizontalpodautoscaler-autoscaling-v2", "ingress-networking-v1",
    "networkpolicy-networking-v1", "poddisruptionbudget-policy-v1", "secret-v1", "service-v1", "serviceaccount-v1",
)  # fmt: skip
"""Of the chart's kinds, but for those of Prometheus's operator and of KEDA, which are not Kubernetes's own."""
REFUSED = {
    "insecure=true": "name your server",
    "redis.url=redis://redis:6379": "who may call?",
    "redis.url=redis://redis:6379,insecure=true,clock.enabled=false": "no node would keep time",
    "redis.url=redis://r:6379,insecure=true,keda.enabled=true,api.autoscaling.enabled=true": "choose one",
    "redis.url=redis://r:6379,insecure=true,preStopSeconds=10": "terminationGracePeriodSeconds is too short",
    # By values.schema.json: a name that is misspelt would change nothing, and nobody would notice.
    "redis.url=redis://r:6379,insecure=true,api.replica=3": "replica",
    "redis.url=redis://r:6379,insecure=true,clock.roles=clocks": "roles",
}


class Wrong(Exception):
    """What is not as it must be."""


class Missing(Exception):
    """The tool that is not there, and how to get it."""


def run(command: Sequence[str | Path], *, fails_with: str = "") -> str:
    """Its output. Wrong if it fails, or with ``fails_with`` unless it fails with these words."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    output = done.stdout + done.stderr
    if fails_with:
        if done.returncode == 0 or fails_with not in output:
            raise Wrong(f"{' '.join(map(str, command))}: should have refused with {fails_with!r}, but:\n{output}")
    elif done.returncode:
        raise Wrong(f"{' '.join(map(str, command))}:\n{output}")
    return output


def tool(name: str, how: str) -> str:
    """Its path. Missing."""
    found = shutil.which(
        name,
        path=os.pathsep.join([str(TOOLS / "bin"), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]),
    )
    if found is None:
        raise Missing(f"{name} ({how})")
    return found


def built(name: str) -> str:
    """The path of one of MODULES; built where it is missing and Go is there. Missing."""
    try:
        return tool(name, "its own site, or Go, with which this check builds it")
    except Missing:
        go = shutil.which("go")
        if go is None:
            raise
        print(f"  building {name} with Go (once)", flush=True)
        environ = {**os.environ, "GOBIN": str(TOOLS / "bin"), "GOFLAGS": "-mod=mod"}
        command = [go, "install", MODULES[name]]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:]
            raise Missing(f"{name} (go install {MODULES[name]} failed: {why})") from None
        return tool(name, "")


def dockerfile() -> None:
    """hadolint."""
    run([tool("hadolint", "pip"), DEPLOY / "Dockerfile"])


def image_steps() -> None:
    """The Dockerfile's steps without an engine, and the program as the image starts it: scripts/replay_image.py."""
    found = re.search(r"^FROM python:(\d+\.\d+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    if found is None:
        raise Wrong("deploy/Dockerfile: its base image is no Python, which scripts/replay_image.py takes it to be")
    there = dict(line.split(" ", 1) for line in run([ROOT / "scripts/find-python", "--all"]).splitlines())
    if found[1] not in there:
        raise Missing(f"Python {found[1]}, which the image has")
    unshare = [tool("unshare", "Debian: util-linux"), "--mount"]
    if os.geteuid() or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        raise Missing("right to mount a file system of its own (root)")
    prefix = run([there[found[1]], "-c", "import sys; print(sys.base_prefix)"]).strip()
    # No temporary folder that is removed with all that it holds: what is mounted there is this machine's.
    scratch = tempfile.mkdtemp()
    try:
        command = [*unshare, sys.executable, str(ROOT / "scripts/replay_image.py"), prefix, scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    finally:
        os.rmdir(scratch)  # noqa: PTH106 - as above
    if done.returncode == 3:  # NOT_HERE of that script
        raise Missing(f"overlay file system: {done.stderr.strip()}")
    if done.returncode:
        raise Wrong((done.stdout + done.stderr)[-8_000:])


def site() -> None:
    """The documents as a site: every page is in its menu, every link leads somewhere."""
    run([sys.executable, ROOT / "scripts/site.py"])


def yaml() -> None:
    """yamllint, but for the chart's templates, which are no YAML yet."""
    files = [path for path in DEPLOY.rglob("*.y*ml") if "templates" not in path.parts]
    rules = "{extends: relaxed, rules: {line-length: {max: 160}}}"
    run([tool("yamllint", "pip"), "--strict", "-d", rules, *sorted(files)])


def compose() -> None:
    """Each way in which the files are meant to be put together."""
    command = tool("docker-compose", "Debian: docker-compose")
    folder = DEPLOY / "compose"
    for names in (
        ["one"],
        ["three"],
        ["three", "three-kafka"],
        ["three", "monitoring"],
        ["three", "three-kafka", "monitoring"],
        ["one", "worker"],
        ["three", "worker", "monitoring"],
    ):
        run([command, *(part for name in names for part in ("-f", folder / f"{name}.yaml")), "config", "-q"])


def nginx() -> None:
    """nginx -t, with names that resolve here; also with TLS, where there is a tool to make a certificate."""
    command = tool("nginx", "Debian: nginx")
    openssl = shutil.which("openssl")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for source in (DEPLOY / "nginx").glob("*.conf"):
            text = re.sub(r"server node(\d):", r"server 127.0.0.\1:", source.read_text())
            (folder / source.name).write_text(text.replace("/tmp/nginx.pid", str(folder / "pid")))
        run([command, "-t", "-p", folder, "-c", folder / "nginx.conf"])
        if openssl is None:
            raise Missing("openssl (Debian: openssl), for nginx with TLS")
        # The command that tls.conf names.
        told = re.search(
            r"^#   openssl (req .*?-out \S+)$", (folder / "tls.conf").read_text(), re.MULTILINE | re.DOTALL
        )
        if told is None:
            raise Wrong("tls.conf does not say how to make a certificate")
        words = re.sub(r"\\\n#", "", told[1]).split()
        made_names = {"delaybox.key": folder / "delaybox.key", "delaybox.crt": folder / "delaybox.crt"}
        run([openssl, *(made_names.get(word, word) for word in words)])
        config = folder / "nginx.conf"
        config.write_text(re.sub(r"(?m)^( +listen \d+)( http2)?;", r"\1 ssl\2; include tls.conf;", config.read_text()))
        run([command, "-t", "-p", folder, "-c", config])


def systemd() -> None:
    """systemd-analyze verify, with a command that is there."""
    command = tool("systemd-analyze", "Debian: systemd")
    with tempfile.TemporaryDirectory() as made:
        for source in (DEPLOY / "systemd").glob("*.service"):
            unit = Path(made) / source.name.replace("@", "@shop")
            text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", source.read_text(), flags=re.MULTILINE)
            unit.write_text(text)
            run([command, "verify", "--man=no", unit])


def alerts() -> None:
    """promtool, also with the tests of the rules; and the chart's copy of them."""
    command = tool("promtool", "Debian: prometheus")
    run([command, "check", "rules", DEPLOY / "prometheus/rules.yml"])
    run([command, "test", "rules", DEPLOY / "prometheus/rules_test.yml"])
    run([command, "check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml"])
    there = set(re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/rules.yml").read_text()))
    tests = (DEPLOY / "prometheus/rules_test.yml").read_text()
    for way, tested in (
        ("fires", re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests)),
        ("is silent", re.findall(r"\{eval_time: \w+, alertname: (\w+)\}", tests)),
    ):
        if untested := there - set(tested):
            raise Wrong(f"rules_test.yml: no test in which {', '.join(sorted(untested))} {way}")


def boards() -> None:
    """Each expression of Grafana's boards parses, and asks for metrics that there are."""
    command = tool("promtool", "Debian: prometheus")
    known = metrics()
    rules: list[dict[str, str]] = []
    for file in sorted((DEPLOY / "grafana/boards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expression = (
                    target["expr"].replace("$__rate_interval", "1m").replace("$queue", ".*").replace("$fleet", ".*")
                )
                rules.append({"record": "board:panel", "expr": expression})
                if unknown := set(re.findall(r"delaybox_[a-z_]+", expression)) - known:
                    raise Wrong(f"{file.name}, {panel['title']!r}: no such metric: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as made:
        written = Path(made) / "boards.json"
        written.write_text(json.dumps({"groups": [{"name": "boards", "rules": rules}]}))
        run([command, "check", "rules", "--lint=none", written])
    asked = set(re.findall(r"delaybox_[a-z_]+", (DEPLOY / "prometheus/rules.yml").read_text()))
    if unknown := asked - known:
        raise Wrong(f"rules.yml: no such metric: {', '.join(sorted(unknown))}")


def mends() -> None:
    """The page that an alert names is there."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/production.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    rules = (DEPLOY / "prometheus/rules.yml").read_text()
    alerts = rules.split("- alert: ")[1:]
    if without := [text.split()[0] for text in alerts if "docs/" not in text.partition("mend:")[2].partition("\n")[0]]:
        raise Wrong(f"rules.yml: no page mends {', '.join(without)}")
    if lost := set(re.findall(r"#([a-z-]+)", rules)) - anchors:
        raise Wrong(f"rules.yml: docs/production.md has no such heading: {', '.join(sorted(lost))}")


def metrics() -> set[str]:
    """Every metric that docs/operations.md names (its table is made from the code)."""
    text = (ROOT / "docs/operations.md").read_text()
    found = set(re.findall(r"`(delaybox_[a-z_]+)", text))
    parts = {f"{name}{end}" for name in found for end in ("_bucket", "_count", "_sum")}
    return found | parts


def same_alerts() -> None:
    """A chart can hold no file from outside its folder."""
    if (CHART / "rules.yml").read_text() != (DEPLOY / "prometheus/rules.yml").read_text():
        raise Wrong(f"{CHART / 'rules.yml'} differs: cp deploy/prometheus/rules.yml deploy/helm/delaybox/")


def chart() -> None:
    """helm lint and template, each way of setting it, against Kubernetes' schemas; and what must be refused."""
    command = built("helm")
    validate = tool("kubernetes-validate", "pip")
    run([command, "lint", "--strict", CHART, "--set", WAYS_TO_SET_IT[0]])
    with tempfile.TemporaryDirectory() as made:
        for settings in WAYS_TO_SET_IT:
            for version in KUBERNETES:
                shown = run([command, "template", "shop", CHART, "--kube-version", version, "--set", settings])
                file = Path(made) / "all.yaml"
                file.write_text(shown)
                run([validate, "--kubernetes-version", version, "--strict", "--quiet", "--no-warn", file])
        for version in KUBERNETES:
            for file in sorted(MANIFESTS.glob("*.yaml")):
                run([validate, "--kubernetes-version", version, "--strict", "--quiet", "--no-warn", file])
    for settings, words in REFUSED.items():
        run([command, "template", "shop", CHART, "--kube-version", KUBERNETES[0], "--set", settings], fails_with=words)


def whole_schemas(folder: Path, made: Path) -> str:
    """Schemas of the chart's kinds, each with its definitions inside, as kubeconform wants them; where they lie."""
    made.mkdir()
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    for name in SCHEMAS:
        schema = json.loads((folder / f"{name}.json").read_text().replace("/api/_definitions.json#", "#"))
        schema.pop("$id", None)
        (made / f"{name}.json").write_text(json.dumps({**schema, "$defs": definitions}))
    return f"{made}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def conform() -> None:
    """kubeconform, by the schemas that kubernetes-validate brings: its own lie in a network that may not be there."""
    command, package = built("kubeconform"), find_spec("kubernetes_validate")
    if package is None or package.origin is None:
        raise Missing("kubernetes-validate (pip)")
    schemas = Path(package.origin).parent / "kubernetes-json-schema"
    with tempfile.TemporaryDirectory() as made:
        for version in KUBERNETES:
            where = whole_schemas(schemas / f"v{version}.0-local-strict", Path(made, version))
            files = [Path(made) / f"{version}-{number}.yaml" for number in range(len(WAYS_TO_SET_IT))]
            for file, settings in zip(files, WAYS_TO_SET_IT, strict=True):
                shown = run([built("helm"), "template", "shop", CHART, "--kube-version", version, "--set", settings])
                file.write_text(shown)
            files += sorted(MANIFESTS.glob("*.yaml"))
            others = ["-skip", "ServiceMonitor,PodMonitor,PrometheusRule,ScaledObject"]
            run([command, "-strict", "-kubernetes-version", f"{version}.0", "-schema-location", where, *others, *files])


CHECKS: tuple[Callable[[], None], ...] = (
    dockerfile,
    image_steps,
    site,
    yaml,
    compose,
    nginx,
    systemd,
    same_alerts,
    alerts,
    boards,
    mends,
    chart,
    conform,
)


def main() -> int:
    """The exit code."""
    wrong = missing = 0
    for check in CHECKS:
        try:
            check()
            print(f"  {check.__name__}: good", flush=True)
        except Missing as lacking:
            missing += 1
            print(f"  {check.__name__}: NOT CHECKED, for there is no {lacking}", flush=True)
        except Wrong as problem:
            wrong += 1
            print(f"  {check.__name__}: WRONG\n{problem}", flush=True)
    return 1 if wrong or (missing and os.environ.get("DELAYBOX_ALL_TOOLS")) else 0


if __name__ == "__main__":
    sys.exit(main())
