"""The deployments give away no more than they must: no root, no writable system, no open port, no privilege."""

import configparser
import importlib.util
import json
import re
import shlex
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

_DEPLOY = Path(__file__).parents[2] / "deploy"


def _cluster() -> dict[str, Any]:
    documents = yaml.safe_load_all((_DEPLOY / "kubernetes" / "medssl.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_the_pod_runs_without_root_privileges_or_a_writable_system():
    pod = _cluster()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["initContainers"], *pod["containers"]]:
        sealed = container["securityContext"]
        assert sealed["readOnlyRootFilesystem"]
        assert not sealed["allowPrivilegeEscalation"]
        assert sealed["capabilities"]["drop"] == ["ALL"]
        assert set(container["resources"]) == {"requests", "limits"}


def test_the_pod_is_probed_by_the_name_that_the_server_answers_to():
    cluster = _cluster()
    options = yaml.safe_load(cluster["ConfigMap"]["data"]["serve.yaml"])
    container = cluster["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    # /ready is 503 while the queue is full: callers must then still reach the server, which tells them to wait
    for name, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/health")):
        request = container[name]["httpGet"]
        assert (request["path"], request["scheme"]) == (path, "HTTPS")
        assert request["httpHeaders"][0]["value"] in options["http"]["names"]
    port = next(p["containerPort"] for p in container["ports"] if p["name"] == "https")
    assert port == options["http"]["port"] == cluster["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"]


def test_every_volume_is_declared_and_every_label_fits():
    cluster = _cluster()
    spec = cluster["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    mounted = {m["name"] for c in [*pod["initContainers"], *pod["containers"]] for m in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    labels = spec["template"]["metadata"]["labels"]
    for selector in (
        spec["selector"]["matchLabels"],
        cluster["Service"]["spec"]["selector"],
        cluster["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert cluster["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_compose_seals_medssl_and_opens_ports_to_this_machine_alone():
    services = yaml.safe_load((_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for sealed in (services["medssl"], services["token"], services["network"]):
        assert sealed["read_only"]
        assert sealed["cap_drop"] == ["ALL"]
        assert sealed["security_opt"] == ["no-new-privileges:true"]
        assert not sealed["user"].startswith("0")
    assert all(port.startswith("127.0.0.1:") for port in services["network"]["ports"])


def test_the_network_of_compose_is_held_by_a_container_that_never_restarts_by_itself():
    # whoever shares the namespace of a container loses every connection and port when that container restarts
    services = yaml.safe_load((_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["network"]["entrypoint"] == ["sleep", "infinity"]
    for name in ("orthanc", "medssl"):
        assert services[name]["network_mode"] == "service:network"
        assert "ports" not in services[name]


def test_every_deployment_names_the_image_that_the_documents_build():
    project = tomllib.loads((_DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    image = f"{project['name']}:{project['version']}"
    services = yaml.safe_load((_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert {services[name]["image"] for name in ("medssl", "token", "network")} == {image}
    pod = _cluster()["Deployment"]["spec"]["template"]["spec"]
    assert {c["image"] for c in [*pod["initContainers"], *pod["containers"]]} == {image}
    texts = [
        _DEPLOY / "docker" / "Dockerfile",
        _DEPLOY / "kubernetes" / "medssl.yaml",
        _DEPLOY.parent / "docs" / "hospital.md",
    ]
    for path in texts:
        assert re.findall(r"docker build \S+ \S+ -t (\S+)", path.read_text(encoding="utf-8")) == [image], path.name


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_bundles_and_secrets_lie_where_the_options_look_for_them(where: str):
    from medssl.commands.parsing import parse_verb

    if where == "compose":
        text = (_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8")
        options = yaml.safe_load((_DEPLOY / "compose" / "serve.yaml").read_text(encoding="utf-8"))
        services = yaml.safe_load(text)["services"]
        mounts = dict(volume.split(":")[:2][::-1] for volume in services["medssl"]["volumes"])
        places = {
            f"{mounts['/run/secrets/medssl']}/".removeprefix("./"): "/run/secrets/medssl/",
            "bundles/": "/bundles/",
        }
        assert mounts["/bundles"] == "./bundles"
        token = services["token"]
        assert token["volumes"] == ["./secrets:/run/secrets/medssl"]  # where it is written, and no other folder
        assert token["entrypoint"][-1] == options["http"]["tokens"]
        assert parse_verb("token", [*token["entrypoint"][2:], "NAME"])
        assert "docker compose run --rm token NAME" in text
        ignored = (_DEPLOY.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
        assert {"/deploy/compose/secrets/", "/deploy/compose/bundles/"} <= set(ignored)
    else:
        text = (_DEPLOY / "kubernetes" / "medssl.yaml").read_text(encoding="utf-8")
        options = yaml.safe_load(_cluster()["ConfigMap"]["data"]["serve.yaml"])
        places = {"--from-file=": "/run/medssl/", "as ": "/bundles/"}
    header = text.split("\nname:" if where == "compose" else "\napiVersion:")[0]
    files = [*options["bundles"], options["tls"]["certificate"], options["tls"]["key"]]
    files += [options["http"]["tokens"]] if where == "kubernetes" else []
    for file in files:
        told = next(told for told, inside in places.items() if file.startswith(inside))
        assert told + file.rsplit("/", 1)[1] in header, file


def test_the_unit_of_compose_starts_it_when_docker_runs_and_stops_it_in_order():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(_DEPLOY / "compose" / "medssl-compose.service")
    assert unit["Unit"]["After"] == unit["Unit"]["Requires"] == "docker.service"
    text = (_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8")
    assert unit["Service"]["ExecStart"] == "/usr/bin/docker compose up --detach"
    assert "docker compose up --detach" in text
    assert "medssl-compose.service" in text
    grace = yaml.safe_load(text)["services"]["medssl"]["stop_grace_period"]
    assert int(unit["Service"]["TimeoutStopSec"]) > int(grace.removesuffix("s"))


def test_the_unit_of_systemd_runs_serve_as_a_user_of_its_own_in_a_system_it_cannot_write_to():
    from medssl.commands.parsing import parse_verb

    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(_DEPLOY / "systemd" / "medssl.service")
    service = unit["Service"]
    program, verb, *arguments = shlex.split(service["ExecStart"])
    assert (program, verb) == ("/opt/medssl/bin/medssl", "serve")
    place = arguments.index("--config")
    assert parse_verb("serve", [*arguments[:place], *arguments[place + 2 :]])
    assert f"/var/lib/{service['StateDirectory']}" == arguments[arguments.index("--data") + 1]
    assert (service["User"], service["ProtectSystem"], service["NoNewPrivileges"]) == ("medssl", "strict", "yes")
    assert service["SuccessExitStatus"] == "143"  # of `serve` after SIGTERM


def test_medssl_leaves_the_ports_of_an_archive_on_the_same_machine_alone():
    from medssl.runtime.server.options import DicomOptions, HttpOptions

    services = yaml.safe_load((_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    published = {int(port.rsplit(":", 1)[1]) for port in services["network"]["ports"]}
    beside = yaml.safe_load((_DEPLOY / "compose" / "serve.yaml").read_text(encoding="utf-8"))
    archive = published - {beside["http"]["port"]}
    assert archive == {8042, 4242}
    example = yaml.safe_load((_DEPLOY.parent / "configs" / "serve" / "loopback.yaml").read_text(encoding="utf-8"))
    ports = {HttpOptions().port, DicomOptions().port, *(example[group]["port"] for group in ("http", "dicom"))}
    assert not ports & archive
    clinic = (_DEPLOY.parent / "docs" / "clinic.md").read_text(encoding="utf-8")
    assert f"http://127.0.0.1:{HttpOptions().port}/api/jobs" in clinic


def test_the_users_of_orthanc_are_described_and_mounted_where_its_image_looks_for_options():
    text = (_DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    header = text.split("\nname:")[0]
    mounted = content["services"]["orthanc"]["secrets"]
    assert mounted == [{"source": "orthanc_users", "target": "orthanc_users.json"}]  # /run/secrets/*.json alone
    assert content["secrets"]["orthanc_users"]["file"].removeprefix("./") in header
    form = next(line for line in header.splitlines() if "RegisteredUsers" in line)
    assert json.loads(form.removeprefix("#")) == {"RegisteredUsers": {"NAME": "PASSWORD"}}


def test_the_image_holds_the_page_from_a_fresh_clone():
    text = (_DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    page, wheel = text.split(" AS page")[1].split(" AS wheel")
    assert "npm ci --ignore-scripts" in page
    assert re.search(r"^COPY deploy/viewer /", page, re.MULTILINE)
    assert wheel.index("COPY --from=page") < wheel.index("pip wheel")
    assert "medssl/runtime/server/static" in wheel.split("pip wheel")[0]


def test_mirrors_reach_pip_and_npm_in_every_stage_that_asks_them_and_no_frontend_is_pulled():
    text = (_DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "syntax=" not in text  # BuildKit would fetch that frontend from Docker Hub before anything else
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        declared = {name for line in re.findall(r"^ARG (.+)$", stage, re.MULTILINE) for name in line.split()}
        if "npm ci" in stage:
            assert "NPM_CONFIG_REGISTRY" in declared
        if re.search(r"pip wheel|pip .*install --no-cache", stage):
            assert {"PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"} <= declared
    told = text.split("\nARG PYTHON")[0]
    assert all(name in told for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "NPM_CONFIG_REGISTRY"))


def test_the_first_process_of_a_container_hears_sigterm_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch):
    from medssl.__main__ import main

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("medssl.__main__.os.getpid", lambda: 1)
    try:
        assert main(["--version"]) == 0
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_image_is_made_in_stages_without_root_or_torch():
    text = (_DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    final = text.split(" AS final")[1]
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 4
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert not re.search(r"\btrain\b|torch==", text)
    assert "curl" not in text
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    ignored = (_DEPLOY / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert {f"!{name}" for names in copied for name in names.split()} <= set(ignored.splitlines())


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_the_options_of_the_deployments_are_options_of_serve(where: str):
    if importlib.util.find_spec("medssl.commands.serve") is None:
        pytest.skip("this version has no server")
    from medssl.commands.parsing import parse_verb

    if where == "compose":
        file = _DEPLOY / "compose" / "serve.yaml"
        assert parse_verb("serve", ["--config", str(file)])
        return
    options = yaml.safe_load(_cluster()["ConfigMap"]["data"]["serve.yaml"])
    arguments = [str(bundle) for bundle in options.pop("bundles")] + ["--data", options.pop("data")]
    for group, values in options.items():
        for name, value in values.items():
            arguments += [f"--{group}.{name}", str(value)]
    assert parse_verb("serve", arguments)


def test_the_model_repository_is_written_where_compose_mounts_it_from():
    file = _DEPLOY / "triton" / "compose.yaml"
    text = file.read_text(encoding="utf-8")
    (mount,) = yaml.safe_load(text)["services"]["triton"]["volumes"]
    mounted = (file.parent / mount.split(":")[0]).resolve()  # relative to the compose file, says its specification
    header = text.split("\nname:")[0]
    for told in (header, (_DEPLOY.parent / "docs" / "hospital.md").read_text(encoding="utf-8")):
        (out,) = re.findall(r"medssl triton BUNDLE --out ([^`\s]+)", told)
        assert (_DEPLOY.parent / out).resolve() == mounted
        assert "docker compose -f deploy/triton/compose.yaml up" in told
    ignored = (_DEPLOY.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"/{out}/" in ignored


def test_ci_installs_npm_and_the_clinics_tests_find_orthanc_and_leave_apt_to_root():
    ci = (_DEPLOY.parent / ".ci" / "run").read_text(encoding="utf-8")
    wanted = re.findall(r"for program in (.+); do", ci)
    assert "npm" in wanted[0].split()
    assert "nodejs npm" in ci
    made = (_DEPLOY.parent / "Makefile").read_text(encoding="utf-8").split("\ntest-clinic:")[1].split("\n\n")[0]
    assert made.index("/usr/sbin") < made.index("command -v Orthanc")
    assert made.index("id -u") < made.index("apt-get")


def test_documents_name_the_files_and_numbers_that_the_makefile_makes():
    docs = "".join((_DEPLOY.parent / "docs" / f"{n}.md").read_text("utf-8") for n in ("hospital", "validation"))
    target = (_DEPLOY.parent / "Makefile").read_text(encoding="utf-8").split("\nsbom:")[1].split("\n\n")[0]
    extras = re.findall(r"for extra in (.+); do", target)[0].split()
    assert set(re.findall(r"dist/sbom[\w-]*\.json", docs)) == {f"dist/sbom-{extra}.json" for extra in extras}
    assert "EXTRA=" not in docs
    assert "supply_chain.py size" in target
