{{/* What the pods of our own images have in common. The argument has `root`, `name`, and `image` where that is another. */}}

{{- define "ollamesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ollamesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Service links would give every pod a variable for every service of the namespace, by names like our own. */}}
{{- define "ollamesh.podCommons" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
enableServiceLinks: false
dnsConfig: # Our names are whole; with the usual five dots each would be looked up in four other domains first.
  options: [{name: ndots, value: "2"}]
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Replicas apart from each other: over zones if that can be, over nodes too. */}}
{{- define "ollamesh.placement" -}}
{{- $class := index .root.Values.priorityClasses.names .class }}
{{- with $class }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ollamesh.selector" $ | nindent 8 }}
  {{- end }}
{{- with (index .root.Values .name).placement }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Not ready but serving for the lame duck, then calls may finish, then what is left is told; the rest is slack. */}}
{{- define "ollamesh.grace" -}}
{{ add 3 (index .root.Values .name).graceSeconds 17 }}
{{- end }}

{{/* Kubelets have no certificate; the container asks itself, by its own. */}}
{{- define "ollamesh.probes" -}}
startupProbe:
  exec:
    command: [python, -m, services.common.healthcheck, liveness]
  periodSeconds: 3
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec:
    command: [python, -m, services.common.healthcheck, liveness]
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
readinessProbe:
  exec:
    command: [python, -m, services.common.healthcheck]
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* A name and a folder for each thing that a part may write. The root is read-only. */}}
{{- define "ollamesh.scratchMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- end }}
{{- define "ollamesh.scratchVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- end }}

{{- define "ollamesh.secretMounts" -}}
{{- if include "ollamesh.secretKeys" .name }}
- {name: secrets, mountPath: /run/ollamesh/secrets, readOnly: true}
{{- if .root.Values.stores.trustBundle }}
- {name: stores, mountPath: /run/ollamesh/stores, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- define "ollamesh.secretVolumes" -}}
{{- if include "ollamesh.secretKeys" .name }}
- name: secrets
  secret:
    secretName: ollamesh-{{ .name }}
    defaultMode: 0440
    items:
      {{- range splitList "," (include "ollamesh.secretKeys" .name) }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- with .root.Values.stores.trustBundle }}
- name: stores
  configMap:
    name: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}

{{- define "ollamesh.insideMounts" -}}
{{- if ne .root.Values.mesh "istio" }}
- {name: inside, mountPath: /run/ollamesh/inside, readOnly: true}
{{- end }}
{{- end }}
{{- define "ollamesh.insideVolumes" -}}
{{- if ne .root.Values.mesh "istio" }}
- name: inside
  secret: {secretName: {{ .name }}-inside, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* One of the four services: auth, agent, inference, sandbox. */}}
{{- define "ollamesh.servicePod" -}}
{{- $v := index .root.Values .name }}
metadata:
  labels:
    {{- include "ollamesh.labels" . | nindent 4 }}
    {{- include "ollamesh.meshLabels" .root | nindent 4 }}
  annotations:
    checksum/settings: {{ include "ollamesh.settings" . | sha256sum }}
    {{- include "ollamesh.meshAnnotations" .root | nindent 4 }}
spec:
  {{- include "ollamesh.podCommons" . | nindent 2 }}
  {{- if eq .name "sandbox" }}
  {{- with $v.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if not $v.hostUsers }}
  hostUsers: false
  {{- end }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "ollamesh.grace" . }}
  securityContext:
    {{- $security := include "ollamesh.podSecurity" . | fromYaml }}
    {{- if eq .name "sandbox" }}{{ $_ := set $security "seccompProfile" $v.seccompProfile }}{{ end }}
    {{- toYaml $security | nindent 4 }}
  {{- include "ollamesh.placement" . | nindent 2 }}
  containers:
    - name: {{ .name }}
      image: {{ include "ollamesh.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [python, -m, services.{{ .name }}]
      envFrom:
        - configMapRef: {name: {{ .name }}-settings}
      {{- if eq .name "inference" }}
      env:
        {{- include "ollamesh.cell" .root | nindent 8 }}
      {{- end }}
      ports:
        {{- if eq .name "inference" }}
        {{- range $n, $port := splitList "," (include "ollamesh.inferencePorts" .root) }}
        - {name: grpc{{ if $n }}-{{ $n }}{{ end }}, containerPort: {{ $port }}}
        {{- end }}
        {{- else }}
        - {name: grpc, containerPort: {{ include "ollamesh.port" .name }}}
        {{- end }}
        - {name: metrics, containerPort: {{ include "ollamesh.metricsPort" .name }}}
      {{- include "ollamesh.probes" . | nindent 6 }}
      resources:
        {{- toYaml $v.resources | nindent 8 }}
      securityContext:
        {{- include "ollamesh.containerSecurity" . | nindent 8 }}
        {{- if and (eq .name "sandbox") (ne $v.procMount "Default") }}
        procMount: {{ $v.procMount }}
        {{- end }}
      volumeMounts:
        {{- include "ollamesh.scratchMounts" . | nindent 8 }}
        - {name: audit, mountPath: /var/lib/ollamesh/audit}
        {{- include "ollamesh.secretMounts" . | nindent 8 }}
        {{- include "ollamesh.insideMounts" . | nindent 8 }}
  volumes:
    {{- include "ollamesh.scratchVolumes" . | nindent 4 }}
    - name: audit
      emptyDir: {sizeLimit: 128Mi}
    {{- include "ollamesh.secretVolumes" . | nindent 4 }}
    {{- include "ollamesh.insideVolumes" . | nindent 4 }}
{{- end }}

{{/* Which instances a gateway has: those of its own cell, also those that are not there yet. */}}
{{- define "ollamesh.cell" -}}
{{- $instances := int .Values.ollama.instances }}
{{- if .Values.ollama.autoscaling.enabled }}{{ $instances = int .Values.ollama.autoscaling.maxInstances }}{{ end }}
- name: POD_INDEX
  valueFrom:
    fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}
- name: OLLAMA_HOSTS
  value: {{ range $n := until $instances }}{{ if $n }},{{ end }}http://ollama-$(POD_INDEX)-{{ $n }}.{{ include "ollamesh.host" (dict "root" $ "name" "ollama") }}:11434{{ end }}
{{- end }}
