{{/* What runs the pod: Deployment or StatefulSet, or KServe's InferenceService. */}}

{{- define "eoforge-common.workload" -}}
{{- include "eoforge-common.validate" . -}}
{{- if .Values.kserve.enabled }}
{{ include "eoforge-common.inferenceService" . }}
{{- else }}
{{ include "eoforge-common.plain" . }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.plain" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" $service.single }}
metadata:
  name: {{ include "eoforge-common.fullname" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  {{- if or $service.single (eq .Values.autoscaling.type "none") }}
  replicas: {{ ternary 1 (int .Values.replicas) $service.single }}
  {{- else if include "eoforge-common.keptReplicas" . }}
  replicas: {{ include "eoforge-common.keptReplicas" . }}
  {{- end }}
  revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
  selector:
    matchLabels: {{- include "eoforge-common.podSelector" . | nindent 6 }}
  {{- if $service.single }}
  serviceName: "{{ include "eoforge-common.fullname" . }}-api"
  podManagementPolicy: Parallel  # in order, a pod that never got ready would hold up the rollback that replaces it
  {{- else }}
  strategy: {{- include "eoforge-common.strategy" . | nindent 4 }}
  {{- end }}
  template:
    metadata:
      labels: {{- include "eoforge-common.podLabels" . | nindent 8 }}
      annotations: {{- include "eoforge-common.podAnnotations" . | nindent 8 }}
    spec:
      {{- include "eoforge-common.podSettings" . | nindent 6 }}
      containers:
        - {{- include "eoforge-common.container" . | nindent 10 }}
        {{- with .Values.sidecars }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}

{{/* A rollingUpdate beside type Recreate would be refused, and Helm merges it in from the defaults. */}}
{{- define "eoforge-common.strategy" -}}
{{- if eq .Values.strategy.type "Recreate" -}}
type: Recreate
{{- else -}}
{{- toYaml .Values.strategy -}}
{{- end -}}
{{- end -}}

{{/*
Pods of a Deployment whose number is still the one that Helm wrote: nothing has scaled it yet. Left out, the API server
would set 1 until the autoscaler's first look. What was scaled belongs to the autoscaler, and Helm leaves it out.
*/}}
{{- define "eoforge-common.keptReplicas" -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "eoforge-common.fullname" .) -}}
{{- $kept := "" -}}
{{- range dig "metadata" "managedFields" (list) $live -}}
{{- if and (ne (.subresource | default "") "scale") (hasKey (dig "fieldsV1" "f:spec" (dict) .) "f:replicas") -}}
{{- $kept = toString $live.spec.replicas -}}
{{- end -}}
{{- end -}}
{{- $kept -}}
{{- end -}}

{{/*
The container stands in the predictor itself. A predictor that names a model without a storageUri is a multi-model server
to KServe: its webhook puts an agent into each pod that fetches models, and that agent wants an HTTP readiness probe.
*/}}
{{- define "eoforge-common.inferenceService" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $scaler := dict "none" "none" "hpa" "hpa" "keda" "external" -}}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {{ include "eoforge-common.fullname" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labels" . | nindent 4 }}
    {{- if .Values.kserve.clusterLocal }}
    networking.kserve.io/visibility: cluster-local
    {{- end }}
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: {{ if $service.single }}none{{ else }}{{ get $scaler .Values.autoscaling.type }}{{ end }}
    {{- with .Values.kserve.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  predictor:
    labels: {{- include "eoforge-common.podLabels" . | nindent 6 }}
    annotations:
      prometheus.kserve.io/port: {{ .Values.ports.rest | quote }}
      prometheus.kserve.io/path: /metrics
      {{- include "eoforge-common.podAnnotations" . | nindent 6 }}
    {{- if $service.single }}
    minReplicas: 1
    maxReplicas: 1
    deploymentStrategy: {type: Recreate}
    {{- else if eq .Values.autoscaling.type "none" }}
    minReplicas: {{ .Values.replicas }}
    maxReplicas: {{ .Values.replicas }}
    deploymentStrategy: {{- include "eoforge-common.strategy" . | nindent 6 }}
    {{- else }}
    minReplicas: {{ .Values.autoscaling.minReplicas }}
    maxReplicas: {{ .Values.autoscaling.maxReplicas }}
    {{- if eq .Values.autoscaling.type "hpa" }}
    scaleMetric: cpu
    scaleTarget: {{ .Values.autoscaling.targetCpuPercent }}
    {{- end }}
    deploymentStrategy: {{- include "eoforge-common.strategy" . | nindent 6 }}
    {{- end }}
    {{- include "eoforge-common.podSettings" . | nindent 4 }}
    containers:
      - {{- include "eoforge-common.container" . | nindent 8 }}
      {{- with .Values.sidecars }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}
