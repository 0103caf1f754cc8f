{{/*
The sidecar of one model server, as an entry of `initContainers`: a native sidecar, which starts before the server and
ends after it. For a chart that has this one as its dependency:

    initContainers:
      {{- include "ai-otel.sidecar" (dict "root" (index .Subcharts "ai-otel") "engine" "vllm" "container" "server") | nindent 6 }}
    volumes:
      {{- include "ai-otel.sidecarVolumes" (dict "root" (index .Subcharts "ai-otel") "engine" "vllm") | nindent 6 }}

`container` is the name of the server's container; `"library" true` besides, where ai-otel runs in it. All others copy it from examples/sidecar-only/pod.yaml.
*/}}
{{- define "ai-otel.sidecar" -}}
{{- $values := .root.Values.sidecar }}
{{- $c := dict "root" .root "key" "sidecar" "role" "sidecar" "component" "sidecar" "receives" false }}
- name: ai-otel
  restartPolicy: Always
  image: {{ include "ai-otel.image" .root.Values.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: [--config=/etc/ai-otel/config/collector.yaml]
  envFrom:
    - configMapRef: {name: {{ include "ai-otel.name" $c }}}
  env:
    - name: K8S_CONTAINER_NAME
      value: {{ .container }}
    {{- if .library }}
    - name: AI_OTEL_LIBRARY
      value: "true"
    {{- end }}
    {{- range $name, $path := dict "K8S_NODE_NAME" "spec.nodeName" "K8S_POD_NAME" "metadata.name" "K8S_POD_UID" "metadata.uid" "K8S_NAMESPACE_NAME" "metadata.namespace" }}
    - name: {{ $name }}
      valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
    {{- end }}
    {{- range $name, $entry := include "ai-otel.derivedVariables" $c | fromYaml }}
    {{- if $entry.valueFrom }}
    - name: {{ $name }}
      {{- toYaml $entry | nindent 6 }}
    {{- end }}
    {{- end }}
  ports:
    - {name: ai-otel-health, containerPort: 13133, protocol: TCP}
    - {name: ai-otel-metrics, containerPort: 8888, protocol: TCP}
  startupProbe:
    httpGet: {path: /, port: ai-otel-health}
    periodSeconds: 2
    failureThreshold: 30
  livenessProbe:
    httpGet: {path: /, port: ai-otel-health}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  resources: {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- include "ai-otel.containerSecurity" $c | nindent 4 }}
    runAsUser: 10001
    runAsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: ai-otel-config, mountPath: /etc/ai-otel/config, readOnly: true}
    - {name: ai-otel-queue, mountPath: /var/lib/ai-otel}
    {{- if include "ai-otel.hasSecrets" $c }}
    - {name: ai-otel-tls, mountPath: /etc/ai-otel/tls, readOnly: true}
    - {name: ai-otel-token, mountPath: /var/run/secrets/ai-otel, readOnly: true}
    {{- end }}
    {{- range $secret, $_ := include "ai-otel.authorities" $c | fromYaml }}
    - {name: {{ printf "ai-otel-authority-%s" $secret | trunc 63 }}, mountPath: /etc/ai-otel/authorities/{{ $secret }}, readOnly: true}
    {{- end }}
{{- end }}

{{/*
The volumes of it. Readable by all users, because the pod's group is the server's: only this container mounts them.
*/}}
{{- define "ai-otel.sidecarVolumes" -}}
{{- $c := dict "root" .root "key" "sidecar" "role" "sidecar" "component" (include "ai-otel.sidecarComponent" .engine) "receives" false }}
- name: ai-otel-config
  configMap: {name: {{ include "ai-otel.name" $c }}}
- name: ai-otel-queue
  emptyDir: {sizeLimit: {{ .root.Values.sidecar.persistence.size }}}
{{- if include "ai-otel.hasSecrets" $c }}
{{ include "ai-otel.secrets" $c | replace "- name: " "- name: ai-otel-" | replace "defaultMode: 0440" "defaultMode: 0444" }}
{{- end }}
{{- range $secret, $keys := include "ai-otel.authorities" $c | fromYaml }}
- name: {{ printf "ai-otel-authority-%s" $secret | trunc 63 }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0444
    items:
      {{- range $keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}

{{- define "ai-otel.sidecarComponent" -}}
  sidecar-{{ replace "_" "-" . }}
{{- end }}
