{{/* How callers get in, and who may. */}}

{{- define "eoforge-common.apiService" -}}
{{- $service := include "eoforge-common.service" . | fromYaml -}}
apiVersion: v1
kind: Service
metadata:
  name: "{{ include "eoforge-common.fullname" . }}-api"
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labels" . | nindent 4 }}
    {{- if eq .Values.service.type "ClusterIP" }}
    {{- include "eoforge-common.metricsLabel" . | nindent 4 }}
    {{- end }}
  {{- with .Values.service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  {{- if .Values.service.headless }}
  clusterIP: None  # clients see every pod and balance themselves: one HTTP/2 connection sticks to one pod
  {{- end }}
  {{- if ne .Values.service.type "ClusterIP" }}
  externalTrafficPolicy: {{ .Values.service.externalTrafficPolicy }}
  {{- end }}
  {{- if eq .Values.service.type "LoadBalancer" }}
  {{- with .Values.service.loadBalancerClass }}
  loadBalancerClass: {{ . | quote }}
  {{- end }}
  {{- with .Values.service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  selector: {{- include "eoforge-common.podSelector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ .Values.ports.grpc }}
      targetPort: {{ .Values.ports.grpc }}
      {{- with .Values.service.nodePort }}
      nodePort: {{ . }}
      {{- end }}
      protocol: TCP
      appProtocol: {{ ternary "https" "kubernetes.io/h2c" (eq .Values.tls.mode "pod") }}
    {{- with .Values.ports.silo }}
    - {name: silo, port: {{ . }}, targetPort: {{ . }}, protocol: TCP, appProtocol: https}
    {{- end }}
    {{- if eq .Values.service.type "ClusterIP" }}
    - {name: rest, port: {{ .Values.ports.rest }}, targetPort: {{ .Values.ports.rest }}, protocol: TCP}
    {{- end }}
{{- if ne .Values.service.type "ClusterIP" }}
---
{{- /* REST and metrics stay inside the cluster. */}}
apiVersion: v1
kind: Service
metadata:
  name: "{{ include "eoforge-common.fullname" . }}-rest"
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "eoforge-common.labels" . | nindent 4 }}
    {{- include "eoforge-common.metricsLabel" . | nindent 4 }}
spec:
  type: ClusterIP
  selector: {{- include "eoforge-common.podSelector" . | nindent 4 }}
  ports:
    - {name: rest, port: {{ .Values.ports.rest }}, targetPort: {{ .Values.ports.rest }}, protocol: TCP}
{{- end }}
{{- end -}}

{{/* An Ingress of gRPC or of REST: what it wants to know about the protocol behind it is an annotation of its own. */}}
{{- define "eoforge-common.ingress" -}}
{{- with .Values.ingress }}
{{- if .enabled }}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ include "eoforge-common.fullname" $ | quote }}
  namespace: {{ $.Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" $ | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .className }}
  ingressClassName: {{ . | quote }}
  {{- end }}
  {{- with .tlsSecret }}
  tls: [{hosts: {{ toJson $.Values.ingress.hosts }}, secretName: {{ . | quote }}}]
  {{- end }}
  rules:
    {{- $rest := eq .port "rest" }}
    {{- $backend := ternary (include "eoforge-common.restService" $) (printf "%s-api" (include "eoforge-common.fullname" $)) $rest }}
    {{- range .hosts }}
    - host: {{ . | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: {{ $backend | quote }}, port: {number: {{ ternary $.Values.ports.rest $.Values.ports.grpc $rest }}}}}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* KServe routes only its own protocol from outside, so the typed API brings its route along. */}}
{{- define "eoforge-common.route" -}}
{{- if .Values.route.enabled }}
{{- $name := include "eoforge-common.fullname" . }}
{{- $pod := eq .Values.tls.mode "pod" }}
apiVersion: {{ ternary .Values.route.tlsRouteApiVersion "gateway.networking.k8s.io/v1" $pod }}
kind: {{ ternary "TLSRoute" "GRPCRoute" $pod }}
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  parentRefs: {{- toYaml .Values.route.parentRefs | nindent 4 }}
  {{- with .Values.route.hostnames }}
  hostnames: {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- $backend := printf "{name: \"%s-api\", port: %v}" $name (.Values.ports.silo | default .Values.ports.grpc) }}
    {{- if not $pod }}
    {{- /* The more exact match wins, so that services may share a host name; without one the whole host is this service's. */}}
    - matches:
        {{- range (include "eoforge-common.service" . | fromYaml).apis }}
        - method: {type: Exact, service: {{ . }}}
        {{- end }}
      backendRefs: [{{ $backend }}]
    {{- end }}
    - backendRefs: [{{ $backend }}]
{{- end }}
{{- end -}}

{{- define "eoforge-common.certificate" -}}
{{- if and .Values.tls.certManager.enabled (eq .Values.tls.mode "pod") }}
{{- $name := include "eoforge-common.fullname" . }}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  secretName: "{{ $name }}-tls"
  issuerRef:
    name: {{ .Values.tls.certManager.issuerRef.name | quote }}
    kind: {{ .Values.tls.certManager.issuerRef.kind | quote }}
  usages: [digital signature, key encipherment, server auth]
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  dnsNames:
    - {{ $name }}-api
    - {{ $name }}-api.{{ .Release.Namespace }}
    - {{ $name }}-api.{{ .Release.Namespace }}.svc
    {{- range concat (.Values.route.hostnames | default list) (.Values.tls.certManager.dnsNames | default list) | uniq }}
    - {{ . | quote }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Egress to names and to the store; takes the root context. */}}
{{- define "eoforge-common.storeEgress" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
{{- if dig "devS3" "enabled" false (.Values.global | default dict) }}
- ports: [{port: 8333, protocol: TCP}]
  to:
    - podSelector:
        matchLabels: {app.kubernetes.io/name: dev, app.kubernetes.io/instance: {{ .Release.Name | quote }}}
{{- else }}
- ports: [{port: {{ include "eoforge-common.portOf" ($s3.endpoint | default "https://aws") }}, protocol: TCP}]
  {{- with .Values.networkPolicy.storePeers }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Nothing comes in or goes out but this. The kubelet's probes come from the node, which policies never stop. */}}
{{- define "eoforge-common.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "eoforge-common.fullname" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- include "eoforge-common.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "eoforge-common.podSelector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: {{ .Values.ports.grpc }}, protocol: TCP}
        {{- with .Values.ports.silo }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
      {{- with .Values.networkPolicy.clientPeers }}
      from:
        {{- toYaml . | nindent 8 }}
        - podSelector:
            matchLabels: {{- include "eoforge-common.selector" $ | nindent 14 }}
        - podSelector:  # the web console of the same release, which hands on its people's tokens
            matchLabels: {app.kubernetes.io/name: console, app.kubernetes.io/instance: {{ $.Release.Name | quote }}}
      {{- end }}
    {{- with concat .Values.networkPolicy.metricsPeers .Values.networkPolicy.restPeers }}
    - ports: [{port: {{ $.Values.ports.rest }}, protocol: TCP}]
      from: {{- toYaml . | nindent 8 }}  # never an empty list: that would be everyone
    {{- end }}
  egress:
    {{- include "eoforge-common.storeEgress" . | nindent 4 }}
    {{- with .Values.otel.endpoint | default (dig "otel" "endpoint" "" (.Values.global | default dict)) }}
    - ports: [{port: {{ include "eoforge-common.portOf" . }}, protocol: TCP}]
    {{- end }}
    {{- include "eoforge-common.upstreamEgress" . | nindent 4 }}
    {{- with .Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
