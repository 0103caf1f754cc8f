{{/*
ai-otel in the container of a model server, where no Operator puts it there. For a chart that has this one as its dependency:

    initContainers:
      {{- include "ai-otel.injectionInit" $given | nindent 6 }}
    containers:
      - name: server
        env:
          {{- include "ai-otel.injectionEnv" $given | nindent 10 }}
        volumeMounts:
          {{- include "ai-otel.injectionMounts" $given | nindent 10 }}
    volumes:
      {{- include "ai-otel.injectionVolumes" $given | nindent 6 }}

`$given` is `dict "root" (index .Subcharts "ai-otel") "container" "server"`, and `"pythonPath" "/yours"` where the server has
a PYTHONPATH: a container's `env` hides what its image says. Where the agent reads the server's page, annotate the pod with
ai-otel.io/library: "true" besides; beside a sidecar, give `"library" true` to ai-otel.sidecar. All others copy it from examples/injection/pod.yaml.
*/}}

{{/* Copies the image's files into the pod; nothing where the image itself is mounted. */}}
{{- define "ai-otel.injectionInit" -}}
{{- $values := .root.Values.injection }}
{{- $image := include "ai-otel.injectionImage" .root }}
{{- include "ai-otel.checkResources" (dict "key" "injection" "resources" $values.resources) }}
{{- if eq $values.volume "emptyDir" -}}
- name: ai-otel-injection
  image: {{ $image }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  command: [cp, -r, /autoinstrumentation, /ai-otel/]
  resources: {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- include "ai-otel.containerSecurity" . | nindent 4 }}
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: ai-otel-injection, mountPath: /ai-otel}
{{- end }}
{{- end }}

{{/* Where telemetry goes is left out: it is the pod's own sidecar, at localhost, unless the container has an OTEL_* of yours. */}}
{{- define "ai-otel.injectionEnv" -}}
- name: AI_OTEL_ENABLED
  value: "true"
- name: K8S_CONTAINER_NAME
  value: {{ required "ai-otel.injectionEnv: say which container it is for: \"container\" \"server\"" .container }}
{{- range $name, $path := dict "K8S_NODE_NAME" "spec.nodeName" "K8S_POD_NAME" "metadata.name" "K8S_POD_UID" "metadata.uid" "K8S_NAMESPACE_NAME" "metadata.namespace" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
{{- end }}
- name: PYTHONPATH
  value: /ai-otel/autoinstrumentation/opentelemetry/instrumentation/auto_instrumentation:/ai-otel/autoinstrumentation{{ with .pythonPath }}:{{ . }}{{ end }}
{{- end }}

{{- define "ai-otel.injectionMounts" -}}
- {name: ai-otel-injection, mountPath: /ai-otel, readOnly: true}
{{- end }}

{{- define "ai-otel.injectionVolumes" -}}
{{- $values := .root.Values.injection -}}
- name: ai-otel-injection
{{- if eq $values.volume "emptyDir" }}
  emptyDir: {sizeLimit: 64Mi}
{{- else if semverCompare "<1.33-0" .root.Capabilities.KubeVersion.Version }}
  {{- fail (printf "injection.volume: image needs Kubernetes 1.33, this is %s; write emptyDir" .root.Capabilities.KubeVersion.Version) }}
{{- else }}
  image: {reference: {{ include "ai-otel.injectionImage" .root | quote }}, pullPolicy: {{ $values.image.pullPolicy }}}
{{- end }}
{{- end }}

{{- define "ai-otel.injectionImage" -}}
{{- $image := .Values.injection.image }}
{{- if not (and $image.repository (or $image.tag $image.digest)) }}
  {{- fail "injection.image: there is no published one; build collector-config/kubernetes/injection/Dockerfile, and write its repository and its tag or digest" }}
{{- end }}
{{- include "ai-otel.image" $image }}
{{- end }}
