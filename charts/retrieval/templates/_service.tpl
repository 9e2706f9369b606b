{{/* What eoforge-common must know about this service. */}}
{{- define "retrieval.service" -}}
module: services.retrieval
apis: [eoforge.api.retrieval.v1.RetrievalService]
rpc: ListIndexes
uriSetting: codesUri
uriDefault: codes.lance
leastMemory: 1Gi
single: false
waits: true
{{- end -}}

{{- define "retrieval.alerts" -}}
- alert: EoforgeRetrievalIndexRefused
  {{- /* Three failures in a row, however seldom it looks. */}}
  expr: increase(eoforge_index_swaps_total{ {{- .series }},result="failed"}[{{ max 1800 (mulf 4 (.root.Values.settings.pollSeconds | default 30) | ceil) }}s]) > 2
  labels: {severity: warning}
  annotations:
    summary: "A newer version of the codes cannot be loaded by {{ .name }}: it goes on with the old one."
    runbook: docs/operations.md#index-refused
- alert: EoforgeRetrievalVersionsDiffer
  expr: max(eoforge_index_version{ {{- .series -}} }) != min(eoforge_index_version{ {{- .series -}} })
  for: 15m
  labels: {severity: warning}
  annotations:
    summary: "Pods of {{ .name }} have answered from different versions of the codes for a quarter of an hour."
    runbook: docs/operations.md#versions-differ
- alert: EoforgeRetrievalEncoderBehind
  expr: sum(rate(eoforge_encode_dropped_total{ {{- .series -}} }[5m])) > 0.1
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: "Images sent to {{ .name }} are dropped before they are encoded: callers give up or the queue is full."
    runbook: docs/operations.md#encoder-behind
- alert: EoforgeRetrievalOwnerLeftOut
  expr: sum by (owner) (rate(eoforge_owner_answers_total{ {{- .series }},status!="ANSWERED"}[15m])) > 0.5 * sum by (owner) (rate(eoforge_owner_answers_total{ {{- .series -}} }[15m]))
  for: 15m
  labels: {severity: warning}
  annotations:
    summary: "More than half of the searches across archives that {{ .name }} answers are without one of the other owners."
    runbook: docs/operations.md#owner-left-out
{{- end -}}

{{- define "retrieval.panels" -}}
- {title: Version of the codes, unit: short, legend: "{{ `{{pod}}` }}", expr: {{ printf "eoforge_index_version{%s}" .series | quote }}}
- {title: Patches in the index, unit: short, legend: "{{ `{{pod}}` }}", expr: {{ printf "eoforge_index_patches{%s}" .series | quote }}}
- {title: Images waiting for the encoder, unit: short, legend: "{{ `{{pod}}` }}", expr: {{ printf "eoforge_encode_queue{%s}" .series | quote }}}
- {title: Answers of other owners per second, unit: short, legend: "{{ `{{owner}} {{status}}` }}", expr: {{ printf "sum by (owner, status) (rate(eoforge_owner_answers_total{%s}[5m]))" .series | quote }}}
- title: Images per encoder call
  unit: short
  legend: median
  expr: {{ printf "histogram_quantile(0.5, sum by (le) (rate(eoforge_encode_batch_size_bucket{%s}[5m])))" .series | quote }}
{{- end -}}
