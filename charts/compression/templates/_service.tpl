{{/* What eoforge-common must know about this service. */}}
{{- define "compression.service" -}}
module: services.compression
apis: [eoforge.api.compression.v1.CompressionService]
rpc: ListCodecs
uriSetting: bundleUris
uriDefault: ""
leastMemory: 1Gi
single: false
waits: true
{{- end -}}

{{- define "compression.alerts" -}}
- alert: EoforgeCompressionCodecBehind
  expr: sum(rate(eoforge_codec_dropped_total{ {{- .series -}} }[5m])) > 0.1
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: "Patches sent to {{ .name }} are dropped before they are coded: callers give up or the queue is full."
    runbook: docs/operations.md#codec-behind
{{- end -}}

{{- define "compression.panels" -}}
- {title: Patches waiting for a codec, unit: short, legend: "{{ `{{pod}}` }}", expr: {{ printf "eoforge_codec_queue{%s}" .series | quote }}}
- title: Patches per codec call
  unit: short
  legend: median
  expr: {{ printf "histogram_quantile(0.5, sum by (le) (rate(eoforge_codec_batch_size_bucket{%s}[5m])))" .series | quote }}
{{- end -}}
