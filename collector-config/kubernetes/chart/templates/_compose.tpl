{{/*
A complete configuration out of the parts in files/: the rules of src/ai_otel/collector/compose.py. What comes out is
what `ai-otel collector render` writes for the same choice; tests/kubernetes/test_chart.py holds them against each other.

A choice is a dictionary: role, engines, features, without, backends, as the flags of `ai-otel collector render`; then
`root`, the chart's `$`; `who`, the key of values.yaml that chose, for what is said when it cannot be; and `config`, one
more part, joined after everything else.

Between the templates goes `state`: root, who, role, index (what the generator wrote about the parts), and tree.
*/}}

{{- define "ai-otel.compose" -}}
  {{- $index := include "ai-otel.index" .root | fromYaml }}
  {{- $state := dict "root" .root "who" .who "role" .role "index" $index "tree" dict }}
  {{- $tree := $state.tree }}
  {{- include "ai-otel.add" (dict "state" $state "kind" "roles" "name" .role) }}
  {{- if hasKey $tree.service.pipelines "metrics/pages" }}
    {{- include "ai-otel.add" (dict "state" $state "kind" "roles" "name" "pages") }}
    {{- $engines := default (keys $index.engines | sortAlpha) .engines }}
    {{- range $engines }}
      {{- include "ai-otel.add" (dict "state" $state "kind" "engines" "name" .) }}
    {{- end }}
    {{- include "ai-otel.aim" (dict "tree" $tree "pages" $index.engines "engines" $engines "one" (eq (len (default list .engines)) 1)) }}
  {{- else if .engines }}
    {{- fail (printf "%s.engines: the role %s reads no metrics endpoint, so it takes no engine; leave it out" .who .role) }}
  {{- end }}
  {{- $features := include "ai-otel.allFeatures" (dict "index" $index "features" .features "without" .without) | fromJsonArray }}
  {{- include "ai-otel.addFeaturesAndBackends" (dict "state" $state "features" $features "backends" .backends) }}
  {{- include "ai-otel.add" (dict "state" $state "kind" "roles" "name" "common") }}
  {{- include "ai-otel.prune" $tree }}
  {{- include "ai-otel.merge" (dict "tree" $tree "part" (default dict .config) "isTop" true "joined" $index.joined) }}
  {{- include "ai-otel.sortProcessors" (dict "pipelines" $tree.service.pipelines "order" $index.order) }}
  {{- range list "extensions" "receivers" "connectors" "processors" "exporters" "service" }}
    {{- if hasKey $tree . }}
      {{- toYaml (pick $tree .) }}{{ "\n" }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* What the generator wrote about the parts. */}}
{{- define "ai-otel.index" -}}
  {{- .Files.Get "files/generated/index.yaml" }}
{{- end }}

{{/* The text of one part. */}}
{{- define "ai-otel.part" -}}
  {{- $text := .state.root.Files.Get (printf "files/generated/%s/%s.yaml" .kind .name) }}
  {{- if not $text }}
    {{- $there := get .state.index .kind }}
    {{- if kindIs "map" $there }}
      {{- $there = keys $there | sortAlpha }}
    {{- end }}
    {{- fail (printf "%s: there is no %s %s; write one of %s" .state.who (trimSuffix "s" .kind) .name (join ", " $there)) }}
  {{- end }}
  {{- $text }}
{{- end }}

{{- define "ai-otel.add" -}}
  {{- include "ai-otel.join" (dict "state" .state "part" (include "ai-otel.part" . | fromYaml)) }}
{{- end }}

{{- define "ai-otel.join" -}}
  {{- include "ai-otel.merge" (dict "tree" .state.tree "part" .part "isTop" true "joined" .state.index.joined) }}
{{- end }}

{{/* The features that are on anyhow and those that were asked for, but `without`; as JSON. */}}
{{- define "ai-otel.allFeatures" -}}
  {{- $names := list }}
  {{- range concat .index.defaultFeatures (default list .features) }}
    {{- if not (or (has . $names) (has . (default list $.without))) }}
      {{- $names = append $names . }}
    {{- end }}
  {{- end }}
  {{- toJson $names }}
{{- end }}

{{/*
Features before the backends, so that a pipeline that a feature opens is ended too; and once more after them, for what
features say of exporters.
*/}}
{{- define "ai-otel.addFeaturesAndBackends" -}}
  {{- $state := .state }}
  {{- $ended := dict "root" $state.root "who" $state.who "index" $state.index "tree" (deepCopy $state.tree) }}
  {{- include "ai-otel.addBackends" (dict "state" $ended "backends" .backends) }}
  {{- range .features }}
    {{- $part := include "ai-otel.part" (dict "state" $state "kind" "features" "name" .) | fromYaml }}
    {{- if not (or (has . $state.index.takesWhatIsThere) (include "ai-otel.hasPlace" (dict "tree" $ended.tree "part" $part))) }}
      {{- fail (printf "%s.features: the feature %s has no place in the role %s; the first lines of collector-config/features/%s.yaml say which it is for" $state.who . $state.role .) }}
    {{- end }}
    {{- include "ai-otel.join" (dict "state" $state "part" $part) }}
  {{- end }}
  {{- include "ai-otel.addBackends" (dict "state" $state "backends" .backends) }}
  {{- range .features }}
    {{- include "ai-otel.add" (dict "state" $state "kind" "features" "name" .) }}
  {{- end }}
{{- end }}

{{/*
The backends at the end of the pipelines that end nowhere yet. One that says where it sends sends there: to the next of
the same Collector.
*/}}
{{- define "ai-otel.addBackends" -}}
  {{- $open := list }}
  {{- range $name, $pipeline := .state.tree.service.pipelines }}
    {{- if not $pipeline.exporters }}
      {{- $open = append $open $name }}
    {{- end }}
  {{- end }}
  {{- range .backends }}
    {{- include "ai-otel.addBackend" (dict "state" $.state "backend" . "open" $open) }}
  {{- end }}
{{- end }}

{{/* A backend, `name` or `name:signal,signal`, for all that it takes or for those signals. */}}
{{- define "ai-otel.addBackend" -}}
  {{- $given := splitList ":" .backend }}
  {{- $name := first $given }}
  {{- $signals := list }}
  {{- range rest $given }}
    {{- $signals = splitList "," . }}
  {{- end }}
  {{- $part := include "ai-otel.part" (dict "state" .state "kind" "backends" "name" $name) | fromYaml }}
  {{- $taken := first (keys $part.service.pipelines) }}
  {{- range $signals }}
    {{- if not (include "ai-otel.matches" (dict "pattern" $taken "name" .)) }}
      {{- fail (printf "backends.%s.signals: the backend %s takes no %s; leave that out" $name $name .) }}
    {{- end }}
  {{- end }}
  {{- $ends := dict }}
  {{- range $pipeline := .open }}
    {{- $isWanted := or (not $signals) (has (splitList "/" $pipeline | first) $signals) }}
    {{- if and $isWanted (include "ai-otel.matches" (dict "pattern" $taken "name" $pipeline)) }}
      {{- $_ := set $ends $pipeline (get $part.service.pipelines $taken) }}
    {{- end }}
  {{- end }}
  {{- if not $ends }}
    {{- fail (printf "backends.%s: it takes nothing of what %s sends; leave it out, or add one that does" $name .state.who) }}
  {{- end }}
  {{- $_ := set $part.service "pipelines" $ends }}
  {{- include "ai-otel.join" (dict "state" .state "part" $part) }}
{{- end }}

{{/* Something where one of the part's pipelines, or else one of its components, is there or can be; else nothing. */}}
{{- define "ai-otel.hasPlace" -}}
  {{- $wanted := list }}
  {{- range $name, $pipeline := dig "service" "pipelines" dict .part }}
    {{- if not (hasKey $pipeline "receivers") }}
      {{- $wanted = append $wanted $name }}
    {{- end }}
  {{- end }}
  {{- range $wanted }}
    {{- include "ai-otel.present" (dict "pattern" . "tree" $.tree.service.pipelines) }}
  {{- end }}
  {{- if not $wanted }}
    {{- range $kind := list "receivers" "processors" "exporters" }}
      {{- range $name, $_ := index $.part $kind }}
        {{- include "ai-otel.present" (dict "pattern" $name "tree" (index $.tree $kind)) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Something where `tree` has a key of the pattern. */}}
{{- define "ai-otel.present" -}}
  {{- range $name, $_ := .tree }}
    {{- include "ai-otel.matches" (dict "pattern" $.pattern "name" $name) }}
  {{- end }}
{{- end }}

{{/*
Points the scrape at where the engines' pages are unless set otherwise: by the pod's annotation in the agent,
by the one engine that was chosen in a sidecar.
*/}}
{{- define "ai-otel.aim" -}}
  {{- range $job := (get .tree.receivers "prometheus/pages").config.scrape_configs }}
    {{- if hasKey $job "kubernetes_sd_configs" }}
      {{- $rules := list }}
      {{- $isAimed := false }}
      {{- range $rule := $job.relabel_configs }}
        {{- $rules = append $rules $rule }}
        {{- if and (not $isAimed) (eq (default "" $rule.target_label) "__address__") }}
          {{- $isAimed = true }}
          {{- range $name := $.engines }}
            {{- $rules = concat $rules (include "ai-otel.where" (dict "name" $name "page" (get $.pages $name)) | fromJsonArray) }}
          {{- end }}
        {{- end }}
      {{- end }}
      {{- $_ := set $job "relabel_configs" $rules }}
    {{- else if $.one }}
      {{- $name := first $.engines }}
      {{- with get $.pages $name }}
        {{- $static := first $job.static_configs }}
        {{- $_ := set $static "targets" (list (printf "${env:AI_OTEL_ENGINE_TARGET:-127.0.0.1:%v}" .port)) }}
        {{- $_ := set $static.labels "__tmp_ai_otel_path" (printf "${env:AI_OTEL_ENGINE_PATH:-%s}" .path) }}
        {{- $_ := set $static.labels "ai_otel_engine" (printf "${env:AI_OTEL_ENGINE:-%s}" $name) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Relabelling rules, as JSON, for an engine whose page is not at port 8000 and /metrics. */}}
{{- define "ai-otel.where" -}}
  {{- $engine := "__meta_kubernetes_pod_annotation_ai_otel_io_engine" }}
  {{- $rules := list }}
  {{- with .page }}
    {{- if ne (int .port) 8000 }}
      {{- $rules = append $rules (dict "source_labels" (list "__meta_kubernetes_pod_ip" $engine) "regex" (printf "(.+);%s" $.name) "target_label" "__address__" "replacement" (printf "$${1}:%v" .port)) }}
    {{- end }}
    {{- if ne .path "/metrics" }}
      {{- $rules = append $rules (dict "source_labels" (list $engine) "regex" $.name "target_label" "__metrics_path__" "replacement" .path) }}
    {{- end }}
  {{- end }}
  {{- toJson $rules }}
{{- end }}

{{/*
Takes out pipelines that lead nowhere, then components that none of the rest uses. Each round takes out at least one
pipeline, or is the last.
*/}}
{{- define "ai-otel.prune" -}}
  {{- $tree := . }}
  {{- $pipelines := .service.pipelines }}
  {{- $connectors := default dict .connectors }}
  {{- range until (add1 (len $pipelines) | int) }}
    {{- $sent := list }}
    {{- $read := list }}
    {{- range $_, $pipeline := $pipelines }}
      {{- $sent = concat $sent (default list $pipeline.exporters) }}
      {{- $read = concat $read (default list $pipeline.receivers) }}
    {{- end }}
    {{- range $name, $pipeline := $pipelines }}
      {{- include "ai-otel.keepConnected" (dict "pipeline" $pipeline "place" "exporters" "connectors" $connectors "ends" $read) }}
      {{- include "ai-otel.keepConnected" (dict "pipeline" $pipeline "place" "receivers" "connectors" $connectors "ends" $sent) }}
    {{- end }}
    {{- range $name, $pipeline := $pipelines }}
      {{- if not (and $pipeline.exporters $pipeline.receivers) }}
        {{- $_ := unset $pipelines $name }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- range $kind := list "receivers" "processors" "exporters" "connectors" }}
    {{- $used := list }}
    {{- range $_, $pipeline := $pipelines }}
      {{- range ternary (list "receivers" "exporters") (list $kind) (eq $kind "connectors") }}
        {{- $used = concat $used (default list (get $pipeline .)) }}
      {{- end }}
    {{- end }}
    {{- $kept := dict }}
    {{- range $name, $component := index $tree $kind }}
      {{- if has $name $used }}
        {{- $_ := set $kept $name $component }}
      {{- end }}
    {{- end }}
    {{- if $kept }}
      {{- $_ := set $tree $kind $kept }}
    {{- else }}
      {{- $_ := unset $tree $kind }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Takes connectors whose other end is gone out of a pipeline's receivers or exporters. */}}
{{- define "ai-otel.keepConnected" -}}
  {{- $kept := list }}
  {{- range index .pipeline .place }}
    {{- if or (not (hasKey $.connectors .)) (has . $.ends) }}
      {{- $kept = append $kept . }}
    {{- end }}
  {{- end }}
  {{- $_ := set .pipeline .place $kept }}
{{- end }}
