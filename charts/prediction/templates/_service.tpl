{{/* What eoforge-common must know about this service. */}}
{{- define "prediction.service" -}}
module: services.prediction
apis: [inference.GRPCInferenceService]
rpc: ServerMetadata
uriSetting: bundleUris
uriDefault: bundles/predictor
leastMemory: 1Gi
single: false
{{- end -}}

{{- define "prediction.alerts" -}}
- alert: EoforgePredictionNetworkBehind
  expr: sum(rate(eoforge_predict_dropped_total{ {{- .series -}} }[5m])) > 0.1
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: "Patches sent to {{ .name }} are dropped before they are labelled: callers give up or the queue is full."
    runbook: docs/operations.md#network-behind
{{- end -}}

{{- define "prediction.panels" -}}
- {title: Patches waiting for a network, unit: short, legend: "{{ `{{pod}}` }}", expr: {{ printf "eoforge_predict_queue{%s}" .series | quote }}}
- title: Patches per call of a network
  unit: short
  legend: median
  expr: {{ printf "histogram_quantile(0.5, sum by (le) (rate(eoforge_predict_batch_size_bucket{%s}[5m])))" .series | quote }}
{{- end -}}
