{{/* What eoforge-common must know about the console. */}}
{{- define "console.service" -}}
module: services.console
apis: []
uriSetting: patchesUri
uriDefault: patches.lance
leastMemory: 512Mi
single: false
{{- end -}}

{{- define "console.alerts" -}}
- alert: EoforgeConsoleUpstreamDown
  expr: sum(rate(eoforge_requests_total{ {{- .series -}} ,code="503"}[5m])) > 0.1
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: "Pages of {{ .name }} say that a service or the store behind them cannot be reached."
    runbook: docs/operations.md#upstream-down
{{- end -}}

{{- define "console.panels" -}}
- {title: Pages per second, unit: reqps, legend: "{{ `{{method}}` }}", expr: {{ printf "sum by (method) (rate(eoforge_requests_total{%s}[5m]))" .series | quote }}}
{{- end -}}

{{/* Address of a service of the same release; takes (dict "root" . "name" NAME). */}}
{{- define "console.sibling" -}}
{{- include "eoforge-common.fullname" (dict "Chart" (dict "Name" .name) "Values" (dict) "Release" .root.Release) }}-api:{{ .root.Values.upstream.port -}}
{{- end -}}

{{/* Settings with the usual names in the bucket, and the services of the same release, where none are given. */}}
{{- define "console.settings" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if $s3.bucket -}}
{{- range $key, $path := dict "patchesUri" "patches.lance" "runsUri" "runs" "annotationsUri" "annotations" -}}
{{- if not (get $settings $key) -}}{{- $_ := set $settings $key (printf "s3://%s/%s" $s3.bucket $path) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "retrieval" "federation" "compression" -}}
{{- $key := printf "%sTarget" $name -}}
{{- if and (get $.Values.upstream $name) (not (get $settings $key)) -}}
{{- $_ := set $settings $key (include "console.sibling" (dict "root" $ "name" $name)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}
