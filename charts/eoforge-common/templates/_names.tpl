{{/* Names, labels and images. Every template of this library takes the root context of a service chart. */}}

{{/* What the library must know about the service: `<chart>.service`, a YAML map that each chart defines. */}}
{{- define "eoforge-common.service" -}}
{{- include (printf "%s.service" .Chart.Name) . -}}
{{- end -}}

{{- define "eoforge-common.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- /* Too long, the release's part gives way: the services of one umbrella must keep names of their own. */}}
{{- $rest := max 1 (sub 47 (len $name)) | int -}}
{{- printf "%s-%s" (.Release.Name | trunc $rest | trimSuffix "-") $name -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change between versions: selectors are immutable. */}}
{{- define "eoforge-common.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "eoforge-common.metaLabels" -}}
app.kubernetes.io/part-of: eoforge
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with include "eoforge-common.commonLabels" . | fromYaml }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that the operator wants on every object: those of all charts, and this chart's own, which win. */}}
{{- define "eoforge-common.commonLabels" -}}
{{- merge (dict) (.Values.commonLabels | default dict) (dig "commonLabels" (dict) (.Values.global | default dict)) | toYaml -}}
{{- end -}}

{{/* Labels of an object that has labels of its own, which win; takes (dict "root" . "more" LABELS). */}}
{{- define "eoforge-common.labelsAnd" -}}
{{- mergeOverwrite (include "eoforge-common.labels" .root | fromYaml) (.more | default dict) | toYaml -}}
{{- end -}}

{{- define "eoforge-common.labels" -}}
{{ include "eoforge-common.selector" . }}
app.kubernetes.io/component: server
{{ include "eoforge-common.metaLabels" . }}
{{- end -}}

{{/* Labels of the pods that serve; hooks and tests are other components and are never selected as servers. */}}
{{- define "eoforge-common.podSelector" -}}
{{ include "eoforge-common.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Takes (dict "root" . "component" NAME). */}}
{{- define "eoforge-common.componentLabels" -}}
{{ include "eoforge-common.selector" .root }}
app.kubernetes.io/component: {{ .component | quote }}
{{ include "eoforge-common.metaLabels" .root }}
{{- end -}}

{{/* Takes (dict "root" . "image" IMAGE). A digest wins over a tag. */}}
{{- define "eoforge-common.imageOf" -}}
{{- $global := dig "image" (dict) (.root.Values.global | default dict) -}}
{{- $registry := .image.registry | default (get $global "registry") | default (dig "imageRegistry" "" (.root.Values.global | default dict)) -}}
{{- $tag := .image.tag | default (get $global "tag") | default .root.Chart.AppVersion -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- define "eoforge-common.image" -}}
{{- include "eoforge-common.imageOf" (dict "root" . "image" .Values.image) -}}
{{- end -}}

{{/* imagePullSecrets, own and global, as a field or nothing. */}}
{{- define "eoforge-common.pullSecrets" -}}
{{- $names := concat (.Values.imagePullSecrets | default list) (dig "imagePullSecrets" (list) (.Values.global | default dict)) -}}
{{- if $names }}
imagePullSecrets:
{{- range uniq $names }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "eoforge-common.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "eoforge-common.serviceAccountObject" -}}
{{- if .Values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "eoforge-common.serviceAccount" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}
