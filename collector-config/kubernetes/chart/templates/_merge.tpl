{{/*
How a part joins a configuration: the rules of src/ai_otel/collector/merge.py, and nothing besides.

* lists of components are joined, not replaced; an entry `-name` takes that one out;
* a key with a `*` stands for every key of that pattern that is already there;
* `null` takes a key out;
* all else is the Collector's own rule: maps are merged, values and other lists replaced.

These templates change the dictionary `tree` that they are given. They print nothing, or JSON for `fromJsonArray`.
*/}}

{{/* Joins `part` to `tree`. `inService`: this is below the key `service`, where lists of components are. */}}
{{- define "ai-otel.merge" -}}
  {{- range $key, $value := .part }}
    {{- range $name := include "ai-otel.matching" (dict "pattern" $key "tree" $.tree) | fromJsonArray }}
      {{- if kindIs "invalid" $value }}
        {{- $_ := unset $.tree $name }}
      {{- else if kindIs "map" $value }}
        {{- if not (kindIs "map" (get $.tree $name)) }}
          {{- $_ := set $.tree $name dict }}
        {{- end }}
        {{- $below := or $.inService (and $.isTop (eq $name "service")) }}
        {{- include "ai-otel.merge" (dict "tree" (get $.tree $name) "part" $value "inService" $below "joined" $.joined) }}
      {{- else if and (kindIs "slice" $value) $.inService (has $name $.joined) }}
        {{- $_ := set $.tree $name (include "ai-otel.joined" (dict "present" (get $.tree $name) "more" $value) | fromJsonArray) }}
      {{- else }}
        {{- $_ := set $.tree $name $value }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The keys of `tree` that a key of a part stands for. */}}
{{- define "ai-otel.matching" -}}
  {{- $names := list .pattern }}
  {{- if contains "*" .pattern }}
    {{- $names = list }}
    {{- range $name, $_ := .tree }}
      {{- if include "ai-otel.matches" (dict "pattern" $.pattern "name" $name) }}
        {{- $names = append $names $name }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- toJson $names }}
{{- end }}

{{/* "true" where the whole name is of the pattern, in which `*` stands for anything; else nothing. */}}
{{- define "ai-otel.matches" -}}
  {{- if regexMatch (printf "^%s$" (regexQuoteMeta .pattern | replace "\\*" ".*")) .name }}true{{ end }}
{{- end }}

{{/* `present` and then `more`, each once, without those that `more` takes out. */}}
{{- define "ai-otel.joined" -}}
  {{- $removed := list }}
  {{- $added := list }}
  {{- range .more }}
    {{- if hasPrefix "-" . }}
      {{- $removed = append $removed (trimPrefix "-" .) }}
    {{- else }}
      {{- $added = append $added . }}
    {{- end }}
  {{- end }}
  {{- $names := list }}
  {{- range concat (default list .present) $added }}
    {{- if not (or (has . $names) (has . $removed)) }}
      {{- $names = append $names . }}
    {{- end }}
  {{- end }}
  {{- toJson $names }}
{{- end }}

{{/* Puts the processors of every pipeline into the one order; those of one place are in the order of their names. */}}
{{- define "ai-otel.sortProcessors" -}}
  {{- range $_, $pipeline := .pipelines }}
    {{- if hasKey $pipeline "processors" }}
      {{- $ranked := list }}
      {{- range $name := $pipeline.processors }}
        {{- $ranked = append $ranked (printf "%s %s" (include "ai-otel.rank" (dict "name" $name "order" $.order)) $name) }}
      {{- end }}
      {{- $sorted := list }}
      {{- range sortAlpha $ranked }}
        {{- $sorted = append $sorted (splitn " " 2 .)._1 }}
      {{- end }}
      {{- $_ := set $pipeline "processors" $sorted }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Where a processor belongs, in three digits. One that the order does not know comes last. */}}
{{- define "ai-otel.rank" -}}
  {{- $place := len .order }}
  {{- range $at, $pattern := .order }}
    {{- if and (eq $place (len $.order)) (include "ai-otel.matches" (dict "pattern" $pattern "name" $.name)) }}
      {{- $place = $at }}
    {{- end }}
  {{- end }}
  {{- range $at, $pattern := .order }}
    {{- if eq $pattern $.name }}
      {{- $place = $at }}
    {{- end }}
  {{- end }}
  {{- printf "%03d" $place }}
{{- end }}
