{{/* The environment of a service: every EOFORGE_* variable comes from here. */}}

{{/* A value as the text that a service parses: Helm holds numbers as floats and would print 67108864 as 6.7108864e+07. */}}
{{- define "eoforge-common.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if kindIs "slice" . -}}
{{- toJson . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{- define "eoforge-common.tlsInPod" -}}
{{- if eq .Values.tls.mode "pod" }}true{{ end -}}
{{- end -}}

{{- define "eoforge-common.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}{{ include "eoforge-common.fullname" . }}-tls{{ else }}{{ .Values.tls.existingSecret }}{{ end -}}
{{- end -}}

{{- define "eoforge-common.env" -}}
{{- $service := include "eoforge-common.service" . | fromYaml }}
{{- $settings := merge (dict $service.uriSetting (include "eoforge-common.uri" .)) .Values.settings }}
- name: EOFORGE_HOST
  value: {{ .Values.listenAddress | quote }}
- name: EOFORGE_PORT
  value: {{ .Values.ports.grpc | quote }}
- name: EOFORGE_REST_PORT
  value: {{ .Values.ports.rest | quote }}
- name: EOFORGE_HEALTH_PORT
  value: {{ .Values.ports.health | quote }}
{{- with .Values.ports.silo }}
- name: EOFORGE_SILO_PORT
  value: {{ . | quote }}
{{- end }}
{{- if or (ne .Values.tls.mode "pod") .Values.auth.anonymous }}
- name: EOFORGE_INSECURE  # TLS, or telling callers apart, is left to what is in front of the pod, as the values say
  value: "true"
{{- end }}
{{- if include "eoforge-common.tlsInPod" . }}
- name: EOFORGE_TLS_CERT_FILE
  value: /etc/eoforge/tls/tls.crt
- name: EOFORGE_TLS_KEY_FILE
  value: /etc/eoforge/tls/tls.key
{{- if .Values.tls.clientCaSecret }}
- name: EOFORGE_TLS_CLIENT_CA_FILE
  value: /etc/eoforge/client-ca/ca.crt
{{- end }}
{{- end }}
{{- with .Values.auth.tokens }}
{{- if .existingSecret }}
- name: EOFORGE_TOKEN_KEY_FILE
  value: "/etc/eoforge/token/{{ .key }}"
- name: EOFORGE_TOKEN_ALGORITHM
  value: {{ .algorithm | quote }}
- name: EOFORGE_TOKEN_AUDIENCE
  value: {{ .audience | quote }}
- name: EOFORGE_TOKEN_ISSUER
  value: {{ .issuer | quote }}
{{- end }}
{{- end }}
{{- with .Values.otel.endpoint | default (dig "otel" "endpoint" "" (.Values.global | default dict)) }}
- name: EOFORGE_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- include "eoforge-common.acrossEnv" . }}
{{- range $key, $value := $settings }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- name: "EOFORGE_{{ $key | snakecase | upper }}"
  value: {{ include "eoforge-common.scalar" $value | quote }}
{{- end }}
{{- end }}
{{ include "eoforge-common.s3Env" . }}
{{ include "eoforge-common.cacheEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The root file system is read-only: everything that libraries write goes to the two volumes. */}}
{{- define "eoforge-common.cacheEnv" -}}
- {name: HOME, value: /tmp}
- {name: EOFORGE_SCRATCH, value: /tmp}
- {name: XDG_CACHE_HOME, value: /var/cache/eoforge}
- {name: TRITON_CACHE_DIR, value: /var/cache/eoforge/triton}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /var/cache/eoforge/inductor}
{{- end -}}
