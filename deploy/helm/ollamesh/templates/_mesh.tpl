{{/* What a service mesh wants to see on pods and ports: docs/mesh.md. */}}

{{- define "ollamesh.meshLabels" -}}
{{- if eq .Values.mesh "istio" }}
sidecar.istio.io/inject: "true"
{{- end }}
{{- end }}

{{- define "ollamesh.meshAnnotations" -}}
{{- if eq .Values.mesh "istio" }}
proxy.istio.io/config: '{"holdApplicationUntilProxyStarts": true, "proxyMetadata": {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true", "MINIMUM_DRAIN_DURATION": "5s"}}'
{{- else if eq .Values.mesh "linkerd" }}
linkerd.io/inject: enabled
config.linkerd.io/skip-inbound-ports: {{ include "ollamesh.insidePorts" . | quote }}
config.linkerd.io/skip-outbound-ports: {{ include "ollamesh.insidePorts" . | quote }}
config.alpha.linkerd.io/proxy-wait-before-exit-seconds: "5"
{{- end }}
{{- end }}

{{/* All ports on which our parts speak with each other. */}}
{{- define "ollamesh.insidePorts" -}}
50051,50052,{{ include "ollamesh.inferencePorts" . }},50054
{{- end }}

{{/* Callers who are in no mesh come to the edge, whose TLS is its own. */}}
{{- define "ollamesh.meshEdgeAnnotations" -}}
{{- if eq .Values.mesh "istio" }}
traffic.sidecar.istio.io/excludeInboundPorts: "8443,{{ include "ollamesh.metricsPort" "edge" }}"
{{- else if eq .Values.mesh "linkerd" }}
config.linkerd.io/skip-inbound-ports: "8443"
{{- end }}
{{- end }}

{{/* Who may call whom: services/common/peers.py has the table, and `make deploy-check` compares. */}}
{{- define "ollamesh.callers" -}}
{{- index (dict "auth" "edge,agent,inference,sandbox" "agent" "edge" "inference" "edge,agent" "sandbox" "edge,agent") . -}}
{{- end }}

{{/* Our own TLS is bytes to a mesh; what is plain to it, it balances by call. */}}
{{- define "ollamesh.appProtocol" -}}
{{- if eq .Values.mesh "istio" }}grpc{{ else }}tls{{ end }}
{{- end }}
