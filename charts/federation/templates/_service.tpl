{{/* What eoforge-common must know about this service. One pod: two coordinators would only wait for each other's lease. */}}
{{- define "federation.service" -}}
module: services.federation
apis: [eoforge.api.federation.v1.FederationService, eoforge.api.federation.v1.SiloService]
rpc: ListRuns
uriSetting: federationUri
uriDefault: federation
leastMemory: 256Mi
single: true
long: .*/(WatchTasks|WatchRun|PutModel|GetModel|Download|PutUpdate)  # streams: open for hours, or as long as a model is large
{{- end -}}

{{- define "federation.alerts" -}}
- alert: EoforgeFederationStalled
  expr: |-
    max(eoforge_federation_runs{ {{- .series -}} }) > 0 unless sum(increase(eoforge_federation_rounds_total{ {{- .series -}} }[10m])) > 0
  for: 6h  # of unfinished runs without a round; a window of six hours would say so of a run that just began
  labels: {severity: warning}
  annotations:
    summary: "{{ .name }} has unfinished runs and has closed no round for six hours."
    runbook: docs/operations.md#stalled
- alert: EoforgeFederationNoSilos
  expr: |-
    max(eoforge_federation_runs{ {{- .series -}} }) > 0 and sum(eoforge_federation_silos_connected{ {{- .series -}} }) == 0
  for: 15m
  labels: {severity: critical}
  annotations:
    summary: "{{ .name }} has unfinished runs and not one silo is connected."
    runbook: docs/operations.md#no-silos
- alert: EoforgeFederationLeaseLost
  expr: increase(eoforge_federation_leases_lost_total{ {{- .series -}} }[1h]) > 0
  labels: {severity: warning}
  annotations:
    summary: "Another coordinator took runs from {{ .name }}: two of them are running, or one was stuck for longer than its lease."
    runbook: docs/operations.md#lease-lost
- alert: EoforgeFederationQuarantined
  expr: max(eoforge_federation_quarantined{ {{- .series -}} }) > 0
  labels: {severity: warning}
  annotations:
    summary: "{{ .name }} has set damaged objects aside; a damaged run does not go on until it is repaired."
    runbook: docs/operations.md#quarantined
{{- end -}}

{{- define "federation.panels" -}}
- {title: Runs under way, unit: short, legend: runs, expr: {{ printf "max(eoforge_federation_runs{%s})" .series | quote }}}
- {title: Silos connected, unit: short, legend: silos, expr: {{ printf "sum(eoforge_federation_silos_connected{%s})" .series | quote }}}
- {title: Rounds per hour, unit: short, legend: rounds, expr: {{ printf "sum(increase(eoforge_federation_rounds_total{%s}[1h]))" .series | quote }}}
- {title: "Answers of silos, by verdict", unit: short, legend: "{{ `{{verdict}}` }}", expr: {{ printf "sum by (verdict) (increase(eoforge_federation_updates_total{%s}[1h]))" .series | quote }}}
- {title: Tensor bytes per second, unit: Bps, legend: "{{ `{{direction}}` }}", expr: {{ printf "sum by (direction) (rate(eoforge_federation_bytes_total{%s}[5m]))" .series | quote }}}
- {title: Epsilon spent, unit: short, legend: "{{ `{{run}}` }}", expr: {{ printf "max by (run) (eoforge_federation_epsilon{%s})" .series | quote }}}
{{- end -}}
