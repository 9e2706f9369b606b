{{/* How many pods, and how few may be left. In KServe mode KServe itself makes the HPA from the InferenceService. */}}

{{- define "eoforge-common.scaling" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $name := include "eoforge-common.fullname" . -}}
{{- if not $service.single }}
{{- if and (eq .Values.autoscaling.type "hpa") (not .Values.kserve.enabled) }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name | quote }}}
  minReplicas: {{ .Values.autoscaling.minReplicas }}
  maxReplicas: {{ .Values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ .Values.autoscaling.targetCpuPercent }}}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 300}
---
{{- end }}
{{- if eq .Values.autoscaling.type "keda" }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: "{{ $name }}{{ if .Values.kserve.enabled }}-predictor{{ end }}"}
  minReplicaCount: {{ .Values.autoscaling.minReplicas }}
  maxReplicaCount: {{ .Values.autoscaling.maxReplicas }}
  pollingInterval: 15
  cooldownPeriod: 300
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ .Values.autoscaling.prometheusAddress | quote }}
        query: sum(eoforge_requests_in_flight{ {{- include "eoforge-common.series" . -}} })
        threshold: {{ .Values.autoscaling.targetInFlight | quote }}
---
{{- end }}
{{- end }}
{{- if .Values.pdb.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "eoforge-common.podSelector" . | nindent 6 }}
{{- end }}
{{- end -}}
