{{/* Names, labels and images. `c`, in all templates: root (the chart's `$`), key (of values.yaml), role (of the parts) and component. */}}

{{- define "ai-otel.fullname" -}}
  {{- if .Values.fullnameOverride }}
    {{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
  {{- else }}
    {{- $name := default .Chart.Name .Values.nameOverride }}
    {{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" }}
  {{- end }}
{{- end }}

{{/* What one component's objects are called. */}}
{{- define "ai-otel.name" -}}
  {{- include "ai-otel.fullname" .root }}-{{ .component }}
{{- end }}

{{/* How pods of other namespaces find a component; those of the same one need its name only. */}}
{{- define "ai-otel.host" -}}
  {{- include "ai-otel.name" . }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{- define "ai-otel.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of pods: nothing that changes with the chart's version, so that they stay when only that does. */}}
{{- define "ai-otel.podLabels" -}}
{{ include "ai-otel.selectorLabels" . }}
app.kubernetes.io/part-of: ai-otel
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ai-otel.labels" -}}
{{ include "ai-otel.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ai-otel
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ai-otel.metadata" -}}
{{ include "ai-otel.metadataIn" (dict "c" . "namespace" .root.Release.Namespace) }}
{{- end }}

{{- define "ai-otel.metadataIn" -}}
metadata:
  name: {{ include "ai-otel.name" .c }}
  namespace: {{ .namespace }}
  labels: {{- include "ai-otel.labels" .c | nindent 4 }}
{{- end }}

{{/* By digest where there is one. */}}
{{- define "ai-otel.image" -}}
  {{- if .digest }}
    {{- printf "%s@%s" .repository .digest }}
  {{- else }}
    {{- printf "%s:%s" .repository (toString .tag) }}
  {{- end }}
{{- end }}
