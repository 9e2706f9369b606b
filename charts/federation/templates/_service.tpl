{{/* What eoforge-common must know about this service. One pod: two coordinators would only wait for each other's lease. */}}
{{- define "federation.service" -}}
module: services.federation
modelFormat: eoforge-federation
api: eoforge.api.federation.v1.FederationService
rpc: ListRuns
uriSetting: federationUri
uriDefault: federation
single: true
{{- end -}}

{{- define "federation.alerts" -}}
{{- end -}}

{{- define "federation.panels" -}}
[]
{{- end -}}
