{{/* Archives of other owners that retrieval asks, and the callers that ask for other owners. */}}

{{/* Upstreams as the service reads them; secrets become the files that eoforge-common.upstreamVolumes mounts. */}}
{{- define "eoforge-common.upstreams" -}}
{{- $found := list -}}
{{- range $number, $upstream := . -}}
{{- $folder := printf "/etc/eoforge/upstreams/%d" $number -}}
{{- $entry := dict -}}
{{- range $key, $value := omit $upstream "caSecret" "clientCertSecret" "tokenSecret" -}}
{{- $_ := set $entry (snakecase $key) $value -}}
{{- end -}}
{{- if $upstream.caSecret -}}
{{- $_ := set $entry "ca_file" (printf "%s/ca.crt" $folder) -}}
{{- end -}}
{{- if $upstream.clientCertSecret -}}
{{- $_ := set $entry "cert_file" (printf "%s/tls.crt" $folder) -}}
{{- $_ := set $entry "key_file" (printf "%s/tls.key" $folder) -}}
{{- end -}}
{{- if $upstream.tokenSecret -}}
{{- $_ := set $entry "token_file" (printf "%s/token" $folder) -}}
{{- end -}}
{{- $found = append $found $entry -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "eoforge-common.partners" -}}
{{- $found := list -}}
{{- range . -}}
{{- $entry := dict -}}
{{- range $key, $value := . -}}
{{- $_ := set $entry (snakecase $key) $value -}}
{{- end -}}
{{- $found = append $found $entry -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "eoforge-common.acrossEnv" -}}
{{- with .Values.upstreams }}
- name: EOFORGE_UPSTREAMS
  value: {{ include "eoforge-common.upstreams" . | quote }}
{{- end }}
{{- with .Values.partners }}
- name: EOFORGE_PARTNERS
  value: {{ include "eoforge-common.partners" . | quote }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.upstreamVolumes" -}}
{{- range $number, $upstream := .Values.upstreams }}
{{- if or $upstream.caSecret $upstream.clientCertSecret $upstream.tokenSecret }}
- name: upstream-{{ $number }}
  projected:
    defaultMode: 0440
    sources:
      {{- with $upstream.caSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
      {{- with $upstream.clientCertSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
      {{- with $upstream.tokenSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: token, path: token}]}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "eoforge-common.upstreamMounts" -}}
{{- range $number, $upstream := .Values.upstreams }}
{{- if or $upstream.caSecret $upstream.clientCertSecret $upstream.tokenSecret }}
- {name: upstream-{{ $number }}, mountPath: /etc/eoforge/upstreams/{{ $number }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Egress to the ports of the upstreams, at networkPolicy.upstreamPeers. */}}
{{- define "eoforge-common.upstreamEgress" -}}
{{- $peers := .Values.networkPolicy.upstreamPeers }}
{{- with .Values.upstreams }}
{{- $ports := list }}
{{- range . }}
{{- $ports = append $ports (regexFind "[0-9]+$" .address) }}
{{- end }}
- ports:
    {{- range uniq $ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $peers }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Contradictions of these values, as a JSON list. */}}
{{- define "eoforge-common.acrossProblems" -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- $owner := dig "owner" "" $v.settings -}}
{{- if and (or $v.upstreams $v.partners) (not $owner) -}}
{{- $problems = append $problems "upstreams and partners need settings.owner, the name of this archive" -}}
{{- end -}}
{{- $owners := list -}}
{{- range $v.upstreams -}}
{{- if eq .owner $owner -}}
{{- $problems = append $problems (printf "upstreams: %s is this archive itself (settings.owner)" .owner) -}}
{{- end -}}
{{- if has .owner $owners -}}
{{- $problems = append $problems (printf "upstreams: the owner %s is given twice; one archive counts once" .owner) -}}
{{- end -}}
{{- $owners = append $owners .owner -}}
{{- end -}}
{{- range $v.partners -}}
{{- if and (ne .caller "*") $v.auth.anonymous -}}
{{- $problems = append $problems (printf "partners: auth.anonymous=true tells no callers apart, so %q cannot be one; set auth.tokens.existingSecret or tls.clientCaSecret" .caller) -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
