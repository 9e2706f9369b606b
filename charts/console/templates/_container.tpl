{{/* The serving container: its variables, files and probes. */}}

{{- define "console.env" -}}
- name: EOFORGE_HOST
  value: {{ .Values.listenAddress | quote }}
- name: EOFORGE_REST_PORT
  value: {{ .Values.ports.rest | quote }}
{{- if or (ne .Values.tls.mode "pod") .Values.auth.anonymous }}
- name: EOFORGE_INSECURE  # TLS, or telling people apart, is left to what is in front of the pod, as the values say
  value: "true"
{{- end }}
{{- if include "eoforge-common.tlsInPod" . }}
- name: EOFORGE_TLS_CERT_FILE
  value: /etc/eoforge/tls/tls.crt
- name: EOFORGE_TLS_KEY_FILE
  value: /etc/eoforge/tls/tls.key
{{- end }}
- name: EOFORGE_SESSION_KEY_FILE
  value: /etc/eoforge/session/{{ .Values.auth.sessionKey.key }}
{{- if .Values.auth.clientSecret.existingSecret }}
- name: EOFORGE_OIDC_CLIENT_SECRET_FILE
  value: /etc/eoforge/client/{{ .Values.auth.clientSecret.key }}
{{- end }}
{{- if .Values.upstream.caSecret }}
- name: EOFORGE_SERVICE_CA_FILE
  value: /etc/eoforge/upstream/ca.crt
{{- end }}
{{- with .Values.otel.endpoint | default (dig "otel" "endpoint" "" (.Values.global | default dict)) }}
- name: EOFORGE_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- range $key, $value := include "console.settings" . | fromYaml }}
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

{{/* The secrets of the console beside those of every service. */}}
{{- define "console.volumes" -}}
- name: session
  secret: {secretName: {{ .Values.auth.sessionKey.existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .Values.auth.sessionKey.key | quote }}, path: {{ .Values.auth.sessionKey.key | quote }}}]}
{{- with .Values.auth.clientSecret }}
{{- if .existingSecret }}
- name: client
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- end }}
{{- end }}
{{- with .Values.upstream.caSecret }}
- name: upstream
  secret: {secretName: {{ . | quote }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{- define "console.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /var/cache/eoforge}
- {name: session, mountPath: /etc/eoforge/session, readOnly: true}
{{- if .Values.auth.clientSecret.existingSecret }}
- {name: client, mountPath: /etc/eoforge/client, readOnly: true}
{{- end }}
{{- if .Values.upstream.caSecret }}
- {name: upstream, mountPath: /etc/eoforge/upstream, readOnly: true}
{{- end }}
{{- if include "eoforge-common.tlsInPod" . }}
- {name: tls, mountPath: /etc/eoforge/tls, readOnly: true}
{{- end }}
{{- include "eoforge-common.s3Mounts" . }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "console.container" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (eq .Values.tls.mode "pod") -}}
{{- $live := dict "httpGet" (dict "path" "/health/live" "port" "rest" "scheme" $scheme) -}}
{{- $ready := dict "httpGet" (dict "path" "/health/ready" "port" "rest" "scheme" $scheme) -}}
name: server
image: {{ include "eoforge-common.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
command: [python, -m, services.console]
ports:
  - {name: rest, containerPort: {{ .Values.ports.rest }}, protocol: TCP}
env: {{- include "console.env" . | nindent 2 }}
startupProbe: {{- mergeOverwrite (deepCopy $live) .Values.probes.startup | toYaml | nindent 2 }}
readinessProbe: {{- mergeOverwrite (deepCopy $ready) .Values.probes.readiness | toYaml | nindent 2 }}
livenessProbe: {{- mergeOverwrite (deepCopy $live) .Values.probes.liveness | toYaml | nindent 2 }}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "eoforge-common.containerSecurity" . | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts: {{- include "console.mounts" . | nindent 2 }}
{{- end -}}
