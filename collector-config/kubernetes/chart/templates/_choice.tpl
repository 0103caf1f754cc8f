{{/* What values.yaml chose, as a choice of parts. `c` as in _names.tpl. */}}

{{/* The configuration of a component. `engines` in `c` wins over those of values.yaml. */}}
{{- define "ai-otel.config" -}}
  {{- $values := index .root.Values .key }}
  {{- $config := $values.config }}
  {{- if kindIs "string" $config }}
    {{- $config = fromYaml $config }}
    {{- with $config.Error }}
      {{- fail (printf "%s.config: this is no YAML: %s" $.key .) }}
    {{- end }}
  {{- end }}
  {{- include "ai-otel.compose" (dict "root" .root "who" .key "role" .role "engines" (default $values.engines .engines) "features" (include "ai-otel.features" . | fromJsonArray) "without" $values.without "backends" (include "ai-otel.backends" . | fromJsonArray) "config" $config) }}
{{- end }}

{{/* Features of a component, as JSON: what `tls.mode` asks for, and its own. */}}
{{- define "ai-otel.features" -}}
  {{- $values := index .root.Values .key }}
  {{- range $name, $mode := dict "local" "off" "mtls" "mtls" }}
    {{- if has $name (default list $values.features) }}
      {{- fail (printf "%s.features: %s holds for all components at once; write tls.mode: %s instead" $.key $name (quote $mode)) }}
    {{- end }}
  {{- end }}
  {{- $tls := get (dict "off" (list "local") "mtls" (list "mtls") "tls" list) .root.Values.tls.mode }}
  {{- toJson (concat $tls (default list $values.features)) }}
{{- end }}

{{/* The features, those that are on anyhow included, as JSON. */}}
{{- define "ai-otel.everyFeature" -}}
  {{- $index := include "ai-otel.index" .root | fromYaml }}
  {{- include "ai-otel.allFeatures" (dict "index" $index "features" (include "ai-otel.features" . | fromJsonArray) "without" (index .root.Values .key).without) }}
{{- end }}

{{/* Where a component sends, as JSON: the first tier to the second, all others to the gateway where there is one. */}}
{{- define "ai-otel.backends" -}}
  {{- $names := list }}
  {{- if eq .role "gateway" }}
  {{- else if and (ne .role "gateway_stateful") (include "ai-otel.gatewayEndpoint" .root) }}
    {{- $names = list "gateway" }}
  {{- else }}
    {{- range $name, $backend := .root.Values.backends }}
      {{- if not (kindIs "invalid" $backend) }}
        {{- $names = append $names (join ":" (without (list $name (join "," (default list $backend.signals))) "")) }}
      {{- end }}
    {{- end }}
    {{- if not $names }}
      {{- $else := ternary "" ", or gateway.endpoint: host:port where another release has the gateway" (eq .role "gateway_stateful") }}
      {{- fail (printf "backends: %s sends nowhere; write for instance backends.otlp.endpoint: otlp.example.com:4317%s" .key $else) }}
    {{- end }}
  {{- end }}
  {{- toJson $names }}
{{- end }}

{{/* host:port that leaves send to; nothing where there is no gateway. */}}
{{- define "ai-otel.gatewayEndpoint" -}}
  {{- if .Values.gateway.enabled }}
    {{- include "ai-otel.host" (dict "root" . "component" "gateway") }}:4317
  {{- else if .Values.gateway.endpoint }}
    {{- .Values.gateway.endpoint }}
  {{- else if .Values.gatewayStateful.enabled }}
    {{- include "ai-otel.host" (dict "root" . "component" "gateway-stateful") }}:4317
  {{- end }}
{{- end }}

{{/* The same for pods of the release's namespace. */}}
{{- define "ai-otel.nearGatewayEndpoint" -}}
  {{- include "ai-otel.gatewayEndpoint" . | replace (printf ".%s.svc:" .Release.Namespace) ":" }}
{{- end }}

{{/* "true" where a component hands its telemetry to the backends itself. */}}
{{- define "ai-otel.endsHere" -}}
  {{- if and (ne .role "gateway") (not (has "gateway" (include "ai-otel.backends" . | fromJsonArray))) }}true{{ end }}
{{- end }}

{{/*
Variables of the backends, as a dictionary from name to what stands under `env` (value or valueFrom). Two backends that
share a variable must agree on it.
*/}}
{{- define "ai-otel.backendVariables" -}}
  {{- $reads := dict
    "otlp" (dict "endpoint" "AI_OTEL_BACKEND_ENDPOINT" "ca" "AI_OTEL_BACKEND_CA_FILE" "authorization" "AI_OTEL_BACKEND_AUTHORIZATION")
    "otlp_http" (dict "url" "AI_OTEL_BACKEND_URL" "ca" "AI_OTEL_BACKEND_CA_FILE" "authorization" "AI_OTEL_BACKEND_AUTHORIZATION")
    "prometheus_otlp" (dict "url" "AI_OTEL_PROMETHEUS_URL" "ca" "AI_OTEL_PROMETHEUS_CA_FILE")
    "prometheus_remote_write" (dict "url" "AI_OTEL_REMOTE_WRITE_URL" "ca" "AI_OTEL_REMOTE_WRITE_CA_FILE" "authorization" "AI_OTEL_BACKEND_AUTHORIZATION")
    "kafka" (dict "brokers" "AI_OTEL_KAFKA_BROKERS" "ca" "AI_OTEL_KAFKA_CA_FILE")
  }}
  {{- $found := dict }}
  {{- range $name, $backend := .Values.backends }}
    {{- $variables := ternary dict (get $reads $name | default dict) (kindIs "invalid" $backend) }}
    {{- range $key := list "endpoint" "url" "brokers" }}
      {{- with get $variables $key }}
        {{- $value := index $backend $key }}
        {{- if not $value }}
          {{- fail (printf "backends.%s.%s is missing; write %s" $name $key (get (dict "endpoint" "host:port, for instance otlp.example.com:4317" "url" "a URL, for instance https://example.com/api" "brokers" "a list of host:port") $key)) }}
        {{- end }}
        {{- include "ai-otel.checkAddress" (dict "where" (printf "backends.%s.%s" $name $key) "kind" $key "value" $value) }}
        {{- include "ai-otel.setOnce" (dict "found" $found "name" . "entry" (dict "value" (ternary (join "," $value) $value (kindIs "slice" $value))) "where" (printf "backends.%s.%s" $name $key)) }}
      {{- end }}
    {{- end }}
    {{- if get $variables "authorization" }}
      {{- $entry := dict "value" "" }}
      {{- with $backend.authorizationSecret }}
        {{- $entry = dict "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .key)) }}
      {{- end }}
      {{- include "ai-otel.setOnce" (dict "found" $found "name" $variables.authorization "entry" $entry "where" (printf "backends.%s.authorizationSecret" $name)) }}
    {{- end }}
    {{- if get $variables "ca" }}
      {{- $entry := dict "value" "" }}
      {{- with $backend.caSecret }}
        {{- $entry = dict "value" (printf "/etc/ai-otel/authorities/%s/%s" .name .key) }}
      {{- end }}
      {{- include "ai-otel.setOnce" (dict "found" $found "name" $variables.ca "entry" $entry "where" (printf "backends.%s.caSecret" $name)) }}
    {{- end }}
  {{- end }}
  {{- range $name, $entry := $found }}
    {{- if and (hasKey $entry "value") (not $entry.value) }}
      {{- $_ := unset $found $name }}
    {{- end }}
  {{- end }}
  {{- toYaml $found }}
{{- end }}

{{- define "ai-otel.setOnce" -}}
  {{- if and (hasKey .found .name) (ne (toJson (get .found .name)) (toJson .entry)) }}
    {{- fail (printf "%s: another backend reads the same variable %s with another value; give both the same, or send to one of them from a release of its own" .where .name) }}
  {{- end }}
  {{- $_ := set .found .name .entry }}
{{- end }}
