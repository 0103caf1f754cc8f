{{/* Objects that several components have in the same form. `c` as in _names.tpl. */}}

{{- define "ai-otel.configMap" -}}
apiVersion: v1
kind: ConfigMap
{{ include "ai-otel.metadata" . }}
data:
  collector.yaml: |
    {{- include "ai-otel.config" . | trim | nindent 4 }}
{{- end }}

{{- define "ai-otel.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
{{ include "ai-otel.metadata" . }}
{{- with (index .root.Values .key).serviceAccountAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
{{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* A ClusterRole with `rules`, bound to the component's ServiceAccount. Its name holds the namespace: there may be two releases. */}}
{{- define "ai-otel.clusterRole" -}}
{{- $name := printf "%s-%s" .c.root.Release.Namespace (include "ai-otel.name" .c) }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  labels: {{- include "ai-otel.labels" .c | nindent 4 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels: {{- include "ai-otel.labels" .c | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "ai-otel.name" .c }}, namespace: {{ .c.root.Release.Namespace }}}
{{- end }}

{{- define "ai-otel.disruptionBudget" -}}
{{- $budget := (index .root.Values .key).podDisruptionBudget }}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "ai-otel.metadata" . }}
spec:
  {{- toYaml (omit $budget "enabled") | nindent 2 }}
  selector:
    matchLabels: {{- include "ai-otel.selectorLabels" . | nindent 6 }}
{{- end }}
