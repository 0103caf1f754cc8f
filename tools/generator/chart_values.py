"""Writes the Helm chart's values.schema.json: every key, what it means, and that there is no other."""

from __future__ import annotations

from ai_otel.collector import fragments as parts
from generator.compact import compact
from generator.model import Contract, Tree

# Forms of values. What carries a unit may be a number here: the templates say what to write instead.
TEXT: Tree = {"type": "string"}
SWITCH: Tree = {"type": "boolean"}
WITH_UNIT: Tree = {"type": ["string", "number"]}
SECONDS: Tree = {"type": "integer", "minimum": 0}
COUNT: Tree = {"type": "integer", "minimum": 1}
PERCENT: Tree = {"type": "integer", "minimum": 1, "maximum": 100}
NUMBER_OR_SHARE: Tree = {"type": ["string", "integer"]}
# What the API server knows better than we do, or what the user may name.
OBJECT: Tree = {"type": "object"}
OBJECTS: Tree = {"type": "array", "items": {"type": "object"}}
TEXTS: Tree = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES: Tree = {"type": "object", "additionalProperties": WITH_UNIT}


def render(_: Contract) -> str:
    """The text of the file."""
    tree = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated from tools/generator/chart_values.py by `make generate`. Do not edit.",
        "title": "Values of the chart ai-otel",
        **_keys(),
    }
    return compact(tree) + "\n"


def _of(form: Tree, description: str) -> Tree:
    return {"description": description, **form}


def _closed(description: str, /, **keys: Tree) -> Tree:
    """An object with these keys; the message of a key that is not one of them lists them."""
    form: Tree = {
        "type": "object",
        "additionalProperties": False,
        "propertyNames": {"enum": [*keys]},
        "properties": keys,
    }
    return {"description": description, **form} if description else form


def _one_of(description: str, *choices: str) -> Tree:
    return {"description": description, "enum": [*choices]}


def _some_of(description: str, choices: tuple[str, ...]) -> Tree:
    return {"description": description, "type": "array", "uniqueItems": True, "items": {"enum": [*choices]}}


def _keys() -> Tree:
    return _closed(
        "",
        **{"global": _of(OBJECT, "What a parent chart passes to all of its charts; nothing here reads it.")},
        nameOverride=_of(TEXT, "Name of the application in labels, instead of the chart's."),
        fullnameOverride=_of(TEXT, "Beginning of the names of all objects, instead of the release's and the chart's."),
        commonLabels=_of(TEXTS, "Labels of all objects."),
        imagePullSecrets=_of(OBJECTS, "Secrets for the image registry, as in a pod."),
        image=_image("The Collector's image: any distribution with the components of distribution/manifest.yaml."),
        tls=_tls(),
        token=_secret("The token that senders show and receivers ask for.", "secretName"),
        backends=_backends(),
        agent=_component("One on each node.", reads_pages=True, updateStrategy=_update_strategy()),
        gateway=_component(
            "First tier: asks for the token, keeps traces whole.",
            endpoint=_of(TEXT, "host:port of another release's gateway, where this one has none."),
            replicas=_of(COUNT, "How many, without autoscaling."),
            autoscaling=_closed(
                "A HorizontalPodAutoscaler on CPU and memory.",
                enabled=_of(SWITCH, "Whether there is one."),
                minReplicas=_of(COUNT, "At least so many."),
                maxReplicas=_of(COUNT, "At most so many."),
                cpuPercent=_of(PERCENT, "Of the CPU request, on average."),
                memoryPercent=_of(PERCENT, "Of the memory request, on average."),
            ),
            podDisruptionBudget=_budget(),
        ),
        gatewayStateful=_component(
            "Second tier: samples, derives, sends to the backends.",
            has_claim=True,
            replicas=_of(COUNT, "How many instances, each with its disk."),
            podDisruptionBudget=_budget(),
        ),
        cluster=_component(
            "The state of the cluster's objects, once.", replicas=_of(COUNT, "How many wait for the lease.")
        ),
        sidecar=_sidecar(),
        injection=_injection(),
        gpuAgent=_gpu_agent(),
        networkPolicy=_closed(
            "Who may speak with whom.",
            enabled=_of(SWITCH, "Whether there are NetworkPolicies."),
            senders=_of(OBJECTS, "Peers that may send OTLP, besides pods of the release's namespace."),
            monitoring=_of(OBJECTS, "Peers that may read ports 8888 and 9464."),
            extraEgress=_of(OBJECTS, "More egress rules, for all components."),
        ),
        monitoring=_monitoring(),
    )


def _image(description: str) -> Tree:
    return _closed(
        description,
        repository=_of(TEXT, "Where it is, without tag."),
        tag=_of(TEXT, "Its tag."),
        digest=_of({"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}, "sha256:…; wins over the tag."),
        pullPolicy=_one_of("When it is fetched.", "Always", "IfNotPresent", "Never"),
    )


def _secret(description: str, name: str = "name") -> Tree:
    return _closed(description, **{name: _of(TEXT, "Name of the Secret.")}, key=_of(TEXT, "The key in it."))


def _tls() -> Tree:
    return _closed(
        "TLS between all components, and from senders to them.",
        mode=_one_of(
            "tls; mtls: senders show certificates too; off: neither TLS nor tokens, for a laptop.", "tls", "mtls", "off"
        ),
        secretName=_of(TEXT, "Secret with tls.crt, tls.key and ca.crt, for the names of all three Services."),
        certManager=_closed(
            "cert-manager makes that Secret.",
            enabled=_of(SWITCH, "Whether it does."),
            issuer=_closed(
                "Who signs.",
                name=_of(TEXT, "Name of the issuer."),
                kind=_of(TEXT, "Issuer, ClusterIssuer, or another's kind."),
                group=_of(TEXT, "API group of it."),
            ),
            duration=_of(WITH_UNIT, "How long a certificate is good for, such as 2160h."),
            renewBefore=_of(WITH_UNIT, "How long before its end it is renewed, such as 720h."),
        ),
    )


# ---------------------------------------------------------------- backends


def _backends() -> Tree:
    endpoint = _of(TEXT, "host:port.")
    url = _of(TEXT, "URL, with its scheme.")
    authorization = _secret("Secret with the whole value of the authorization header.")
    authority = _secret("Secret with the certificate of who signed the backend's; left out: the system's authorities.")
    given: dict[str, dict[str, Tree]] = {
        "otlp": {"endpoint": endpoint, "authorizationSecret": authorization, "caSecret": authority},
        "otlp_http": {"url": url, "authorizationSecret": authorization, "caSecret": authority},
        "prometheus_otlp": {"url": url, "caSecret": authority},
        "prometheus_remote_write": {"url": url, "authorizationSecret": authorization, "caSecret": authority},
        "kafka": {
            "brokers": {"description": "host:port of each.", "type": "array", "items": TEXT},
            "caSecret": authority,
        },
    }
    names = [name for name in parts.names("backends") if name != "gateway"]
    signals = _some_of("For these only; left out: all that it takes.", ("traces", "metrics", "logs"))
    return _closed(
        "Where telemetry goes at last; several may be chosen.",
        **{
            name: {**_closed(_first_line(name), **given.get(name, {}), signals=signals), "type": ["object", "null"]}
            for name in names
        },
    )


def _first_line(backend: str) -> str:
    return parts.heading("backends", backend)[0].partition(": ")[2]


# ---------------------------------------------------------------- components


def _component(description: str, *, reads_pages: bool = False, has_claim: bool = False, **own: Tree) -> Tree:
    claim = {"storageClassName": _of(TEXT, "Storage class; empty: the cluster's default.")} if has_claim else {}
    return _closed(
        description,
        enabled=_of(SWITCH, "Whether there is one."),
        **_choice(reads_pages),
        env=_of(OBJECTS, "Variables of your own, as in a container."),
        envFrom=_of(OBJECTS, "The same from ConfigMaps and Secrets."),
        persistence=_closed(
            "The volume of what waits to be sent.", size=_of(WITH_UNIT, "How large, such as 10Gi."), **claim
        ),
        preStopSeconds=_of(SECONDS, "Seconds between its removal from the endpoints and SIGTERM."),
        extraVolumes=_of(OBJECTS, "Volumes of your own, as in a pod."),
        extraVolumeMounts=_of(OBJECTS, "Where they are mounted, as in a container."),
        **_pod(),
        **own,
    )


def _choice(reads_pages: bool) -> dict[str, Tree]:
    engines = {"engines": _some_of("Engines whose pages it understands; empty: all.", parts.names("engines"))}
    return {
        **(engines if reads_pages else {}),
        "features": _some_of("Features to switch on.", parts.names("features")),
        "without": _some_of("Features that are on anyhow, to switch off.", parts.DEFAULT_FEATURES),
        "settings": {
            "description": "Variables of the configuration, by name; the first lines of each part say what they mean.",
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        "config": _of(
            {"type": ["object", "string", "null"]}, "One more part of the configuration, joined last; or its text."
        ),
    }


def _pod() -> dict[str, Tree]:
    return {
        "resources": _resources(),
        "terminationGracePeriodSeconds": _of(SECONDS, "How long ending may take; longer than preStopSeconds."),
        "priorityClassName": _of(TEXT, "Priority class of the pods."),
        "nodeSelector": _of(TEXTS, "Labels of nodes where it may run."),
        "tolerations": _of(OBJECTS, "Taints of nodes that it bears."),
        "affinity": _of(OBJECT, "Affinity, as in a pod."),
        "topologySpreadConstraints": _of(OBJECTS, "How pods are spread; without a labelSelector it is filled in."),
        "podLabels": _of(TEXTS, "Labels of the pods."),
        "podAnnotations": _of(TEXTS, "Annotations of the pods."),
        "serviceAccountAnnotations": _of(TEXTS, "Annotations of the ServiceAccount."),
    }


def _resources() -> Tree:
    return _closed(
        "As in a container.",
        requests=_of(QUANTITIES, "What is kept free for it."),
        limits=_of(QUANTITIES, "What it may use; memory is required."),
    )


def _update_strategy() -> Tree:
    rolling = _closed(
        "How many at a time, as a number or a share.",
        maxUnavailable=_of(NUMBER_OR_SHARE, "May be missing."),
        maxSurge=_of(NUMBER_OR_SHARE, "May be there besides."),
    )
    strategy = _one_of("How it is updated.", "RollingUpdate", "OnDelete")
    return _closed("Of the DaemonSet.", type=strategy, rollingUpdate=rolling)


def _budget() -> Tree:
    return _closed(
        "A PodDisruptionBudget.",
        enabled=_of(SWITCH, "Whether there is one."),
        maxUnavailable=_of(NUMBER_OR_SHARE, "At most so many may be missing."),
        minAvailable=_of(NUMBER_OR_SHARE, "At least so many must be there."),
    )


def _sidecar() -> Tree:
    return _closed(
        "ConfigMaps for sidecars of model servers.",
        enabled=_of(SWITCH, "Whether there are any."),
        namespaces=_of({"type": "array", "items": TEXT}, "Where the model servers are; empty: the release's."),
        **{**_choice(reads_pages=True), "engines": _some_of("One ConfigMap for each.", parts.names("engines"))},
        persistence=_closed("The volume of what waits to be sent.", size=_of(WITH_UNIT, "How large, such as 3Gi.")),
        resources=_resources(),
    )


def _injection() -> Tree:
    return _closed(
        "ai-otel into model servers without the Operator: what the templates ai-otel.injection* read.",
        image=_image("An image built from collector-config/kubernetes/injection/Dockerfile."),
        volume=_one_of("emptyDir: an init container copies; image: it is mounted as it is.", "emptyDir", "image"),
        resources=_resources(),
    )


def _gpu_agent() -> Tree:
    def socket(description: str) -> Tree:
        path = _of(TEXT, "The directory on the node that holds the socket.")
        return _closed(description, enabled=_of(SWITCH, "Whether it is mounted; then it runs as root."), path=path)

    return _closed(
        "`ai-otel agent` on each GPU node.",
        enabled=_of(SWITCH, "Whether there is one."),
        image=_image("An image in which `pip install 'ai-otel[nvidia]'` was run."),
        endpoint=_of(TEXT, "host:port of what it sends to; empty: the gateway, else the agent of its node."),
        runtimeClassName=_of(TEXT, "The runtime that shows GPUs; empty: the node's default."),
        podResources=socket("The kubelet's PodResources API, which says which pod holds a GPU."),
        podsApi=socket("The kubelet's Pods API."),
        dra=_closed("Dynamic resource allocation.", enabled=_of(SWITCH, "Whether it reads ResourceSlices.")),
        settings=_choice(reads_pages=False)["settings"],
        env=_of(OBJECTS, "Variables of your own, as in a container."),
        **_pod(),
        updateStrategy=_update_strategy(),
    )


def _monitoring() -> Tree:
    def monitor(description: str) -> Tree:
        return _closed(
            description,
            enabled=_of(SWITCH, "Whether there is one."),
            interval=_of(WITH_UNIT, "How often it is read, such as 30s."),
            labels=_of(TEXTS, "Labels by which your Prometheus finds it."),
        )

    return _closed(
        "For the Prometheus Operator and Grafana.",
        podMonitor=monitor("A PodMonitor of the Collectors' own metrics."),
        serviceMonitor=monitor("A ServiceMonitor of the page of the backend prometheus."),
        prometheusRule=_closed(
            "Alerts.",
            enabled=_of(SWITCH, "Whether there are any."),
            without=_of({"type": "array", "items": TEXT}, "Alerts to leave out, by name."),
            labels=_of(TEXTS, "Labels by which your Prometheus finds it."),
            alertLabels=_of(TEXTS, "More labels of each alert."),
        ),
        dashboards=_closed(
            "Dashboards, one ConfigMap each.",
            enabled=_of(SWITCH, "Whether there are any."),
            label=_of(TEXT, "The label by which Grafana's sidecar finds them."),
            labelValue=_of(TEXT, "Its value."),
            annotations=_of(TEXTS, "Annotations, such as the folder."),
        ),
    )
