"""Every manifest as it reaches a cluster, against its kind's definition: `python deploy/conform.py`.

Renders what each cluster is given (kubectl), takes the definitions of Kubernetes and of the controllers from
their Go modules, whose sums Go checks (a folder SEKISHO_CRDS of definitions goes before them), and lets
kubeconform compare; a field that no definition knows is an error. Exits 1 for a manifest that does not fit, 2
for a kind whose definition is not at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent
FOLDER = Path(os.environ.get("SEKISHO_CRDS", DEPLOY.parents[1] / "shared" / "crds"))
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
SELDON = "v0.0.0-20230815125652-822053e7bbc8"  # the commit of v1.17.1
KUBERNETES = "k8s.io/kubernetes@v1.34.4"
# Where each controller keeps its definitions, at the version that argocd/ installs. External Secrets 2.x is
# no Go module: its last 1.x has the same version of the kinds that we use.
CONTROLLERS = {
    "github.com/argoproj/argo-cd/v3@v3.2.11": "manifests/crds/*-crd.yaml",
    "github.com/argoproj/argo-workflows/v4@v4.1.2": "manifests/base/crds/full/argoproj.io_*.yaml",
    "github.com/aws/karpenter-provider-aws@v1.8.6": "pkg/apis/crds/*.yaml",
    "github.com/external-secrets/external-secrets@v1.3.2": "config/crds/bases/*.yaml",
    "github.com/prometheus-operator/prometheus-operator@v0.92.0": "example/prometheus-operator-crd/*.yaml",
    f"github.com/seldonio/seldon-core/operator@{SELDON}": "config/crd_v1/bases/*.yaml",
    "sigs.k8s.io/gateway-api@v1.4.0": "config/crd/standard/*.yaml",
}
# What a cluster is given; `argocd/install` is Argo CD's own and lies on GitHub.
RENDERED = (
    "clusters/*/argocd",
    "clusters/*/namespaces",
    "clusters/*/nodes",
    "clusters/*/volumes",
    "policy/local",
    "policy/staging",
    "policy/production",
    "policy/traffic/staging",
    "policy/traffic/production",
    "monitoring",
    "workflows",
)
OPTIONAL = ("canary", "shadow", "losses")  # components that production may take

Schema = dict[str, Any]


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # definitions are megabytes
    """Reads a lone ``=`` as text, which PyYAML's own loaders do not."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def strict(schema: Any) -> Any:
    """Unknown fields are errors, as for a server-side apply with strict validation."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if (
        isinstance(made.get("properties"), dict)
        and "additionalProperties" not in made
        and not made.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    return made


def definitions(folder: Path, pattern: str = "*.yaml") -> dict[tuple[str, str], Schema]:
    """Schemas of the custom resource definitions in ``folder``, by apiVersion and kind."""
    found = {}
    for path in sorted(folder.glob(pattern)):
        for crd in yaml.load_all(path.read_text(encoding="utf-8"), Loader):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            for version in crd["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"metadata": {"type": "object"}, "apiVersion": {}, "kind": {}}
                found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return found


def builtin(swagger: Path) -> tuple[Schema, dict[tuple[str, str], str]]:
    """Kubernetes' own definitions, and the name of each kind's by apiVersion and kind."""
    named = strict(json.loads(swagger.read_text(encoding="utf-8"))["definitions"])
    for name in ("util.intstr.IntOrString", "api.resource.Quantity"):  # stated as text alone
        named[f"io.k8s.apimachinery.pkg.{name}"] = {"type": ["string", "number"]}
    kinds = {}
    for name, schema in named.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            kinds[f"{kind['group']}/{kind['version']}".lstrip("/"), kind["kind"]] = name
    return {"definitions": named}, kinds


def fetched(module: str) -> Path | None:
    """Folder of a Go module, which Go fetches and checks; ``None`` where it cannot."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False
    )
    folder = json.loads(done.stdout or "{}").get("Dir")
    return Path(folder) if folder else None


def write_schemas(root: Path) -> None:
    """Write one JSON schema for each kind that a definition is at hand for, as kubeconform looks for them."""
    known: dict[tuple[str, str], Schema] = {}
    for module, pattern in CONTROLLERS.items():
        if folder := fetched(module):
            known |= definitions(folder, pattern)
    known |= definitions(FOLDER)
    if folder := fetched(KUBERNETES):
        named, kinds = builtin(folder / "api/openapi-spec/swagger.json")
        (root / "kubernetes.json").write_text(json.dumps(named))
        known |= {
            kind: {"$ref": f"../kubernetes.json#/definitions/{name}"}
            for kind, name in kinds.items()
            if kind not in known
        }
    for (version, kind), schema in known.items():
        group, _, short = version.rpartition("/")
        path = root / (group or short) / f"{kind.lower()}_{short}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(schema))


def render(folder: Path) -> str:
    """What Argo CD would apply of ``folder``."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    return done.stdout


def manifests(deploy: Path) -> Iterator[tuple[str, str]]:
    """Name and text of everything that is rendered, the components that are not in use included."""
    for folder in sorted(found for pattern in RENDERED for found in deploy.glob(pattern)):
        yield str(folder.relative_to(deploy)), render(folder)
    with tempfile.TemporaryDirectory() as copied:
        copy = shutil.copytree(deploy, Path(copied) / "deploy")
        path = copy / "policy/production/kustomization.yaml"
        overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
        for component in OPTIONAL:
            other = {"name": component, "literals": [f"RELEASE=policy/1@sha256:{'0' * 64}"]}
            changed = {**overlay, "components": [*overlay["components"], f"../{component}"]}
            changed["configMapGenerator"] = [*overlay["configMapGenerator"], other]
            path.write_text(yaml.safe_dump(changed), encoding="utf-8")
            yield f"policy/production with {component}", render(path.parent)


def compare(texts: dict[str, str], root: Path) -> list[dict[str, str]]:
    """kubeconform's word on every object of ``texts``, with the schemas in ``root``."""
    files = {str(root / f"{number}.yaml"): name for number, name in enumerate(texts)}
    for path, name in files.items():
        Path(path).write_text(texts[name], encoding="utf-8")
    location = f"{root}/{{{{.Group}}}}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json"
    options = ["-strict", "-verbose", "-output", "json", "-schema-location", location]
    done = subprocess.run(
        ["go", "run", KUBECONFORM, *options, *files], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        print(f"{KUBECONFORM}: {done.stderr}", file=sys.stderr)
        raise SystemExit(2)
    return [{**one, "filename": files[one["filename"]]} for one in json.loads(done.stdout)["resources"]]


def main(deploy: Path = DEPLOY) -> int:
    """Print what does not fit and what could not be compared; see the module for exit codes."""
    for tool in ("kubectl", "go"):
        if shutil.which(tool) is None:
            print(f"{tool} is not installed", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_schemas(root)
        found = compare(dict(manifests(deploy)), root)
    wrong = [one for one in found if one["status"] == "statusInvalid"]
    for one in wrong:
        print(f"{one['filename']}: {one['kind']} {one['name']}: {one['msg']}")
    unknown = Counter(
        f"{one['kind'] or one['filename']}: {one['msg']}" for one in found if one["status"] == "statusError"
    )
    for what, count in sorted(unknown.items()):
        print(f"not compared ({count} times): {what}; put its definition into the folder SEKISHO_CRDS")
    fitting = Counter(one["version"] for one in found if one["status"] == "statusValid")
    print(f"{fitting.total()} objects of {len(fitting)} API versions fit their definitions")
    return 1 if wrong else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
