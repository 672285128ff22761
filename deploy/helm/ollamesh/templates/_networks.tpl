{{/* Peers of network policies. */}}

{{- define "ollamesh.toPart" -}}
- podSelector:
    matchLabels:
      {{- include "ollamesh.selector" . | nindent 6 }}
{{- end }}

{{/* A store: pods by label in their namespace, or addresses. */}}
{{- define "ollamesh.toStore" -}}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . }}}
{{- else }}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .namespace }}}
  podSelector:
    matchLabels:
      {{- toYaml .podLabels | nindent 6 }}
{{- end }}
{{- end }}

{{- define "ollamesh.toCidrs" -}}
{{- range . }}
- ipBlock: {cidr: {{ . }}}
{{- end }}
{{- end }}

{{/* The internet, and nothing that is not: no pod, node or metadata service. */}}
{{- define "ollamesh.toInternet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
{{- end }}

{{- define "ollamesh.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  {{- if .hook }}
  {{- include "ollamesh.hook" (dict "weight" "-10") | nindent 2 }}
  {{- end }}
  labels:
    {{- include "ollamesh.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "ollamesh.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{- define "ollamesh.fromMonitoring" -}}
{{- if .root.Values.monitoring.enabled }}
- from:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ .root.Values.monitoring.namespace }}}
  ports: [{port: metrics}]
{{- end }}
{{- end }}
