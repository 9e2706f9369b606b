{{/* Jobs around an installation: the store is probed before it, the services are asked after it. */}}

{{/* Pod fields that all hook pods share; takes (dict "root" . "component" NAME). */}}
{{- define "eoforge-common.hookPod" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "eoforge-common.pullSecrets" .root }}
securityContext: {{- include "eoforge-common.podSecurity" .root | nindent 2 }}
{{- end -}}

{{/* Hooks run before anything else exists, so service account and policy are hooks of lower weight themselves. */}}
{{- define "eoforge-common.doctor" -}}
{{- $s3 := include "eoforge-common.s3" . | fromYaml -}}
{{- if and .Values.doctor.enabled $s3.bucket (not (dig "devS3" "enabled" false (.Values.global | default dict))) }}
{{- $name := printf "%s-doctor" (include "eoforge-common.fullname" .) }}
{{- $labels := include "eoforge-common.componentLabels" (dict "root" . "component" "doctor") }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: "-20"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    {{- with .Values.serviceAccount.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
automountServiceAccountToken: false
---
{{- if .Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: "-20"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  podSelector:
    matchLabels:
      {{- include "eoforge-common.selector" . | nindent 6 }}
      app.kubernetes.io/component: doctor
  policyTypes: [Ingress, Egress]
  egress: {{- include "eoforge-common.storeEgress" . | nindent 4 }}
---
{{- end }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: "-10"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    helm.sh/hook-output-log-policy: hook-failed  # the operator reads doctor's own words
spec:
  backoffLimit: 2  # its policy may reach the node some seconds after it; what is wrong stays wrong
  activeDeadlineSeconds: {{ .Values.doctor.timeoutSeconds }}
  ttlSecondsAfterFinished: 3600  # a failed one stays to be looked at, and not for ever
  template:
    metadata:
      labels: {{- $labels | nindent 8 }}
    spec:
      {{- include "eoforge-common.hookPod" (dict "root" .) | nindent 6 }}
      serviceAccountName: {{ $name | quote }}
      containers:
        - name: doctor
          image: {{ include "eoforge-common.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
          command: [eoforge, doctor, "s3://{{ $s3.bucket }}"]
          env:
            {{- include "eoforge-common.s3Env" . | nindent 12 }}
            {{- include "eoforge-common.cacheEnv" . | nindent 12 }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          resources: {{- toYaml .Values.doctor.resources | nindent 12 }}
          securityContext: {{- include "eoforge-common.containerSecurity" . | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: cache, mountPath: /var/cache/eoforge}
            {{- include "eoforge-common.s3Mounts" . | nindent 12 }}
      volumes:
        - {name: tmp, emptyDir: {}}
        - {name: cache, emptyDir: {}}
        {{- include "eoforge-common.s3Volumes" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* `helm test`: health, then one RPC of the typed API. Without a credential it checks that callers without one are refused. */}}
{{- define "eoforge-common.test" -}}
{{- if .Values.tests.enabled }}
{{- $service := include "eoforge-common.service" . | fromYaml }}
{{- $name := include "eoforge-common.fullname" . }}
{{- $tls := include "eoforge-common.tlsInPod" . }}
{{- $anonymous := not (or .Values.auth.tokens.existingSecret .Values.tls.clientCaSecret) }}
{{- $labels := include "eoforge-common.componentLabels" (dict "root" . "component" "test") }}
{{- if .Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: "{{ $name }}-test"
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- $labels | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "eoforge-common.selector" . | nindent 6 }}
      app.kubernetes.io/component: test
  policyTypes: [Ingress, Egress]
  egress:
    - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
      to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    - ports: [{port: {{ .Values.ports.grpc }}, protocol: TCP}]
      to:
        - podSelector:
            matchLabels: {{- include "eoforge-common.podSelector" . | nindent 14 }}
---
{{- end }}
apiVersion: v1
kind: Pod
metadata:
  name: "{{ $name }}-test"
  namespace: {{ .Release.Namespace | quote }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    helm.sh/hook: test
    # Deleted whatever came out, for an uninstall would leave it behind; Helm prints its log first.
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
    helm.sh/hook-output-log-policy: hook-failed,hook-succeeded
spec:
  {{- include "eoforge-common.hookPod" (dict "root" .) | nindent 2 }}
  containers:
    - name: check
      image: {{ include "eoforge-common.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
      command:
        - python
        - -m
        - services._runtime.check
        - {{ $name }}-api:{{ .Values.ports.grpc }}
        - {{ first $service.apis }}/{{ $service.rpc }}
        {{- if $tls }}
        - --ca=/etc/eoforge/tls/ca.crt
        {{- end }}
        {{- if .Values.tests.tokenSecret }}
        - --token-file=/etc/eoforge/token/token
        {{- end }}
        {{- if .Values.tests.clientCertSecret }}
        - --cert=/etc/eoforge/client/tls.crt
        - --key=/etc/eoforge/client/tls.key
        {{- end }}
        {{- if not (or $anonymous .Values.tests.tokenSecret .Values.tests.clientCertSecret) }}
        - --expect-refusal
        {{- end }}
      env: {{- include "eoforge-common.cacheEnv" . | nindent 8 }}
      resources: {{- toYaml .Values.tests.resources | nindent 8 }}
      securityContext: {{- include "eoforge-common.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: cache, mountPath: /var/cache/eoforge}
        {{- if $tls }}
        - {name: tls, mountPath: /etc/eoforge/tls, readOnly: true}
        {{- end }}
        {{- if .Values.tests.tokenSecret }}
        - {name: token, mountPath: /etc/eoforge/token, readOnly: true}
        {{- end }}
        {{- if .Values.tests.clientCertSecret }}
        - {name: client, mountPath: /etc/eoforge/client, readOnly: true}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {}}
    - {name: cache, emptyDir: {}}
    {{- if $tls }}
    - name: tls
      secret: {secretName: {{ .Values.tests.caSecret | default (include "eoforge-common.tlsSecret" .) | quote }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
    {{- end }}
    {{- with .Values.tests.tokenSecret }}
    - name: token
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.tests.clientCertSecret }}
    - name: client
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
{{- end }}
{{- end -}}
