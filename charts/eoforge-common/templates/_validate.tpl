{{/*
Contradictions that a schema cannot express, and unknown keys; all of them are named at once, with what to do. Below the
umbrella chart, that chart asks all of its services, so that one message names what is wrong with any of them.
*/}}

{{- define "eoforge-common.validate" -}}
{{- if not (contains "eoforge/charts/" .Template.BasePath) -}}
{{- include "eoforge-common.refuse" (include "eoforge-common.problems" . | fromJsonArray) -}}
{{- end -}}
{{- end -}}

{{- define "eoforge-common.refuse" -}}
{{- if . -}}
{{- fail (printf "\n%s" (join "\n" .)) -}}
{{- end -}}
{{- end -}}

{{/* Problems of one service's values, as a JSON list of lines that begin with the chart's name. */}}
{{- define "eoforge-common.problems" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
{{- $v := .Values -}}
{{- $problems := include "eoforge-common.unknown" . | fromJsonArray -}}
{{- $name := include "eoforge-common.fullname" . -}}
{{- if gt (len $name) 48 -}}
{{- $problems = append $problems (printf "the name %q has %d characters, and 48 is the most: labels and names of objects are made of it. Set a shorter fullnameOverride or nameOverride" $name (len $name)) -}}
{{- end -}}
{{- $both := add (len $name) (len .Release.Namespace) -}}
{{- if and $v.kserve.enabled (gt (int $both) 52) -}}
{{- $problems = append $problems (printf "the name %q (%d) and the namespace %q (%d) have %d characters together, and 52 is the most under KServe, whose host names are made of both. Set a shorter fullnameOverride, or kserve.enabled=false" $name (len $name) .Release.Namespace (len .Release.Namespace) $both) -}}
{{- end -}}
{{- $ports := list $v.ports.grpc $v.ports.rest $v.ports.health -}}
{{- with $v.ports.silo -}}
{{- $ports = append $ports . -}}
{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- $problems = append $problems (printf "ports must differ from each other; got %s" (toJson $v.ports)) -}}
{{- end -}}
{{- if and $service.uriDefault (not (include "eoforge-common.uri" .)) -}}
{{- $problems = append $problems (printf "nothing to serve: set settings.%s, or s3.bucket (global.s3.bucket)" $service.uriSetting) -}}
{{- end -}}
{{- if and (eq $v.tls.mode "pod") (not (include "eoforge-common.tlsSecret" .)) -}}
{{- $problems = append $problems "tls.mode=pod needs tls.existingSecret (keys tls.crt, tls.key) or tls.certManager.enabled=true" -}}
{{- end -}}
{{- if and $v.tls.clientCaSecret (ne $v.tls.mode "pod") -}}
{{- $problems = append $problems "tls.clientCaSecret (mutual TLS) needs tls.mode=pod: a Gateway that ends TLS hides the client's certificate" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- $problems = append $problems "tls.certManager.enabled=true needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- $tokens := $v.auth.tokens -}}
{{- if and $tokens.existingSecret (not (and $tokens.audience $tokens.issuer)) -}}
{{- $problems = append $problems "auth.tokens.existingSecret needs auth.tokens.audience and auth.tokens.issuer" -}}
{{- end -}}
{{- if not (or $tokens.existingSecret $v.tls.clientCaSecret $v.auth.anonymous) -}}
{{- $problems = append $problems "nobody could be told apart: set auth.tokens.existingSecret or tls.clientCaSecret, or say auth.anonymous=true" -}}
{{- end -}}
{{- if and $v.auth.anonymous (or $tokens.existingSecret $v.tls.clientCaSecret) -}}
{{- $problems = append $problems "auth.anonymous=true lets anyone call, and auth.tokens.existingSecret or tls.clientCaSecret asks who calls: set one of them" -}}
{{- end -}}
{{- if and $v.ports.silo (not (and $tokens.existingSecret $v.tls.clientCaSecret)) -}}
{{- $problems = append $problems "ports.silo separates silos with certificates from operators with tokens: it needs tls.clientCaSecret and auth.tokens.existingSecret" -}}
{{- end -}}
{{- range $key, $value := $v.settings -}}
{{- if and (regexMatch "Uris?$" $key) (kindIs "string" $value) -}}
{{- range splitList "," $value -}}
{{- $scheme := regexFind "^[A-Za-z][A-Za-z0-9+.-]*://" (trim .) -}}
{{- if and $scheme (not (has $scheme (list "s3://" "file://"))) -}}
{{- $problems = append $problems (printf "settings.%s: %q is no address of a store; expected s3://BUCKET/..., or a path in the pod" $key (trim .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $problems = concat $problems (include "eoforge-common.acrossProblems" . | fromJsonArray) -}}
{{- $problems = concat $problems (include "eoforge-common.resourceProblems" . | fromJsonArray) -}}
{{- $own := ternary "kserve-container" "server" $v.kserve.enabled -}}
{{- $taken := list $own "wait-for-store" -}}
{{- range concat ($v.initContainers | default list) ($v.sidecars | default list) -}}
{{- if has .name $taken -}}
{{- $problems = append $problems (printf "initContainers and sidecars: the name %q is taken by another container of the pod" .name) -}}
{{- end -}}
{{- $taken = append $taken .name -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- $problems = append $problems "ingress.enabled=true needs ingress.hosts" -}}
{{- end -}}
{{- if and $v.service.nodePort (ne $v.service.type "NodePort") -}}
{{- $problems = append $problems (printf "service.nodePort needs service.type=NodePort; got %s" $v.service.type) -}}
{{- end -}}
{{- if and $v.route.enabled (not $v.route.parentRefs) -}}
{{- $problems = append $problems "route.enabled=true needs route.parentRefs, the Gateway to attach to" -}}
{{- end -}}
{{- if and $v.route.enabled (eq $v.tls.mode "pod") (not $v.route.hostnames) -}}
{{- $problems = append $problems "a TLSRoute tells services apart by server name: set route.hostnames" -}}
{{- end -}}
{{- if and $v.service.headless (ne $v.service.type "ClusterIP") -}}
{{- $problems = append $problems (printf "service.headless=true (no cluster address) and service.type=%s exclude each other" $v.service.type) -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.tls.clientCaSecret (not $v.metrics.serviceMonitor.clientCertSecret) -}}
{{- $problems = append $problems "tls.clientCaSecret closes /metrics to callers without a certificate too: metrics.serviceMonitor.enabled=true needs metrics.serviceMonitor.clientCertSecret" -}}
{{- end -}}
{{- $drain := addf (dig "drainNoticeSeconds" 3.0 $v.settings | default 3.0) (dig "drainSeconds" 30.0 $v.settings | default 30.0) -}}
{{- if lt (float64 $v.terminationGracePeriodSeconds) $drain -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds=%v is shorter than the service's own drain of %v s: calls would be cut off" $v.terminationGracePeriodSeconds $drain) -}}
{{- end -}}
{{- if not $service.single -}}
{{- if and (eq $v.autoscaling.type "keda") (not $v.autoscaling.prometheusAddress) -}}
{{- $problems = append $problems "autoscaling.type=keda needs autoscaling.prometheusAddress" -}}
{{- end -}}
{{- if and (eq $v.autoscaling.type "keda") (not $v.metrics.serviceMonitor.enabled) -}}
{{- $problems = append $problems "autoscaling.type=keda counts calls in series that carry the names of a ServiceMonitor: without metrics.serviceMonitor.enabled=true it would never scale" -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $problems = append $problems "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- $lines := list -}}
{{- range $problems -}}
{{- $lines = append $lines (printf "%s: %s" $.Chart.Name .) -}}
{{- end -}}
{{- toJson $lines -}}
{{- end -}}
