{{/* Objects of the operator's own that live and end with the release; templates in them are rendered. */}}
{{- define "eoforge-common.extraManifests" -}}
{{- range .Values.extraManifests }}
{{ tpl (toYaml .) $ }}
---
{{- end }}
{{- end -}}
