{{/* Values that this chart knows; made by `python -m scripts.chart_schema`. */}}
{{- define "eoforge-dev.keys" -}}
- exports
- s3.enabled
- s3.server
- s3.image
- s3.pullPolicy
- s3.bucket
- s3.size
- s3.storageClassName
- s3.resources
- global
{{- end -}}
