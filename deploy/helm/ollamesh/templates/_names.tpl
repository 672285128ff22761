{{/* Parts have plain names: a service account is what SPIRE and Istio make an identity of, and docs/inside.md says which. So a namespace holds one release. */}}

{{- define "ollamesh.selector" -}}
app.kubernetes.io/part-of: ollamesh
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "ollamesh.labels" -}}
{{ include "ollamesh.selector" . }}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "ollamesh.image" -}}
{{- $v := .root.Values.image -}}
{{- $tag := $v.tag | default .root.Chart.AppVersion -}}
{{- $digest := index $v.digests .name | default "" -}}
{{- with $v.registry }}{{ . }}/{{ end }}{{ $v.repository }}/{{ .name }}:{{ $tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "ollamesh.ollamaImage" -}}
{{- $v := .Values.ollama.image -}}
{{- with .Values.image.registry }}{{ . }}/{{ end }}{{ $v.repository }}:{{ $v.tag }}{{ with $v.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "ollamesh.port" -}}
{{- index (dict "auth" 50051 "agent" 50052 "inference" 50053 "sandbox" 50054) . -}}
{{- end }}

{{- define "ollamesh.metricsPort" -}}
{{- index (dict "auth" 9461 "agent" 9462 "inference" 9463 "sandbox" 9464 "edge" 9465 "backup" 9466) . -}}
{{- end }}

{{/* A service's name as gRPC and Envoy ask for it. */}}
{{- define "ollamesh.host" -}}
{{ .name }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* The ports of the processes of a gateway, as services/common/process_ports.py has them. */}}
{{- define "ollamesh.inferencePorts" -}}
{{- range $n := until (int .Values.inference.processes) -}}
{{ if $n }},{{ end }}{{ add 50053 (mul 10 $n) }}
{{- end }}
{{- end }}

{{/* Where the replicas of the sandbox are, one by one: a user's programs stay with one of them. Behind Istio's sidecar each has a port of loopback. */}}
{{- define "ollamesh.sandboxReplicas" -}}
{{- range $n := until (int .root.Values.sandbox.replicas) -}}
{{ if $n }},{{ end }}
{{- if eq $.root.Values.mesh "istio" }}127.0.0.1:{{ add 50054 (mul 10 $n) }}
{{- else }}{{ $.scheme }}sandbox-{{ $n }}.{{ include "ollamesh.host" (dict "root" $.root "name" "sandbox") }}:50054{{ end }}
{{- end }}
{{- end }}
