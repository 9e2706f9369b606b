{{/* Names of what Kubeflow needs. */}}

{{- define "eoforge.namespace" -}}
{{- default .Release.Namespace .Values.kubeflow.namespace -}}
{{- end -}}

{{- define "eoforge.labels" -}}
app.kubernetes.io/name: eoforge
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/part-of: eoforge
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with include "eoforge-common.commonLabels" . | fromYaml }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "eoforge.pipelinesImage" -}}
{{- include "eoforge-common.imageOf" (dict "root" . "image" .Values.kubeflow.image) -}}
{{- end -}}

{{/* Names of the pipelines to deliver, as a YAML list: those asked for, or all that are compiled. */}}
{{- define "eoforge.pipelineNames" -}}
{{- $names := .Values.kubeflow.pipelines.names -}}
{{- if not $names -}}
{{- range $path, $_ := .Files.Glob "pipelines/*.yaml" -}}
{{- $names = append $names (base $path | trimSuffix ".yaml") -}}
{{- end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{/* One compiled pipeline with this installation's image; takes (dict "root" . "name" NAME). */}}
{{- define "eoforge.compiled" -}}
{{- $text := .root.Files.Get (printf "pipelines/%s.yaml" .name) -}}
{{- $text | replace "eoforge/pipelines-python:0.1.0" (include "eoforge.pipelinesImage" .root) -}}
{{- end -}}

{{/*
Version under which these pipelines are delivered. Kubeflow never changes a version that is there, so another image or
another pipeline of the same release must have another name.
*/}}
{{- define "eoforge.pipelinesVersion" -}}
{{- $contents := list -}}
{{- range include "eoforge.pipelineNames" . | fromYamlArray -}}
{{- $contents = append $contents (include "eoforge.compiled" (dict "root" $ "name" .)) -}}
{{- end -}}
{{- printf "%s-%s" .Chart.AppVersion (join "\n" $contents | sha256sum | trunc 8) -}}
{{- end -}}

{{/* The context that the doctor of the library wants, made of the umbrella's values. */}}
{{- define "eoforge.doctor" -}}
{{- $values := dict
  "image" .Values.doctor.image "doctor" .Values.doctor "global" .Values.global "s3" (dict) "extraEnv" .Values.doctor.extraEnv "commonLabels" .Values.commonLabels
  "networkPolicy" (dict "enabled" .Values.doctor.networkPolicy) "serviceAccount" (dict "annotations" .Values.doctor.serviceAccountAnnotations) -}}
{{- include "eoforge-common.doctor" (dict "Values" $values "Release" .Release "Chart" .Chart "Files" .Files) -}}
{{- end -}}
