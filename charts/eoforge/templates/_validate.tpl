{{/* What is wrong with the values of this chart and of all its services, in one message. */}}
{{- define "eoforge.validate" -}}
{{- $services := list "retrieval" "compression" "prediction" "federation" -}}
{{- $others := concat $services (list "console" "dev") -}}
{{- $problems := include "eoforge-common.unknown" (dict "Values" .Values "Chart" .Chart "Template" .Template "Others" $others) | fromJsonArray -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- if .Values.kubeflow.enabled -}}
{{- if and $s3.existingSecret (ne $s3.existingSecret "eoforge-s3") -}}
{{- $problems = append $problems (printf "global.s3.existingSecret=%s: the compiled pipelines read the secret eoforge-s3. Name it so, or set kubeflow.enabled=false" $s3.existingSecret) -}}
{{- end -}}
{{- if and $s3.caBundle.configMap (ne $s3.caBundle.configMap "eoforge-ca") -}}
{{- $problems = append $problems (printf "global.s3.caBundle.configMap=%s: the compiled pipelines mount the config map eoforge-ca. Name it so, or set kubeflow.enabled=false" $s3.caBundle.configMap) -}}
{{- end -}}
{{- range .Values.kubeflow.pipelines.names -}}
{{- if not ($.Files.Get (printf "pipelines/%s.yaml" .)) -}}
{{- $problems = append $problems (printf "kubeflow.pipelines.names: there is no compiled pipeline %q" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.global.imageRegistry .Values.global.image.registry (ne .Values.global.imageRegistry .Values.global.image.registry) -}}
{{- $problems = append $problems (printf "global.imageRegistry=%s and global.image.registry=%s differ: set one of them" .Values.global.imageRegistry .Values.global.image.registry) -}}
{{- end -}}
{{- $lines := list -}}
{{- range $problems -}}
{{- $lines = append $lines (printf "eoforge: %s" .) -}}
{{- end -}}
{{- range $name := $services -}}
{{- $values := get $.Values $name -}}
{{- if $values.enabled -}}
{{- $lines = concat $lines (include "eoforge-common.problems" (dict "Values" $values "Chart" (dict "Name" $name) "Release" $.Release) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- if .Values.console.enabled -}}
{{- $lines = concat $lines (include "console.problems" (dict "Values" .Values.console "Chart" (dict "Name" "console") "Release" .Release) | fromJsonArray) -}}
{{- end -}}
{{- if dig "devS3" "enabled" false .Values.global -}}
{{- range include "eoforge-common.unknown" (dict "Values" .Values.dev "Chart" (dict "Name" "eoforge-dev")) | fromJsonArray -}}
{{- $lines = append $lines (printf "dev: %s" .) -}}
{{- end -}}
{{- end -}}
{{- include "eoforge-common.refuse" $lines -}}
{{- end -}}
