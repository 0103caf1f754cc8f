{{/* Of the GPU agent: where it sends, who it is, and its settings. */}}
{{- define "ai-otel.gpuAgentEnvironment" -}}
{{- $values := .root.Values.gpuAgent }}
{{- $index := include "ai-otel.index" .root | fromYaml }}
{{- include "ai-otel.checkSettings" (dict "key" "gpuAgent" "settings" $values.settings "known" $index.settings.library) }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ include "ai-otel.gpuAgentEndpoint" . | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: grpc
{{- if ne .root.Values.tls.mode "off" }}
- name: OTEL_EXPORTER_OTLP_CERTIFICATE
  value: /etc/ai-otel/tls/ca.crt
- name: OTLP_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .root.Values.token.secretName }}, key: {{ .root.Values.token.key }}}}
- name: OTEL_EXPORTER_OTLP_HEADERS
  value: authorization=Bearer%20$(OTLP_TOKEN)
{{- end }}
{{- if eq .root.Values.tls.mode "mtls" }}
- name: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE
  value: /etc/ai-otel/tls/tls.crt
- name: OTEL_EXPORTER_OTLP_CLIENT_KEY
  value: /etc/ai-otel/tls/tls.key
{{- end }}
{{- range $name, $path := dict "K8S_NODE_NAME" "spec.nodeName" "K8S_POD_NAME" "metadata.name" "K8S_NAMESPACE_NAME" "metadata.namespace" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
{{- end }}
{{- if $values.runtimeClassName }}
# By which NVIDIA's runtime shows all GPUs, and of the driver only what manages them.
- name: NVIDIA_VISIBLE_DEVICES
  value: all
- name: NVIDIA_DRIVER_CAPABILITIES
  value: utility
{{- end }}
{{- if $values.dra.enabled }}
- name: AI_OTEL_AGENT_RESOURCE_SLICES
  value: "true"
{{- end }}
{{- range $name, $value := $values.settings }}
- name: {{ $name }}
  value: {{ include "ai-otel.plain" $value | quote }}
{{- end }}
{{- with $values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
To the gateway, else to the agent of its node. The agent would say of what it gets whose pod it came from, and that is the
GPU agent's own: it speaks of the node.
*/}}
{{- define "ai-otel.gpuAgentEndpoint" -}}
  {{- $scheme := ternary "http" "https" (eq .root.Values.tls.mode "off") }}
  {{- if .root.Values.gpuAgent.endpoint }}
    {{- include "ai-otel.checkAddress" (dict "where" "gpuAgent.endpoint" "kind" "endpoint" "value" .root.Values.gpuAgent.endpoint) }}
    {{- printf "%s://%s" $scheme .root.Values.gpuAgent.endpoint }}
  {{- else if include "ai-otel.gatewayEndpoint" .root }}
    {{- printf "%s://%s" $scheme (include "ai-otel.nearGatewayEndpoint" .root) }}
  {{- else if .root.Values.agent.enabled }}
    {{- printf "%s://%s:4317" $scheme (include "ai-otel.name" (dict "root" .root "component" "agent")) }}
  {{- else }}
    {{- fail "gpuAgent.endpoint is missing: there is neither an agent nor a gateway; write host:port of something that takes OTLP over gRPC" }}
  {{- end }}
{{- end }}
