"""The pipeline for Argo Workflows: `python training/workflow.py` writes deploy/workflows/generated.

Each step is the command that a laptop runs, on the tree of one commit; data pass by digest (DVC's cache and
the store that SEKISHO_STORE names), never by Argo. ``--check`` writes nothing and fails on stale files.
Why it is cut this way: docs/adr/0017-argo-workflows.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hera.workflows import (
    DAG,
    Artifact,
    Container,
    CronWorkflow,
    EmptyDirVolume,
    Env,
    FieldEnv,
    GitArtifact,
    Parameter,
    RawArtifact,
    Resources,
    RetryStrategy,
    SecretEnv,
    Task,
    UserContainer,
    WorkflowTemplate,
)
from hera.workflows import models as m

OUT = Path(__file__).parents[1] / "deploy/workflows/generated"
NAMESPACE, NAME, ACCOUNT = "training", "nightly", "trainer"  # account: pod_roles of terraform/roles.yaml
CODE = "/code/repo"  # where a pod has the commit's tree
PORT = 29400  # of the rendezvous

# Minutes that a step may take with all its attempts; one attempt gets half of them and begins where the last
# one ended. The longest path of these, and the notice behind it, stay under six hours (tests add them up).
MINUTES = {
    "commit": 4, "session": 4, "ingest": 24, "partitions": 10, "validate-partition": 20,
    "features-partition": 20, "stage": 16, "runs": 6, "train": 160, "rendezvous": 640, "notify": 4,
}  # fmt: skip
LIMIT_SECONDS = 6 * 3600 - 300  # of the whole workflow; the notice has the rest
AT_ONCE = {"validate-partition": 8, "features-partition": 8, "train": 8}  # pods of a fan-out; GPUs: quota's 8

# A cause decides: 1 was refused and 2 is bad data or parameters, both the same again after any wait. All else
# is tried again: a machine that was taken away (75 after a checkpoint, 137, 143, a pod that is gone: -1) and
# what passes by itself, such as a store or DVC's remote that does not answer (75). What a `before` ended with
# is not known (-1).
AGAIN = "lastRetry.status == 'Error' || lastRetry.exitCode not in ['1', '2']"
RETRIES = 4
# Five seconds, then three times longer each: Argo has one wait for all causes, a new machine takes longer.
WAIT, FACTOR, LONGEST_WAIT = "5s", 3, "5m"
CAPACITY = f"{{{{=asInt(retries) < {RETRIES} ? 'spot' : 'on-demand'}}}}"  # the last attempt is not taken away
# with a spot notice's two minutes for the last checkpoint
ON_CAPACITY = (
    f'terminationGracePeriodSeconds: 120\nnodeSelector: {{karpenter.sh/capacity-type: "{CAPACITY}"}}'
)


COMMIT, DATA = "{{inputs.parameters.commit}}", "{{inputs.parameters.data}}"
# DVC's push leaves out metrics, which git keeps here: without them the next pod could take no stage from the
# run cache, and would run them all again. They are found by their digest, whatever the folder is called
PUSHED = "sekisho dvc push --run-cache && sekisho dvc add --to-remote metrics --out metrics-of-the-night"
# a path that is not there: DVC brings the folder's list of files and no file
LISTING = "dvc fetch data/.listing"
# torchrun's own variables, which `sekisho train` leaves to it: the pods of a run meet at the rendezvous
ELASTIC = {
    "PET_NNODES": "{{workflow.parameters.nodes}}",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": f"{{{{inputs.parameters.rendezvous}}}}:{PORT}",
    # also the name of a folder of torchrun's, which a run's fold-0/seed-1 is not
    "PET_RDZV_ID": "{{workflow.uid}}-{{=sprig.replace('/', '-', inputs.parameters.run)}}",
    "PET_RDZV_CONF": "is_host=false",
    "PET_MAX_RESTARTS": "3",
}
# a pod's name is known to itself alone: without this, the ranks would look for the first one by it
ADDRESS = FieldEnv(name="PET_LOCAL_ADDR", field_path="status.podIP")
RENDEZVOUS = (  # outlives every machine of the training; on demand
    f"import signal, torch.distributed as d; s = d.TCPStore('0.0.0.0', {PORT}, is_master=True, "
    "wait_for_workers=False); signal.pause()"
)


def tree(revision: str, *, data: bool) -> list[Artifact]:
    """The commit's tree and, where the night has brought bars, their digest; DVC's remote is a parameter."""
    remote = "[core]\n    remote = night\n['remote \"night\"']\n    url = {{workflow.parameters.remote}}\n"
    found: list[Artifact] = [
        GitArtifact(name="code", path=CODE, repo="{{workflow.parameters.repository}}", revision=revision),
        RawArtifact(name="remote", path=f"{CODE}/.dvc/config.local", data=remote),
    ]
    return found + ([RawArtifact(name="data", path=f"{CODE}/data.dvc", data=DATA)] if data else [])


def environment() -> list[Env]:
    fixed = {"PYTHONPATH": f"{CODE}/src", "HOME": "/code", "OMP_NUM_THREADS": "1"}
    fixed |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": "/code/dvc"}
    told = {"SEKISHO_STORE": "store", "BARS_SOURCE": "bars", "BARS_MAPPING": "mapping"}
    given = {name: f"{{{{workflow.parameters.{parameter}}}}}" for name, parameter in told.items()}
    return [Env(name=name, value=value) for name, value in (fixed | given).items()]


def confined() -> m.SecurityContext:
    return m.SecurityContext(allow_privilege_escalation=False, capabilities=m.Capabilities(drop=["ALL"]))


def step(
    name: str,
    command: str | list[str],
    *,
    inputs: Sequence[str] = ("commit", "data"),
    outputs: Sequence[Parameter] = (),
    revision: str = COMMIT,
    before: str = "",
    gpu: bool = False,
    env: Sequence[Env | FieldEnv | SecretEnv] = (),
) -> Container:
    """One pod that runs one line on the commit's tree; ``before`` is a line that brings its data."""
    seconds = 60 * MINUTES[name]
    pool = "gpu" if gpu else "cpu"
    size = (
        {"cpu_request": 6, "memory_request": "24Gi"} if gpu else {"cpu_request": 3, "memory_request": "12Gi"}
    )
    taints = [m.Toleration(key="sekisho/pool", value=pool, effect="NoSchedule")]
    taints += [m.Toleration(key="nvidia.com/gpu", value="true", effect="NoSchedule")] if gpu else []
    common: dict[str, Any] = {
        "image": "{{workflow.parameters.image}}",
        "working_dir": CODE,
        "env": [*environment(), *env],
        "security_context": confined(),
        "volume_mounts": [m.VolumeMount(name="code", mount_path="/code")],
    }
    prepare = UserContainer(name="data", command=before.split(), **common)
    return Container(
        name=name,
        command=command.split() if isinstance(command, str) else command,
        **common,
        inputs=[*(Parameter(name=one) for one in inputs), *tree(revision, data="data" in inputs)],
        outputs=list(outputs) or None,
        init_containers=[prepare] if before else None,
        resources=Resources(**size, memory_limit=size["memory_request"], gpus=1 if gpu else None),
        node_selector={"sekisho/pool": pool},
        tolerations=taints,
        active_deadline_seconds=seconds // 2,
        retry_strategy=RetryStrategy(
            limit=RETRIES,
            expression=AGAIN,
            backoff=m.Backoff(duration=WAIT, factor=FACTOR, cap=LONGEST_WAIT, max_duration=f"{seconds}s"),
            affinity=m.RetryAffinity(node_anti_affinity={}),
        ),
        pod_spec_patch=ON_CAPACITY,
    )


def shell(line: str) -> list[str]:
    """Commands of a laptop, one after the other, ended by the first that fails."""
    return ["sh", "-ec", line]


def result(name: str) -> str:
    return f"{{{{tasks.{name}.outputs.result}}}}"


def steps() -> list[Container]:
    """Every pod of the night, by the name of its template."""
    digest = Parameter(name="data", value_from=m.ValueFrom(path=f"{CODE}/data.dvc"))
    partition = "data/bars/{{inputs.parameters.partition}}.parquet"
    one = ("commit", "data", "partition")
    ingest = 'sekisho data ingest --from "$BARS_SOURCE" --mapping "$BARS_MAPPING"'
    # each file by its name: `dvc add` of the folder would take those that are not on this disk out of it
    ingest += " && find data/bars -type f -print0 | xargs -0 -r sekisho dvc add && sekisho dvc push data.dvc"
    hook = SecretEnv(name="NOTIFY_WEBHOOK", secret_name="notify", secret_key="webhook", optional=True)  # noqa: S106
    return [
        step("commit", "git rev-parse HEAD", inputs=(), revision="{{workflow.parameters.revision}}"),
        step("session", "sekisho session", inputs=("commit",)),
        step("ingest", shell(ingest), inputs=("commit",), outputs=[digest], before=LISTING),
        step("partitions", "sekisho data partitions --new --labels", before=LISTING),
        step(
            "validate-partition",
            "sekisho data validate --partition {{inputs.parameters.partition}}",
            inputs=one,
            before=f"dvc pull {partition}",
        ),
        step(
            "features-partition",
            "sekisho features --partition {{inputs.parameters.partition}}",
            inputs=one,
            before=LISTING,  # the validated bars of its lookback are in the store
        ),
        step(
            "stage",
            shell(f"sekisho dvc repro --pull {{{{inputs.parameters.stage}}}} && {PUSHED}"),
            inputs=("commit", "data", "stage"),
        ),
        step("runs", "sekisho runs"),
        step(
            "train",
            "sekisho train --run {{inputs.parameters.run}}",
            inputs=("commit", "data", "run", "rendezvous"),
            env=[*(Env(name=name, value=value) for name, value in ELASTIC.items()), ADDRESS],
            before="dvc repro --pull features",
            gpu=True,
        ),
        step(
            "notify",
            ["sekisho", "notify", "--workflow", "{{workflow.name}}", "--failures", "{{workflow.failures}}"],
            inputs=(),
            revision="{{workflow.parameters.revision}}",
            env=[hook],
        ),
    ]


def rendezvous() -> Container:
    """Where the pods of a run find one another: a store that no taken machine takes along."""
    made = step("rendezvous", ["python", "-c", RENDEZVOUS], inputs=())
    made.daemon, made.init_containers, made.inputs, made.retry_strategy = True, None, None, None
    made.readiness_probe = m.Probe(tcp_socket=m.TCPSocketAction(port=PORT), period_seconds=2)
    made.resources = Resources(cpu_request="100m", memory_request="1Gi", memory_limit="1Gi")
    made.pod_spec_patch = "nodeSelector: {karpenter.sh/capacity-type: on-demand}"
    made.working_dir = "/"
    return made


def inputs(*names: str) -> list[Parameter]:
    return [Parameter(name=name) for name in names]


def fan_out(over: str, name: str, pod: str) -> DAG:
    """A pod for each entry of a list, some of them at once; ``over`` is what the pod calls an entry."""
    with DAG(name=name, inputs=inputs("commit", "data", "entries"), parallelism=AT_ONCE[pod]) as made:
        passed = {"commit": COMMIT, "data": DATA, over: "{{item}}"}
        Task(name=pod, template=pod, with_param="{{inputs.parameters.entries}}", arguments=passed)
    return made


def training() -> list[DAG]:
    """All runs side by side, each on as many pods as ``nodes`` says."""
    given = {"commit": COMMIT, "data": DATA, "rendezvous": "{{inputs.parameters.rendezvous}}"}
    with DAG(name="run", inputs=inputs("commit", "data", "run", "rendezvous")) as run:
        one = given | {"run": "{{inputs.parameters.run}}"}
        nodes = m.Sequence(count="{{workflow.parameters.nodes}}")
        Task(name="node", template="train", with_sequence=nodes, arguments=one)
    with DAG(
        name="all-runs",
        inputs=inputs("commit", "data", "entries", "rendezvous"),
        parallelism=AT_ONCE["train"],
    ) as runs:
        Task(
            name="run",
            template="run",
            with_param="{{inputs.parameters.entries}}",
            arguments=given | {"run": "{{item}}"},
        )
    return [run, runs]


def after(*tasks: Task) -> None:
    """Each begins when the one before it is done."""
    for first, then in pairwise(tasks):
        first >> then


def night() -> DAG:
    """From the day's bars to the report: each task begins when the one before it is done."""
    with DAG(name="night", inputs=inputs("commit")) as made:
        data = "{{tasks.ingest.outputs.parameters.data}}"
        given = {"commit": COMMIT, "data": data}

        def stage(*names: str) -> Task:
            arguments = given | {"stage": " ".join(names)}
            return Task(name=f"stage-{names[0]}", template="stage", arguments=arguments)

        def of(name: str, template: str, entries: str, **more: str) -> Task:
            arguments = given | {"entries": result(entries)} | more
            return Task(name=name, template=template, arguments=arguments)

        ingest = Task(name="ingest", template="ingest", arguments={"commit": COMMIT})
        partitions = Task(name="partitions", template="partitions", arguments=given)
        validate = of("validate", "validate-partitions", "partitions")
        features = of("features", "features-partitions", "partitions")
        runs = Task(name="runs", template="runs", arguments=given)
        meet = Task(name="rendezvous", template="rendezvous")
        train = of("train", "all-runs", "runs", rendezvous="{{tasks.rendezvous.ip}}")
        assembled = stage("features")
        after(ingest, partitions, validate, stage("validate"), features, assembled, meet, train)
        after(ingest, runs, train)
        after(train, stage("train"), stage("backtest"), stage("gate"), stage("report", "reference"))
    return made


def workflow() -> WorkflowTemplate:
    given = {
        "revision": "main",  # or the full SHA of a commit; the night runs on what it named when it began
        "repository": "https://github.com/sekisho/sekisho.git",
        "image": "ghcr.io/sekisho/sekisho/trainer:main",  # images.yml proposes its digest
        "remote": "s3://sekisho-dvc/storage",
        "store": "s3://sekisho-dvc/storage/night",
        "bars": "s3://sekisho-dvc/bars/**/*.parquet",
        "mapping": "mapping.yaml",
        "nodes": "1",  # machines per run, which share train.ranks
    }
    with WorkflowTemplate(
        name=NAME,
        namespace=NAMESPACE,
        entrypoint="main",
        on_exit="ended",
        arguments=[Parameter(name=name, value=value) for name, value in given.items()],
        service_account_name=ACCOUNT,
        active_deadline_seconds=LIMIT_SECONDS,
        volumes=[EmptyDirVolume(name="code", mount_path="/code")],
        security_context=m.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=1001,
            fs_group=1001,
            seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
        ),
        pod_metadata=m.Metadata(
            labels={"app.kubernetes.io/name": NAME},
            annotations={"karpenter.sh/do-not-disrupt": "true"},  # spot may still take it
        ),
        pod_priority_class_name="training",
        # only voluntary disruption is refused: a drain waits for the night. More than there ever are, since
        # Kubernetes cannot count a share of a workflow's pods
        pod_disruption_budget=m.PodDisruptionBudgetSpec(min_available=m.IntOrString(root=9999)),
        pod_gc=m.PodGC(strategy="OnPodSuccess"),
        ttl_strategy=m.TTLStrategy(seconds_after_success=86_400, seconds_after_failure=7 * 86_400),
    ) as made:
        pods, tasks = [*steps(), rendezvous()], [night(), *training()]
        tasks += [
            fan_out("partition", f"{pod}s", pod) for pod in ("validate-partition", "features-partition")
        ]
        with DAG(name="main") as main:
            commit = Task(name="commit", template="commit")
            known = {"commit": result("commit")}
            session = Task(name="session", template="session", arguments=known)
            whole = Task(name="night", template="night", arguments=known, when=f"{result('session')} == true")
            after(commit, session, whole)
        with DAG(name="ended") as ended:
            Task(name="notify", template="notify", when="{{workflow.status}} != Succeeded")
        made.templates = [*pods, *tasks, main, ended]
    return made


def cron() -> CronWorkflow:
    return CronWorkflow(
        name=NAME,
        namespace=NAMESPACE,
        schedules=["0 17 * * 1-5"],  # after the close; on a holiday `sekisho session` ends it
        timezone="Asia/Tokyo",
        concurrency_policy="Forbid",
        starting_deadline_seconds=3600,
        successful_jobs_history_limit=5,
        failed_jobs_history_limit=10,
        workflow_template_ref=m.WorkflowTemplateRef(name=NAME),
    )


def render() -> dict[Path, str]:
    """Each file with what it should hold."""
    made = {"workflowtemplate.yaml": workflow(), "cronworkflow.yaml": cron()}
    return {
        OUT / name: f"# Written by training/workflow.py.\n{thing.to_yaml()}" for name, thing in made.items()
    }


def main() -> int:
    files = render()
    if "--check" in sys.argv[1:]:
        here = {path: path.read_text(encoding="utf-8") for path in OUT.glob("*.yaml")}
        if stale := sorted(path.name for path in {*files, *here} if files.get(path) != here.get(path)):
            print(f"{OUT}: stale: {', '.join(stale)}; run `python training/workflow.py`")
            return 1
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
