{{/* The serving pod. Every pod of these charts meets the pod security standard "restricted". */}}

{{/* OpenShift gives each namespace a range of users of its own, and refuses a pod that names another one. */}}
{{- define "eoforge-common.podSecurity" -}}
{{- $global := .Values.global | default dict -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if not (or .Values.openshift (dig "openshift" false $global)) -}}
{{- $context = merge $context (dict "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001) -}}
{{- end -}}
{{- mergeOverwrite $context (dig "podSecurityContext" (dict) $global | deepCopy) (.Values.podSecurityContext | default dict | deepCopy) | toYaml -}}
{{- end -}}

{{- define "eoforge-common.containerSecurity" -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- $global := dig "containerSecurityContext" (dict) (.Values.global | default dict) -}}
{{- mergeOverwrite $context ($global | deepCopy) (.Values.containerSecurityContext | default dict | deepCopy) | toYaml -}}
{{- end -}}

{{- define "eoforge-common.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.scratch.tmpSize }}}
{{- if .Values.scratch.cacheClaim }}
- name: cache
  persistentVolumeClaim: {claimName: {{ .Values.scratch.cacheClaim | quote }}}
{{- else }}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.scratch.cacheSize }}}
{{- end }}
{{- if include "eoforge-common.tlsInPod" . }}
- name: tls
  secret: {secretName: {{ include "eoforge-common.tlsSecret" . | quote }}, defaultMode: 0440}
{{- if .Values.tls.clientCaSecret }}
- name: client-ca  # the certificate alone: a secret that cert-manager made for a CA holds its key too
  secret: {secretName: {{ .Values.tls.clientCaSecret | quote }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- with .Values.auth.tokens }}
{{- if .existingSecret }}
- name: token
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- end }}
{{- end }}
{{- include "eoforge-common.upstreamVolumes" . }}
{{- include "eoforge-common.s3Volumes" . }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /var/cache/eoforge}
{{- if include "eoforge-common.tlsInPod" . }}
- {name: tls, mountPath: /etc/eoforge/tls, readOnly: true}
{{- if .Values.tls.clientCaSecret }}
- {name: client-ca, mountPath: /etc/eoforge/client-ca, readOnly: true}
{{- end }}
{{- end }}
{{- if .Values.auth.tokens.existingSecret }}
- {name: token, mountPath: /etc/eoforge/token, readOnly: true}
{{- end }}
{{- include "eoforge-common.upstreamMounts" . }}
{{- include "eoforge-common.s3Mounts" . }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Kubernetes' gRPC probes speak no TLS: they ask the health-only port, which no Service and no policy opens. */}}
{{- define "eoforge-common.probes" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $grpc := dict "grpc" (dict "port" (int .Values.ports.health)) -}}
{{- /* A service that waits for its first index lives, but gets no calls: its API's own health says so. */ -}}
{{- $ready := deepCopy $grpc -}}
{{- if $service.waits -}}{{- $_ := set $ready.grpc "service" (first $service.apis) -}}{{- end -}}
startupProbe: {{- mergeOverwrite (deepCopy $grpc) .Values.probes.startup | toYaml | nindent 2 }}
readinessProbe: {{- mergeOverwrite $ready .Values.probes.readiness | toYaml | nindent 2 }}
livenessProbe: {{- mergeOverwrite (deepCopy $grpc) .Values.probes.liveness | toYaml | nindent 2 }}
{{- end -}}

{{/* KServe gives every port whose name contains grpc or h2c the appProtocol h2c, which is wrong once the pod ends TLS. */}}
{{- define "eoforge-common.container" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
name: {{ ternary "kserve-container" "server" .Values.kserve.enabled }}
image: {{ include "eoforge-common.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
command: [python, -m, {{ $service.module }}]
ports:
  - {name: {{ ternary "tls" "grpc" (eq .Values.tls.mode "pod") }}, containerPort: {{ .Values.ports.grpc }}, protocol: TCP}
  {{- with .Values.ports.silo }}
  - {name: tls-silo, containerPort: {{ . }}, protocol: TCP}
  {{- end }}
  - {name: rest, containerPort: {{ .Values.ports.rest }}, protocol: TCP}
  # The health port is not listed: KServe's Service opens every port that is, and the kubelet asks by number.
env: {{- include "eoforge-common.env" . | nindent 2 }}
{{ include "eoforge-common.probes" . }}
resources: {{- include "eoforge-common.resources" . | nindent 2 }}
securityContext: {{- include "eoforge-common.containerSecurity" . | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts: {{- include "eoforge-common.mounts" . | nindent 2 }}
{{- end -}}

{{/* KServe writes its own limit of one CPU (inferenceservice-config) where none is given, also below the request. */}}
{{- define "eoforge-common.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.kserve.enabled -}}
{{- $_ := set $resources "limits" (merge ($resources.limits | default dict) (dict "cpu" .Values.kserve.cpuLimit)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* With the development store, pods and store start together: wait for it instead of failing the install. */}}
{{- define "eoforge-common.waitForStore" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
- name: wait-for-store
  image: {{ include "eoforge-common.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
  command: [/bin/sh, -c, 'until eoforge doctor "$0"; do sleep 2; done', "s3://{{ $s3.bucket }}"]
  env:
    {{- include "eoforge-common.s3Env" . | nindent 4 }}
    {{- include "eoforge-common.cacheEnv" . | nindent 4 }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources: {{- toYaml .Values.waitForStore.resources | nindent 4 }}
  securityContext: {{- include "eoforge-common.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /var/cache/eoforge}
    {{- include "eoforge-common.s3Mounts" . | nindent 4 }}
{{- end -}}

{{/* Everything of the pod but its containers. */}}
{{- define "eoforge-common.podSettings" -}}
serviceAccountName: {{ include "eoforge-common.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "eoforge-common.pullSecrets" . }}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext: {{- include "eoforge-common.podSecurity" . | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if (.Values.topologySpread).enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .Values.topologySpread.topologyKey | quote }}
    whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable | quote }}
    labelSelector:
      matchLabels: {{- include "eoforge-common.podSelector" . | nindent 8 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . | quote }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $wait := dig "devS3" "enabled" false (.Values.global | default dict) }}
{{- if or $wait .Values.initContainers }}
initContainers:
  {{- if $wait }}
  {{- include "eoforge-common.waitForStore" . | nindent 2 }}
  {{- end }}
  {{- with .Values.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
volumes: {{- include "eoforge-common.volumes" . | nindent 2 }}
{{- end -}}

{{- define "eoforge-common.podAnnotations" -}}
eoforge.io/settings: {{ toJson .Values.settings | sha256sum | trunc 16 }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.podLabels" -}}
{{ include "eoforge-common.labelsAnd" (dict "root" . "more" .Values.podLabels) }}
{{- end -}}
