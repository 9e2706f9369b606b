{{/* What eoforge-common must know about this service. */}}
{{- define "compression.service" -}}
module: services.compression
modelFormat: eoforge-compression
api: eoforge.api.compression.v1.CompressionService
rpc: ListCodecs
uriSetting: bundleUris
uriDefault: ""
single: false
{{- end -}}

{{- define "compression.alerts" -}}
{{- end -}}

{{- define "compression.panels" -}}
[]
{{- end -}}
