{{/* Contradictions that a schema cannot express, as a JSON list of lines that begin with the chart's name. */}}
{{- define "console.problems" -}}
{{- $v := .Values -}}
{{- $settings := $v.settings -}}
{{- $problems := include "eoforge-common.unknown" . | fromJsonArray -}}
{{- if and (not $settings.oidcIssuer) (not $v.auth.anonymous) -}}
{{- $problems = append $problems "nobody could be told apart: set settings.oidcIssuer, settings.oidcClientId and settings.publicUrl, or say auth.anonymous=true" -}}
{{- end -}}
{{- if and $settings.oidcIssuer $v.auth.anonymous -}}
{{- $problems = append $problems "auth.anonymous=true lets anyone in, and settings.oidcIssuer asks who comes: set one of them" -}}
{{- end -}}
{{- if and $settings.oidcIssuer (not (and $settings.oidcClientId $settings.publicUrl)) -}}
{{- $problems = append $problems "settings.oidcIssuer needs settings.oidcClientId and settings.publicUrl" -}}
{{- end -}}
{{- if not $v.auth.sessionKey.existingSecret -}}
{{- $problems = append $problems "auth.sessionKey.existingSecret must name a secret: without it each pod encrypts cookies with a key of its own, and people would have to sign in at every other page" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "pod") (not (include "eoforge-common.tlsSecret" .)) -}}
{{- $problems = append $problems "tls.mode=pod needs tls.existingSecret (keys tls.crt, tls.key) or tls.certManager.enabled=true" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- $problems = append $problems "tls.certManager.enabled=true needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- $problems = append $problems "ingress.enabled=true needs ingress.hosts" -}}
{{- end -}}
{{- if and $v.route.enabled (not $v.route.parentRefs) -}}
{{- $problems = append $problems "route.enabled=true needs route.parentRefs, the Gateway to attach to" -}}
{{- end -}}
{{- if and $v.route.enabled (eq $v.tls.mode "pod") (not $v.route.hostnames) -}}
{{- $problems = append $problems "a TLSRoute tells services apart by server name: set route.hostnames" -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $problems = append $problems "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- $drain := addf (dig "drainNoticeSeconds" 3.0 $settings | default 3.0) (dig "drainSeconds" 30.0 $settings | default 30.0) -}}
{{- if lt (float64 $v.terminationGracePeriodSeconds) $drain -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds=%v is shorter than the console's own drain of %v s: answers would be cut off" $v.terminationGracePeriodSeconds $drain) -}}
{{- end -}}
{{- $lines := list -}}
{{- range $problems -}}
{{- $lines = append $lines (printf "console: %s" .) -}}
{{- end -}}
{{- toJson $lines -}}
{{- end -}}
