{{/* Metrics, alerts, dashboard. Each service adds its own alerts and panels: `<chart>.alerts`, `<chart>.panels`. */}}

{{/* Label matchers that pick this release's series. */}}
{{- define "eoforge-common.series" -}}
namespace="{{ .Release.Namespace }}",job="{{ include "eoforge-common.restService" . }}"
{{- end -}}

{{/* Of the one Service to scrape. KServe gives its own Service all other labels of ours, and a port called rest too. */}}
{{- define "eoforge-common.metricsLabel" -}}
eoforge.io/metrics: "true"
{{- end -}}

{{- define "eoforge-common.restService" -}}
{{ include "eoforge-common.fullname" . }}-{{ ternary "api" "rest" (eq .Values.service.type "ClusterIP") }}
{{- end -}}

{{- define "eoforge-common.serviceMonitor" -}}
{{- if .Values.metrics.serviceMonitor.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "eoforge-common.fullname" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labelsAnd" (dict "root" . "more" .Values.metrics.serviceMonitor.labels) | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "eoforge-common.selector" . | nindent 6 }}
      {{- include "eoforge-common.metricsLabel" . | nindent 6 }}
  namespaceSelector: {matchNames: [{{ .Release.Namespace | quote }}]}
  endpoints:
    - port: rest
      path: /metrics
      interval: {{ .Values.metrics.serviceMonitor.interval | quote }}
      {{- if include "eoforge-common.tlsInPod" . }}
      scheme: https
      tlsConfig:
        serverName: {{ include "eoforge-common.fullname" . }}-api
        ca: {secret: {name: {{ .Values.metrics.serviceMonitor.caSecret | default (include "eoforge-common.tlsSecret" .) | quote }}, key: ca.crt}}
        {{- with .Values.metrics.serviceMonitor.clientCertSecret }}
        cert: {secret: {name: {{ . | quote }}, key: tls.crt}}
        keySecret: {name: {{ . | quote }}, key: tls.key}
        {{- end }}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.prometheusRule" -}}
{{- if .Values.metrics.prometheusRule.enabled }}
{{- $name := include "eoforge-common.fullname" . }}
{{- $title := title .Chart.Name }}
{{- $series := include "eoforge-common.series" . }}
{{- $limits := .Values.metrics.prometheusRule }}
{{- $errors := `code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|5.."` }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labelsAnd" (dict "root" . "more" $limits.labels) | nindent 4 }}
spec:
  groups:
    - name: {{ $name | quote }}
      rules:
        - alert: Eoforge{{ $title }}Down
          expr: absent(up{ {{- $series -}} } == 1)
          for: 5m
          labels: {severity: critical}
          annotations:
            summary: No pod of {{ $name }} in {{ $.Release.Namespace }} answers.
            runbook: docs/operations.md#down
        - alert: Eoforge{{ $title }}Errors
          expr: |-
            sum(rate(eoforge_requests_total{ {{- $series }},{{ $errors -}} }[5m]))
              / sum(rate(eoforge_requests_total{ {{- $series -}} }[5m])) > {{ $limits.errorRatio }}
          for: 10m
          labels: {severity: critical}
          annotations:
            summary: "{{ $name }} fails {{ `{{ $value | humanizePercentage }}` }} of its calls for reasons of its own."
            runbook: docs/operations.md#errors
        - alert: Eoforge{{ $title }}Overloaded
          expr: |-
            sum(rate(eoforge_requests_total{ {{- $series }},code=~"RESOURCE_EXHAUSTED|429|503"}[5m]))
              / sum(rate(eoforge_requests_total{ {{- $series -}} }[5m])) > {{ $limits.overloadRatio }}
          for: 10m
          labels: {severity: warning}
          annotations:
            summary: "{{ $name }} turns away {{ `{{ $value | humanizePercentage }}` }} of its calls: queues or quotas are full."
            runbook: docs/operations.md#overloaded
        - alert: Eoforge{{ $title }}Slow
          expr: |-
            histogram_quantile(0.99, sum by (le) (rate(eoforge_request_seconds_bucket{ {{- $series -}} {{- with (include "eoforge-common.service" . | fromYaml).long }},method!~"{{ . }}"{{ end -}} }[5m]))) > {{ $limits.slowSeconds }}
          for: 15m
          labels: {severity: warning}
          annotations:
            summary: "One call in a hundred to {{ $name }} takes longer than {{ `{{ $value | humanizeDuration }}` }}."
            runbook: docs/operations.md#slow
        - alert: Eoforge{{ $title }}Restarting
          expr: |-
            sum by (pod) (increase(kube_pod_container_status_restarts_total{namespace="{{ .Release.Namespace }}",pod=~"{{ $name }}-.*"}[30m])) > 2
          labels: {severity: warning}
          annotations:
            summary: "{{ `{{ $labels.pod }}` }} restarts again and again."
            runbook: docs/operations.md#restarting
        - alert: Eoforge{{ $title }}FileUnusable
          expr: max by (setting) (eoforge_stale_file{ {{- $series -}} }) > 0
          for: 5m
          labels: {severity: warning}
          annotations:
            summary: "The file of {{ `{{ $labels.setting }}` }} is unusable; {{ $name }} goes on with its former content."
            runbook: docs/operations.md#file-unusable
        {{- if .Values.tls.certManager.enabled }}
        - alert: Eoforge{{ $title }}CertificateExpires
          expr: certmanager_certificate_expiration_timestamp_seconds{namespace="{{ .Release.Namespace }}",name="{{ $name }}"} - time() < 7 * 86400
          labels: {severity: critical}
          annotations:
            summary: The certificate of {{ $name }} was not renewed and expires within a week.
            runbook: docs/operations.md#certificate-expires
        {{- end }}
        {{- include (printf "%s.alerts" .Chart.Name) (dict "root" . "series" $series "name" $name) | nindent 8 }}
        {{- with $limits.extraRules }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.dashboard" -}}
{{- if .Values.metrics.dashboard.enabled }}
{{- $name := include "eoforge-common.fullname" . }}
{{- $series := include "eoforge-common.series" . }}
{{- $common := list
  (dict "title" "Calls per second, by status" "unit" "reqps" "legend" "{{code}}" "expr" (printf "sum by (code) (rate(eoforge_requests_total{%s}[5m]))" $series))
  (dict "title" "Time to answer, 99th percentile" "unit" "s" "legend" "{{method}}" "expr" (printf "histogram_quantile(0.99, sum by (le, method) (rate(eoforge_request_seconds_bucket{%s}[5m])))" $series))
  (dict "title" "Calls being answered" "unit" "short" "legend" "{{pod}}" "expr" (printf "eoforge_requests_in_flight{%s}" $series))
  (dict "title" "Memory" "unit" "bytes" "legend" "{{pod}}" "expr" (printf "process_resident_memory_bytes{%s}" $series))
-}}
{{- $own := include (printf "%s.panels" .Chart.Name) (dict "root" . "series" $series) | fromYamlArray }}
{{- $panels := list }}
{{- range $i, $panel := concat $common $own }}
{{- $target := dict "expr" $panel.expr "legendFormat" $panel.legend "refId" "A" }}
{{- $panels = append $panels (dict
  "id" (add1 $i) "type" "timeseries" "title" $panel.title "targets" (list $target)
  "datasource" (dict "type" "prometheus" "uid" "${datasource}")
  "gridPos" (dict "h" 8 "w" 12 "x" (mul 12 (mod $i 2)) "y" (mul 8 (div $i 2)))
  "fieldConfig" (dict "defaults" (dict "unit" $panel.unit "min" 0) "overrides" list)) }}
{{- end }}
{{- $source := dict "name" "datasource" "type" "datasource" "query" "prometheus" "label" "Data source" }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: "{{ $name }}-dashboard"
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labelsAnd" (dict "root" . "more" .Values.metrics.dashboard.labels) | nindent 4 }}
data:
  {{ $name }}.json: |-
    {{- dict "title" (printf "eoforge %s (%s)" .Chart.Name .Release.Namespace) "uid" (printf "%s-%s" .Release.Namespace $name | sha256sum | trunc 32) "schemaVersion" 39 "tags" (list "eoforge") "time" (dict "from" "now-6h" "to" "now") "refresh" "1m" "templating" (dict "list" (list $source)) "panels" $panels | toPrettyJson | nindent 4 }}
{{- end }}
{{- end -}}
