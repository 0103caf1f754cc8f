{{/* What the schema cannot say well: each fails with the key, and what to write. `where` is the key. They print nothing. */}}

{{/* host:port, or a URL. */}}
{{- define "ai-otel.checkAddress" -}}
  {{- if eq .kind "url" }}
    {{- if not (regexMatch "^https?://[^/ ]+" (toString .value)) }}
      {{- fail (printf "%s: %v is no URL; write it with its scheme, for instance https://%v" .where .value .value) }}
    {{- end }}
  {{- else }}
    {{- range ternary .value (list .value) (kindIs "slice" .value) }}
      {{- if contains "://" (toString .) }}
        {{- fail (printf "%s: %v has a scheme; write host:port alone, for instance %s" $.where . (regexReplaceAll "^[a-z]+://([^/]*).*$" (toString .) "${1}")) }}
      {{- else if not (regexMatch "^[^/ ]+:[0-9]+$" (toString .)) }}
        {{- fail (printf "%s: %v has no port; write host:port, for instance %v:%s" $.where . . (ternary "9092" "4317" (eq $.kind "brokers"))) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* A number of bytes with its unit, as Kubernetes writes it. */}}
{{- define "ai-otel.checkBytes" -}}
  {{- if not (regexMatch "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti)$" (toString .value)) }}
    {{- fail (printf "%s: %v has no unit; write it as %s" .where .value (regexReplaceAll "^([0-9]+).*$" (toString .value) (ternary "${1}Gi" "${1}Mi" (hasSuffix "size" .where))) ) }}
  {{- end }}
{{- end }}

{{/* The number of bytes of such a value. */}}
{{- define "ai-otel.bytes" -}}
  {{- $factor := get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[A-Z]i$" .) }}
  {{- mulf (regexFind "^[0-9.]+" . | float64) $factor | floor | int64 }}
{{- end }}

{{/* Seconds, minutes or hours, as Go and Prometheus write them. */}}
{{- define "ai-otel.checkDuration" -}}
  {{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" (toString .value)) }}
    {{- fail (printf "%s: %v has no unit; write it as %s" .where .value (regexReplaceAll "^([0-9.]*).*$" (toString .value) "${1}s")) }}
  {{- end }}
{{- end }}

{{/* Requests and limits. Memory must be limited, because memory_limiter holds back at a share of the limit. */}}
{{- define "ai-otel.checkResources" -}}
  {{- range $kind := list "requests" "limits" }}
    {{- range $what, $value := index $.resources $kind }}
      {{- if ne $what "cpu" }}
        {{- if and (has $what (list "memory" "ephemeral-storage")) }}
          {{- include "ai-otel.checkBytes" (dict "where" (printf "%s.resources.%s.%s" $.key $kind $what) "value" $value) }}
        {{- end }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- if not (dig "limits" "memory" "" .resources) }}
    {{- fail (printf "%s.resources.limits.memory is missing, and memory_limiter holds back at a share of it; write for instance 512Mi" .key) }}
  {{- end }}
{{- end }}

{{/*
Variables that were set for a component: each must be read by one of its parts, look like its default, and not be one
that the chart sets. `settings` are those that were set, `known` those that are read.
*/}}
{{- define "ai-otel.checkSettings" -}}
  {{- $owned := include "ai-otel.ownedVariables" . | fromYaml }}
  {{- range $name, $value := .settings }}
    {{- $where := printf "%s.settings.%s" $.key $name }}
    {{- if hasKey $owned $name }}
      {{- fail (printf "%s: the chart sets it; %s" $where (get $owned $name)) }}
    {{- end }}
    {{- if not (hasKey $.known $name) }}
      {{- $free := list }}
      {{- range keys $.known | sortAlpha }}
        {{- if not (hasKey $owned .) }}
          {{- $free = append $free . }}
        {{- end }}
      {{- end }}
      {{- fail (printf "%s: nothing in %s reads it; write one of %s, or put a variable of your own under %s.env" $where $.key (join ", " $free) $.key) }}
    {{- end }}
    {{- $kind := (get $.known $name).is }}
    {{- if and (eq $kind "true or false") (not (regexMatch "^(true|false)$" (toString $value))) }}
      {{- fail (printf "%s: %v is neither true nor false" $where $value) }}
    {{- else if eq $kind "duration" }}
      {{- include "ai-otel.checkDuration" (dict "where" $where "value" $value) }}
    {{- else if and (eq $kind "size") (not (regexMatch "^[0-9]+[KMG]i?B$" (toString $value))) }}
      {{- fail (printf "%s: %v has no unit; write it as %v" $where $value (get $.known $name).default) }}
    {{- else if and (eq $kind "number") (not (regexMatch "^[0-9]+(\\.[0-9]+)?$" (include "ai-otel.plain" $value))) }}
      {{- fail (printf "%s: %v is no plain number; write it without a unit, as %v" $where $value (get $.known $name).default) }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Variables that follow from other values, and where to say them. */}}
{{- define "ai-otel.ownedVariables" -}}
AI_OTEL_GATEWAY_ENDPOINT: write gateway.endpoint
AI_OTEL_STATEFUL_HOST: it is the Service of gatewayStateful
AI_OTEL_STATEFUL_PORT: it is the Service of gatewayStateful
AI_OTEL_TLS_CERT_FILE: write tls.secretName
AI_OTEL_TLS_KEY_FILE: write tls.secretName
AI_OTEL_CA_FILE: write tls.secretName
AI_OTEL_CLIENT_CA_FILE: write tls.secretName
AI_OTEL_CLIENT_CERT_FILE: write tls.secretName
AI_OTEL_CLIENT_KEY_FILE: write tls.secretName
AI_OTEL_TOKEN_FILE: write token.secretName
AI_OTEL_BACKEND_ENDPOINT: write backends.otlp.endpoint
AI_OTEL_BACKEND_URL: write backends.otlp_http.url
AI_OTEL_BACKEND_CA_FILE: write caSecret of the backend
AI_OTEL_BACKEND_AUTHORIZATION: write authorizationSecret of the backend
AI_OTEL_PROMETHEUS_URL: write backends.prometheus_otlp.url
AI_OTEL_PROMETHEUS_CA_FILE: write caSecret of the backend
AI_OTEL_PROMETHEUS_LISTEN: it is the port prometheus of the Service
AI_OTEL_REMOTE_WRITE_URL: write backends.prometheus_remote_write.url
AI_OTEL_REMOTE_WRITE_CA_FILE: write caSecret of the backend
AI_OTEL_KAFKA_BROKERS: write backends.kafka.brokers
AI_OTEL_KAFKA_CA_FILE: write caSecret of the backend
AI_OTEL_FILE: it lies on the queue's volume
AI_OTEL_QUEUE_DIR: it is the queue's volume
AI_OTEL_HEALTH_LISTEN: the probes ask port 13133
AI_OTEL_OTLP_GRPC: the Service sends to port 4317
AI_OTEL_OTLP_HTTP: the Service sends to port 4318
AI_OTEL_SELF_HOST: the monitors ask port 8888
AI_OTEL_SELF_PORT: the monitors ask port 8888
AI_OTEL_LEASE_NAME: it is the name of the Role's lease
AI_OTEL_AGENT_KUBELET: write gpuAgent.podResources.path, which is mounted where it reads
AI_OTEL_AGENT_PODS_API: write gpuAgent.podsApi.path, which is mounted where it reads
AI_OTEL_AGENT_LISTEN: the probes ask port 13134
AI_OTEL_AGENT_RESOURCE_SLICES: write gpuAgent.dra.enabled
K8S_NODE_NAME: it comes from the downward API
K8S_POD_NAME: it comes from the downward API
K8S_POD_UID: it comes from the downward API
K8S_NAMESPACE_NAME: it comes from the downward API
K8S_CONTAINER_NAME: it is the container's
{{- end }}

{{/* The text of a value; whole numbers without an exponent. */}}
{{- define "ai-otel.plain" -}}
  {{- if kindIs "float64" . }}
    {{- toJson . }}
  {{- else }}
    {{- toString . }}
  {{- end }}
{{- end }}

{{/* What must hold between components. */}}
{{- define "ai-otel.checkTogether" -}}
  {{- if and .Values.gateway.enabled (not .Values.gatewayStateful.enabled) }}
    {{- fail "gatewayStateful.enabled: the first tier hands everything to the second; write true, or write gateway.enabled: false and gateway.endpoint: host:port of another release" }}
  {{- end }}
  {{- if and .Values.gatewayStateful.enabled (not .Values.gateway.enabled) (gt (int .Values.gatewayStateful.replicas) 1) }}
    {{- fail (printf "gatewayStateful.replicas: %v instances without the first tier would each see a part of a trace; write 1, or gateway.enabled: true" .Values.gatewayStateful.replicas) }}
  {{- end }}
  {{- if and .Values.gateway.enabled .Values.gateway.endpoint }}
    {{- fail "gateway.endpoint is for the gateway of another release; write gateway.enabled: false with it, or leave it out" }}
  {{- end }}
  {{- with .Values.gateway.endpoint }}
    {{- include "ai-otel.checkAddress" (dict "where" "gateway.endpoint" "kind" "endpoint" "value" .) }}
  {{- end }}
{{- end }}
