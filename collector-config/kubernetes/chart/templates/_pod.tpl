{{/*
The pod of a Collector. `c` as in _names.tpl, and: receives (takes OTLP from others), usesApi (asks the API server),
queue (the volume that holds what waits: emptyDir, or claim for a StatefulSet's).
*/}}

{{- define "ai-otel.pod" -}}
{{- $values := index .root.Values .key }}
{{- include "ai-otel.checkResources" (dict "key" .key "resources" $values.resources) }}
{{- if ge (int $values.preStopSeconds) (int $values.terminationGracePeriodSeconds) }}
  {{- fail (printf "%s.terminationGracePeriodSeconds: %v leaves nothing after preStopSeconds; write more than %v" .key $values.terminationGracePeriodSeconds $values.preStopSeconds) }}
{{- end }}
metadata:
  labels:
    {{- include "ai-otel.podLabels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "ai-otel.config" . | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "ai-otel.name" . }}
  automountServiceAccountToken: {{ .usesApi }}
  enableServiceLinks: false
  securityContext: {{- include "ai-otel.podSecurity" . | nindent 4 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with include "ai-otel.placement" (dict "c" . "values" $values) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: collector
      image: {{ include "ai-otel.image" .root.Values.image }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: [--config=/etc/ai-otel/config/collector.yaml]
      env: {{- include "ai-otel.environment" . | trim | nindent 8 }}
      {{- with $values.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: health, containerPort: 13133, protocol: TCP}
        - {name: metrics, containerPort: 8888, protocol: TCP}
        {{- if .receives }}
        - {name: otlp-grpc, containerPort: 4317, protocol: TCP}
        - {name: otlp-http, containerPort: 4318, protocol: TCP}
        {{- end }}
        {{- if include "ai-otel.servesPrometheus" . }}
        - {name: prometheus, containerPort: 9464, protocol: TCP}
        {{- end }}
      {{- include "ai-otel.probes" . | nindent 6 }}
      {{- if and .receives (semverCompare ">=1.30-0" .root.Capabilities.KubeVersion.Version) }}
      # Endpoints are removed and the queue is sent before the container gets SIGTERM.
      lifecycle: {preStop: {sleep: {seconds: {{ $values.preStopSeconds }}}}}
      {{- end }}
      resources: {{- toYaml $values.resources | nindent 8 }}
      securityContext: {{- include "ai-otel.containerSecurity" . | nindent 8 }}
      volumeMounts: {{- include "ai-otel.mounts" . | nindent 8 }}
  volumes: {{- include "ai-otel.volumes" . | nindent 4 }}
{{- end }}

{{/* Who the pod runs as: the official images' user, which owns nothing. */}}
{{- define "ai-otel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ai-otel.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{/* The health_check extension answers once every component has started. */}}
{{- define "ai-otel.probes" -}}
startupProbe:
  httpGet: {path: /, port: health}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /, port: health}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "ai-otel.placement" -}}
{{- with .c.root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels: {{- include "ai-otel.selectorLabels" $.c | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The page for Prometheus is one of the backends. */}}
{{- define "ai-otel.servesPrometheus" -}}
  {{- if and (include "ai-otel.endsHere" .) (hasKey .root.Values.backends "prometheus") }}true{{ end }}
{{- end }}

{{/* ---------------------------------------------------------------- environment */}}

{{/* Of the Collector: what follows from values.yaml, then `settings`, then `env`. */}}
{{- define "ai-otel.environment" -}}
{{- $values := index .root.Values .key }}
{{- include "ai-otel.checkSettings" (dict "key" .key "settings" $values.settings "known" (include "ai-otel.knownVariables" . | fromYaml)) }}
- name: GOMEMLIMIT
  value: {{ include "ai-otel.goMemoryLimit" $values.resources.limits.memory | quote }}
{{- range $name, $path := dict "K8S_NODE_NAME" "spec.nodeName" "K8S_POD_NAME" "metadata.name" "K8S_NAMESPACE_NAME" "metadata.namespace" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
{{- end }}
{{- range $name, $entry := include "ai-otel.derivedVariables" . | fromYaml }}
- name: {{ $name }}
  {{- toYaml $entry | nindent 2 }}
{{- end }}
{{- range $name, $value := $values.settings }}
- name: {{ $name }}
  value: {{ include "ai-otel.plain" $value | quote }}
{{- end }}
{{- with $values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A fifth less than the limit: Go's collector works harder before the kernel ends the process. */}}
{{- define "ai-otel.goMemoryLimit" -}}
  {{- printf "%dMiB" (div (mul (include "ai-otel.bytes" . | int64) 8) 10485760) }}
{{- end }}

{{/* Variables that follow from other values, from name to what stands under `env`. */}}
{{- define "ai-otel.derivedVariables" -}}
# Probes and monitors ask the pod's address. In Go 0.0.0.0 is every address, IPv6 too.
AI_OTEL_HEALTH_LISTEN: {value: "0.0.0.0:13133"}
AI_OTEL_SELF_HOST: {value: "0.0.0.0"}
{{- if .receives }}
AI_OTEL_OTLP_GRPC: {value: "0.0.0.0:4317"}
AI_OTEL_OTLP_HTTP: {value: "0.0.0.0:4318"}
{{- end }}
{{- if include "ai-otel.servesPrometheus" . }}
AI_OTEL_PROMETHEUS_LISTEN: {value: "0.0.0.0:9464"}
{{- end }}
{{- if eq .role "gateway" }}
AI_OTEL_STATEFUL_HOST: {value: {{ include "ai-otel.name" (dict "root" .root "component" "gateway-stateful") }}}
{{- else if include "ai-otel.endsHere" . }}
{{- with include "ai-otel.backendVariables" .root | fromYaml }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- else if eq .role "sidecar" }}
AI_OTEL_GATEWAY_ENDPOINT: {value: {{ include "ai-otel.gatewayEndpoint" .root | quote }}}
{{- else }}
AI_OTEL_GATEWAY_ENDPOINT: {value: {{ include "ai-otel.nearGatewayEndpoint" .root | quote }}}
{{- end }}
{{- if eq .role "cluster" }}
AI_OTEL_LEASE_NAME: {value: {{ include "ai-otel.name" . }}-lease}
{{- end }}
{{- end }}

{{/* Every variable that a part of this component reads, from name to what the index says of it. */}}
{{- define "ai-otel.knownVariables" -}}
  {{- $settings := (include "ai-otel.index" .root | fromYaml).settings }}
  {{- $values := index .root.Values .key }}
  {{- $found := dict }}
  {{- range $kind, $names := dict "roles" (list .role "common" "pages") "features" (include "ai-otel.everyFeature" . | fromJsonArray) "backends" (include "ai-otel.backends" . | fromJsonArray) }}
    {{- range $names }}
      {{- range $name, $shape := get (get $settings $kind) (splitList ":" . | first) }}
        {{- $_ := set $found $name $shape }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- toYaml $found }}
{{- end }}

{{/* ---------------------------------------------------------------- volumes */}}

{{- define "ai-otel.mounts" -}}
- {name: config, mountPath: /etc/ai-otel/config, readOnly: true}
- {name: queue, mountPath: /var/lib/ai-otel}
{{- if include "ai-otel.hasSecrets" . }}
- {name: tls, mountPath: /etc/ai-otel/tls, readOnly: true}
- {name: token, mountPath: /var/run/secrets/ai-otel, readOnly: true}
{{- end }}
{{- range $secret, $_ := include "ai-otel.authorities" . | fromYaml }}
- {name: {{ printf "authority-%s" $secret | trunc 63 }}, mountPath: /etc/ai-otel/authorities/{{ $secret }}, readOnly: true}
{{- end }}
{{- with (index .root.Values .key).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ai-otel.volumes" -}}
- name: config
  configMap: {name: {{ include "ai-otel.name" . }}}
{{- if eq .queue "emptyDir" }}
- name: queue
  emptyDir: {sizeLimit: {{ (index .root.Values .key).persistence.size }}}
{{- end }}
{{- if include "ai-otel.hasSecrets" . }}
{{ include "ai-otel.secrets" . }}
{{- end }}
{{- range $secret, $keys := include "ai-otel.authorities" . | fromYaml }}
- name: {{ printf "authority-%s" $secret | trunc 63 }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
    items:
      {{- range $keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- with (index .root.Values .key).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* "true" where a component asks senders for the token, or shows it to the gateway. */}}
{{- define "ai-otel.hasSecrets" -}}
  {{- if and (ne .root.Values.tls.mode "off") (or .receives (not (include "ai-otel.endsHere" .))) }}true{{ end }}
{{- end }}

{{/* Who only sends gets no private key, unless it must show a certificate. */}}
{{- define "ai-otel.secrets" -}}
- name: tls
  secret:
    secretName: {{ .root.Values.tls.secretName }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      {{- if or .receives (eq .root.Values.tls.mode "mtls") }}
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      {{- end }}
- name: token
  secret:
    secretName: {{ .root.Values.token.secretName }}
    defaultMode: 0440
    items:
      - {key: {{ .root.Values.token.key }}, path: token}
{{- end }}

{{/* Authorities of backends: from Secret to the keys of it, without doubles. */}}
{{- define "ai-otel.authorities" -}}
  {{- $found := dict }}
  {{- if include "ai-otel.endsHere" . }}
    {{- range $_, $backend := .root.Values.backends }}
      {{- with (default dict $backend).caSecret }}
        {{- $_ := set $found .name (uniq (append (get $found .name | default list) .key)) }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- toYaml $found }}
{{- end }}

{{/*
Bytes that may be on the volume at most: for each exporter with a queue there, three times its size for each signal that
it is sent (see features/persistence.yaml); and files that are rotated. `config` is the parsed configuration, `settings`
those of the component.
*/}}
{{- define "ai-otel.queueBytes" -}}
  {{- $total := 0 }}
  {{- range $name, $exporter := .config.exporters }}
    {{- with (default dict $exporter).rotation }}
      {{- $total = add $total (mul 1048576 (int .max_megabytes) (add1 (int .max_backups))) }}
    {{- end }}
    {{- if dig "sending_queue" "storage" "" (default dict $exporter) }}
      {{- $size := index $.settings "AI_OTEL_QUEUE_BYTES" | default (regexFind "[0-9]+}?$" (include "ai-otel.plain" $exporter.sending_queue.queue_size) | trimSuffix "}") }}
      {{- $signals := list }}
      {{- range $pipeline, $ends := $.config.service.pipelines }}
        {{- if has $name $ends.exporters }}
          {{- $signals = append $signals (splitList "/" $pipeline | first) }}
        {{- end }}
      {{- end }}
      {{- $total = add $total (mul 3 (include "ai-otel.plain" $size | int64) (len (uniq $signals))) }}
    {{- end }}
  {{- end }}
  {{- $total }}
{{- end }}

{{- define "ai-otel.checkQueue" -}}
  {{- $values := index .root.Values .key }}
  {{- $where := printf "%s.persistence.size" .key }}
  {{- include "ai-otel.checkBytes" (dict "where" $where "value" $values.persistence.size) }}
  {{- $needed := include "ai-otel.queueBytes" (dict "config" (include "ai-otel.config" . | fromYaml) "settings" $values.settings) | int64 }}
  {{- if lt (include "ai-otel.bytes" $values.persistence.size | int64) $needed }}
    {{- $gibibytes := div (add $needed 1073741823) 1073741824 }}
    {{- fail (printf "%s: %s is too small for what may wait, and a full disk loses it; write %dGi, or a smaller %s.settings.AI_OTEL_QUEUE_BYTES" $where $values.persistence.size $gibibytes .key) }}
  {{- end }}
{{- end }}
