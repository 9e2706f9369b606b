{{/* The object store: endpoint, region, bucket, credentials, CA. Own values win over `global.s3`. */}}

{{- define "eoforge-common.s3" -}}
{{- $merged := dict "region" "us-east-1" "caBundle" (dict "configMap" "" "key" "ca.crt") -}}
{{- $global := .Values.global | default dict -}}
{{- range $source := list ($global.s3 | default dict) (.Values.s3 | default dict) -}}
{{- range $key, $value := $source -}}
{{- if and $value (not (and (eq $key "caBundle") (not (get $value "configMap")))) -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if dig "devS3" "enabled" false $global -}}
{{- $_ := set $merged "endpoint" (printf "http://%s:8333" (include "eoforge-common.devStore" .)) -}}
{{- $_ := set $merged "bucket" ($merged.bucket | default "eoforge") -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* The development store. A StatefulSet's name must leave room for the hash that Kubernetes makes a label of. */}}
{{- define "eoforge-common.devStore" -}}
{{ .Release.Name | trunc 45 | trimSuffix "-" }}-dev-s3
{{- end -}}

{{/* Port of the endpoint, for network policies. */}}
{{- define "eoforge-common.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end -}}

{{- define "eoforge-common.s3Env" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- with $s3.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
- name: AWS_REGION
  value: {{ $s3.region | quote }}
{{- if $s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ $s3.existingSecret | quote }}, key: AWS_ACCESS_KEY_ID}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ $s3.existingSecret | quote }}, key: AWS_SECRET_ACCESS_KEY}}
{{- end }}
{{- if $s3.caBundle.configMap }}
- name: SSL_CERT_FILE
  value: "/etc/eoforge/s3-ca/{{ $s3.caBundle.key }}"
{{- end }}
{{- end -}}

{{- define "eoforge-common.s3Volumes" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- if $s3.caBundle.configMap }}
- name: s3-ca
  configMap: {name: {{ $s3.caBundle.configMap | quote }}, defaultMode: 0444}
{{- end }}
{{- end -}}

{{- define "eoforge-common.s3Mounts" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- if $s3.caBundle.configMap }}
- {name: s3-ca, mountPath: /etc/eoforge/s3-ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* What the service reads: the setting itself, or the usual name in the bucket. */}}
{{- define "eoforge-common.uri" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- $given := get .Values.settings $service.uriSetting -}}
{{- if $given }}{{ $given }}{{ else if and $s3.bucket $service.uriDefault }}{{ printf "s3://%s/%s" $s3.bucket $service.uriDefault }}{{ end -}}
{{- end -}}
