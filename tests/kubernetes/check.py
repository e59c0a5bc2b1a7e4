"""Holds deploy/kubernetes against Kubernetes' schemas and against itself.

    check.py FOLDER            renders each overlay of FOLDER with files in place of real secrets; lists what is wrong
    check.py FOLDER --commands the arguments of every `corpusmill` container, a JSON array a line

Kubernetes takes a manifest that names a Secret, a port or a label that is not there, and then waits; so these are looked
up here. Exit status 77 says that there is nothing to render with.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml

Manifest = dict[str, Any]

KUBERNETES = "1.31"
#: Labels of pods that belong to others: callers, Prometheus, the cluster's DNS.
FOREIGN = {"corpusmill.io/client", "corpusmill.io/metrics", "k8s-app"}
#: What stands for values that a cluster fills in.
FIELDS = {"status.podIP": "10.1.2.3", "metadata.name": "corpusmill-0"}


def renderer() -> list[str]:
    """The command that renders an overlay."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    print("there is neither kustomize nor kubectl")
    sys.exit(77)


def with_secrets(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of the manifests with the files that their Secrets are made of."""
    copy = target / "kubernetes"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("certs", "catalog", "store.env"))
    made = yaml.safe_load((copy / "secrets/kustomization.yaml").read_text())
    for secret in made["secretGenerator"]:
        for source in secret.get("files", []) + secret.get("envs", []):
            path = copy / "secrets" / source.split("=", 1)[-1]
            path.parent.mkdir(exist_ok=True)
            path.write_text("AWS_REGION=nowhere\n" if path.suffix == ".env" else f"postgres://host/{path.name}")
    return copy


def rendered(overlay: pathlib.Path) -> list[Manifest]:
    done = subprocess.run([*renderer(), str(overlay)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{overlay.name}: {done.stderr.strip()}")
        sys.exit(1)
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def workloads(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Sets of pods, and what their pods are made from."""
    for manifest in manifests:
        if template := manifest["spec"].get("template") if "spec" in manifest else None:
            yield manifest, template


def selects(selector: Manifest, labels: Manifest) -> bool:
    wanted = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return wanted and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def keys(selector: Manifest) -> set[str]:
    return set(selector.get("matchLabels", {})) | {e["key"] for e in selector.get("matchExpressions", [])}


class Overlay:
    """A rendered overlay, and what is wrong with it."""

    def __init__(self, title: str, manifests: list[Manifest]) -> None:
        self.title, self.manifests = title, manifests
        self.wrong: list[str] = []
        self.data = {
            (m["kind"], m["metadata"]["name"]): set(m.get("data", {})) for m in manifests if m["kind"] in ("ConfigMap", "Secret")
        }
        self.pods = [template["metadata"]["labels"] for _, template in workloads(manifests)]

    def fault(self, manifest: Manifest, what: str) -> None:
        self.wrong.append(f"{self.title}: {name(manifest)}: {what}")

    def check(self) -> list[str]:
        """Everything that is wrong."""
        for manifest in self.manifests:
            try:
                kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                self.fault(manifest, f"{'.'.join(map(str, error.path))}: {error.message}")
            spec = manifest.get("spec", {})
            match manifest["kind"]:
                case "Service":
                    self.service(manifest, spec)
                case "PodDisruptionBudget":
                    self.selected(manifest, spec["selector"])
                case "NetworkPolicy":
                    self.policy(manifest, spec)
        for manifest, template in workloads(self.manifests):
            self.workload(manifest, template)
        self.budgets()
        return self.wrong

    def selected(self, manifest: Manifest, selector: Manifest) -> list[Manifest]:
        found = [labels for labels in self.pods if selects(selector, labels)]
        if not found:
            self.fault(manifest, f"selects no pod: {selector}")
        return found

    def ports(self, labels: Manifest) -> set[str]:
        """Names of the ports of the pods with these labels."""
        of = [t for _, t in workloads(self.manifests) if t["metadata"]["labels"] == labels]
        return {p["name"] for t in of for c in t["spec"]["containers"] for p in c.get("ports", [])}

    def service(self, manifest: Manifest, spec: Manifest) -> None:
        for labels in self.selected(manifest, {"matchLabels": spec["selector"]}):
            for port in spec["ports"]:
                if port["targetPort"] not in self.ports(labels):
                    self.fault(manifest, f"no port `{port['targetPort']}` in the pods that it selects")

    def policy(self, manifest: Manifest, spec: Manifest) -> None:
        mine = self.selected(manifest, spec["podSelector"])
        for rule in spec.get("ingress", []):
            for port in (p["port"] for p in rule.get("ports", [])):
                if any(port not in self.ports(labels) for labels in mine):
                    self.fault(manifest, f"no port `{port}` in the pods that it is for")
        peers = [p for r in spec.get("ingress", []) for p in r["from"]] + [p for r in spec.get("egress", []) for p in r["to"]]
        for peer in peers:
            selector = peer.get("podSelector")
            if selector is not None and not keys(selector) & FOREIGN:
                self.selected(manifest, selector)

    def workload(self, manifest: Manifest, template: Manifest) -> None:
        spec, pod = manifest["spec"], template["spec"]
        if not selects(spec["selector"], template["metadata"]["labels"]):
            self.fault(manifest, "its selector does not select its own pods")
        services = {m["metadata"]["name"] for m in self.manifests if m["kind"] == "Service"}
        if spec.get("serviceName") not in services:
            self.fault(manifest, f"there is no Service {spec.get('serviceName')}")
        accounts = {m["metadata"]["name"] for m in self.manifests if m["kind"] == "ServiceAccount"}
        if pod["serviceAccountName"] not in accounts:
            self.fault(manifest, f"there is no ServiceAccount {pod['serviceAccountName']}")
        volumes = {v["name"] for v in pod.get("volumes", [])}
        volumes |= {c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])}
        for volume in pod.get("volumes", []):
            if secret := volume.get("secret"):
                self.exists(manifest, "Secret", secret["secretName"], None)
        for container in pod["containers"]:
            self.container(manifest, container, volumes)

    def exists(self, manifest: Manifest, kind: str, wanted: str, key: str | None) -> set[str]:
        there = self.data.get((kind, wanted))
        if there is None:
            self.fault(manifest, f"there is no {kind} {wanted}")
        elif key is not None and key not in there:
            self.fault(manifest, f"{kind} {wanted} has no {key}: {sorted(there)}")
        return there or set()

    def container(self, manifest: Manifest, container: Manifest, volumes: set[str]) -> None:
        defined = {e["name"] for e in container.get("env", [])}
        for entry in container.get("env", []):
            if ref := entry.get("valueFrom", {}).get("secretKeyRef"):
                self.exists(manifest, "Secret", ref["name"], ref["key"])
        for source in container.get("envFrom", []):
            for kind, ref in (("ConfigMap", source.get("configMapRef")), ("Secret", source.get("secretRef"))):
                if ref:
                    defined |= self.exists(manifest, kind, ref["name"], None)
        for used in re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))):
            if used not in defined:
                self.fault(manifest, f"$({used}) is no variable of container {container['name']}")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                self.fault(manifest, f"there is no volume {mount['name']}")
        ports = {p["name"] for p in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                self.fault(manifest, f"container {container['name']} has no {probe}")
            elif (get := container[probe].get("httpGet")) and get["port"] not in ports:
                self.fault(manifest, f"{probe}: there is no port `{get['port']}`")
        resources = container.get("resources", {})
        for wanted in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if wanted[1] not in resources.get(wanted[0], {}):
                self.fault(manifest, f"container {container['name']} has no {'.'.join(wanted)}")

    def budgets(self) -> None:
        """A pod of two budgets cannot be evicted at all."""
        budgets = [m for m in self.manifests if m["kind"] == "PodDisruptionBudget"]
        for labels in self.pods:
            of = [name(b) for b in budgets if selects(b["spec"]["selector"], labels)]
            if len(of) > 1:
                self.wrong.append(f"{self.title}: pods {labels} have several budgets: {of}")


def commands(manifests: list[Manifest]) -> Iterator[list[str]]:
    """The arguments of the containers that run the program, as it sees them."""
    config = {k: v for m in manifests if m["kind"] == "ConfigMap" for k, v in m["data"].items()}
    for _, template in workloads(manifests):
        for container in template["spec"]["containers"]:
            if not container["image"].rsplit("/", 1)[-1].startswith("corpusmill"):
                continue
            values = dict(config)
            for entry in container["env"]:
                field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
                values[entry["name"]] = entry.get("value") or FIELDS.get(field, "postgres://host/catalog")
            yield [re.sub(r"\$\((\w+)\)", lambda used: values[used[1]], argument) for argument in container["args"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--commands", action="store_true")
    options = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as target:
        copy = with_secrets(options.folder, pathlib.Path(target))
        overlays = sorted(path.parent for path in (copy / "overlays").glob("*/kustomization.yaml"))
        if not overlays:
            wrong.append(f"{options.folder} has no overlays")
        for folder in overlays:
            manifests = rendered(folder)
            if options.commands:
                for command in commands(manifests):
                    print(json.dumps(command))
            else:
                wrong += Overlay(folder.name, manifests).check()
    print("\n".join(wrong), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
