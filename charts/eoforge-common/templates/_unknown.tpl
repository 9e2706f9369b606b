{{/*
Keys of values that a chart does not know, each with the nearest one that it knows. `<chart>.keys`, a YAML list of paths,
is made from values.yaml by `python -m scripts.chart_schema`; what is below such a path is the schema's matter.
*/}}

{{/* Lines of a JSON list; takes the root context, and as .Below the keys that belong to others. */}}
{{- define "eoforge-common.unknown" -}}
{{- $keys := include (printf "%s.keys" .Chart.Name) . | fromYamlArray -}}
{{- $sections := list -}}
{{- range $keys -}}
{{- $parts := splitList "." . -}}
{{- range $i := untilStep 1 (len $parts) 1 -}}
{{- $sections = append $sections (slice $parts 0 $i | join ".") -}}
{{- end -}}
{{- end -}}
{{- $found := include "eoforge-common.unknownBelow" (dict "values" .Values "at" "" "keys" $keys "sections" (uniq $sections) "others" (.Others | default list)) -}}
{{- splitList "\n" $found | compact | toJson -}}
{{- end -}}

{{- define "eoforge-common.unknownBelow" -}}
{{- range $key, $value := .values -}}
{{- $path := ternary $key (printf "%s.%s" $.at $key) (eq $.at "") -}}
{{- if or (has $path $.keys) (has $path $.others) (eq $path "eoforge-common") -}}
{{- else if has $path $.sections -}}
{{- if kindIs "map" $value -}}
{{- include "eoforge-common.unknownBelow" (merge (dict "values" $value "at" $path) (omit $ "values" "at")) -}}
{{- end -}}
{{- else -}}
{{- printf "there is no value %s%s\n" $path (include "eoforge-common.nearest" (dict "path" $path "all" (concat $.keys $.sections))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The path that is most alike, by the letters and pairs of letters in its last part; one in the same place counts for more. */}}
{{- define "eoforge-common.nearest" -}}
{{- $pairs := include "eoforge-common.pairs" .path | fromYamlArray -}}
{{- $place := splitList "." .path | initial | join "." -}}
{{- $best := "" -}}
{{- $most := 0.55 -}}
{{- range .all -}}
{{- $others := include "eoforge-common.pairs" . | fromYamlArray -}}
{{- $common := 0 -}}
{{- range $pairs -}}
{{- if has . $others -}}
{{- $common = add1 $common -}}
{{- end -}}
{{- end -}}
{{- $alike := divf (mulf 2.0 $common) (max 1 (add (len $pairs) (len $others))) -}}
{{- if eq $place (splitList "." . | initial | join ".") -}}
{{- $alike = addf $alike 0.2 -}}
{{- end -}}
{{- if gt $alike $most -}}
{{- $best = . -}}
{{- $most = $alike -}}
{{- end -}}
{{- end -}}
{{- with $best }} (did you mean {{ . }}?){{ end -}}
{{- end -}}

{{- define "eoforge-common.pairs" -}}
{{- $word := splitList "." . | last | lower -}}
{{- $pairs := splitList "" $word -}}
{{- range $i := until (int (max 0 (sub (len $word) 1))) -}}
{{- $pairs = append $pairs (substr $i (int (add $i 2)) $word) -}}
{{- end -}}
{{- toJson $pairs -}}
{{- end -}}
