{{/* Whether resources fit together and suffice, before a scheduler or the kernel says so. */}}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "eoforge-common.quantity" -}}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $suffix := regexFind "([KMGTPE]i|[numkMGTPE])$" (toString .) -}}
{{- mulf (trimSuffix $suffix (toString .) | float64) (get $factors $suffix) -}}
{{- end -}}

{{/* Whether resources hold a GPU: nvidia.com/gpu, a slice of one (nvidia.com/mig-1g.10gb), or another vendor's. */}}
{{- define "eoforge-common.gpu" -}}
{{- range $key, $_ := (.limits | default dict) -}}
{{- if regexMatch "/(.*gpu.*|mig-.*)$" $key }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* Problems of the resources of all containers of a service, as a JSON list; takes the root context. */}}
{{- define "eoforge-common.resourceProblems" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- range $at, $resources := dict "resources" $v.resources "doctor.resources" $v.doctor.resources "tests.resources" $v.tests.resources "waitForStore.resources" $v.waitForStore.resources -}}
{{- $limits := $resources.limits | default dict -}}
{{- if and (eq $at "resources") $v.kserve.enabled -}}
{{- $limits = merge (dict) $limits (dict "cpu" $v.kserve.cpuLimit) -}}
{{- end -}}
{{- range $key, $asked := $resources.requests | default dict -}}
{{- if hasKey $limits $key -}}
{{- if gt (include "eoforge-common.quantity" $asked | float64) (include "eoforge-common.quantity" (get $limits $key) | float64) -}}
{{- $problems = append $problems (printf "%s: the request of %v %s is above the limit of %v" $at $asked $key (get $limits $key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $memory := dig "limits" "memory" (dig "requests" "memory" "" $v.resources) $v.resources -}}
{{- if and $memory (lt (include "eoforge-common.quantity" $memory | float64) (include "eoforge-common.quantity" $service.leastMemory | float64)) -}}
{{- $problems = append $problems (printf "resources: %v of memory is less than the %s that this service takes before it serves anything" $memory $service.leastMemory) -}}
{{- end -}}
{{- $gpu := include "eoforge-common.gpu" $v.resources -}}
{{- $device := $v.settings.device | default "cpu" -}}
{{- if and (hasPrefix "cuda" $device) (not $gpu) -}}
{{- $problems = append $problems (printf "settings.device=%s needs a GPU in resources.limits, such as nvidia.com/gpu: \"1\"" $device) -}}
{{- end -}}
{{- if and $gpu (not (hasPrefix "cuda" $device)) -}}
{{- $problems = append $problems (printf "resources.limits holds a GPU that nothing uses: %s" (ternary "set settings.device=cuda" "this service computes on CPUs" (has "settings.device" (include (printf "%s.keys" .Chart.Name) . | fromYamlArray)))) -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
