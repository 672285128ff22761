{{/* What each part is told, as data of a ConfigMap, and which secrets it has, by the names of the services' config.py. `make deploy-check` has those read what is rendered here. */}}

{{- define "ollamesh.secretKeys" -}}
{{- index (dict
  "auth" "database_url,redis_url,secret_key,encryption_key,admin_password,service_client_secret"
  "agent" "database_url,encryption_key"
  "inference" "database_url,redis_url,secret_key,encryption_key"
  "sandbox" ""
  "edge" ""
  "migrations" "admin_database_url,auth_db_password,agent_db_password,inference_db_password"
  "backup" "admin_database_url,backup_passphrase,secret_key,encryption_key"
) . -}}
{{- end }}

{{/* The variable that names the file of a key. */}}
{{- define "ollamesh.secretVariable" -}}
{{- $plain := list "database_url" "redis_url" "secret_key" "encryption_key" -}}
{{- if not (has . $plain) }}OLLAMESH_{{ end }}{{ upper . }}_FILE
{{- end }}

{{- define "ollamesh.settings" -}}
{{- $v := .root.Values }}
{{- if has .name (list "auth" "agent" "inference" "sandbox" "edge") }}
OLLAMESH_BIND: {{ if and (eq $v.mesh "istio") (ne .name "edge") }}127.0.0.1{{ else }}0.0.0.0{{ end }}
OLLAMESH_ISSUER: {{ $v.issuer | quote }}
{{- include "ollamesh.insideSettings" . }}
{{- include "ollamesh.traceSettings" . }}
{{- end }}
{{- if has .name (list "auth" "agent" "inference" "sandbox") }}
OLLAMESH_SERVICE: {{ .name }}
OLLAMESH_LAME_DUCK_S: "3"
OLLAMESH_GRACE_S: {{ (index $v .name).graceSeconds | quote }}
OLLAMESH_CONNECTION_AGE_S: {{ $v.inside.connectionAgeSeconds | quote }}
OLLAMESH_AUDIT_SPOOL: /var/lib/ollamesh/audit
OLLAMESH_{{ upper .name }}_PORT: {{ include "ollamesh.port" .name | quote }}
OLLAMESH_{{ upper .name }}_METRICS_PORT: {{ include "ollamesh.metricsPort" .name | quote }}
{{- if ne .name "auth" }}
OLLAMESH_AUTH_TARGET: {{ include "ollamesh.target" (dict "root" .root "name" "auth") }}
{{- end }}
{{- end }}
{{- include (printf "ollamesh.settings.%s" .name) .root }}
{{- with include "ollamesh.secretKeys" .name }}
{{- range splitList "," . }}
{{- if not (and (eq $.name "backup") (has . (list "secret_key" "encryption_key"))) }}
{{ include "ollamesh.secretVariable" . }}: /run/ollamesh/secrets/{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := $v.settings }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- range $name, $value := (index $v .name).settings }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* Behind Istio's sidecar everything is on loopback, and the mesh's identities take the place of ours. */}}
{{- define "ollamesh.insideSettings" }}
{{- $v := .root.Values }}
{{- if eq $v.mesh "istio" }}
OLLAMESH_INSECURE_INSIDE: "true"
{{- else }}
OLLAMESH_TRUST_DOMAIN: {{ $v.inside.trustDomain }}
OLLAMESH_NAMESPACE: {{ .root.Release.Namespace }}
OLLAMESH_TLS_CERT: /run/ollamesh/inside/tls.crt
OLLAMESH_TLS_KEY: /run/ollamesh/inside/tls.key
OLLAMESH_TLS_CA: /run/ollamesh/inside/ca.crt
{{- end }}
{{- end }}

{{- define "ollamesh.traceSettings" }}
{{- with .root.Values.traces.target }}
OLLAMESH_OTLP_TARGET: {{ . }}
OLLAMESH_TRACE_PERCENT: {{ $.root.Values.traces.percent | quote }}
{{- end }}
{{- end }}

{{- define "ollamesh.target" -}}
{{- if eq .root.Values.mesh "istio" }}127.0.0.1:{{ include "ollamesh.port" .name }}
{{- else }}dns:///{{ include "ollamesh.host" . }}:{{ include "ollamesh.port" .name }}{{ end }}
{{- end }}

{{- define "ollamesh.settings.auth" }}
OLLAMESH_AUTH_REPLICA_COUNT: {{ ternary .Values.auth.autoscaling.maxReplicas .Values.auth.replicas .Values.auth.autoscaling.enabled | quote }}
{{- end }}

{{- define "ollamesh.settings.agent" }}
OLLAMESH_INFERENCE_TARGET: {{ include "ollamesh.target" (dict "root" . "name" "inference") }}
OLLAMESH_SANDBOX_TARGET: {{ include "ollamesh.sandboxReplicas" (dict "root" . "scheme" "dns:///") }}
{{- end }}

{{- define "ollamesh.settings.inference" }}
OLLAMESH_INFERENCE_REPLICA_COUNT: {{ .Values.inference.cells | quote }}
OLLAMESH_INFERENCE_PROCESSES: {{ .Values.inference.processes | quote }}
OLLAMESH_INSTANCE_SLOTS: {{ .Values.inference.slots | quote }}
{{- with .Values.inference.models }}
OLLAMESH_MODELS: {{ toJson . | quote }}
{{- end }}
{{- end }}

{{- define "ollamesh.settings.sandbox" }}
OLLAMESH_SANDBOX_ROOT: /app/roots
OLLAMESH_SANDBOX_PROFILES: all
OLLAMESH_SANDBOX_ENGINES: {{ .Values.sandbox.engines }}
{{- end }}

{{- define "ollamesh.settings.edge" }}
OLLAMESH_EDGE_FOLDER: /run/ollamesh/edge
OLLAMESH_EDGE_TLS_PORT: "8443"
OLLAMESH_EDGE_CERT_FILE: /run/ollamesh/edge-tls/tls.crt
OLLAMESH_EDGE_KEY_FILE: /run/ollamesh/edge-tls/tls.key
OLLAMESH_EDGE_METRICS_PORT: {{ include "ollamesh.metricsPort" "edge" | quote }}
OLLAMESH_EDGE_STOP_DRAIN_S: {{ .Values.edge.drainSeconds | quote }}
OLLAMESH_EDGE_PROXIES_BEFORE: {{ ternary 1 0 (eq .Values.edge.expose "gateway") | quote }}
{{- if ne .Values.mesh "istio" }}
OLLAMESH_AUTH_REPLICAS: {{ include "ollamesh.host" (dict "root" . "name" "auth") }}:50051
OLLAMESH_AGENT_REPLICAS: {{ include "ollamesh.host" (dict "root" . "name" "agent") }}:50052
OLLAMESH_INFERENCE_REPLICAS: {{ range $n, $port := splitList "," (include "ollamesh.inferencePorts" .) }}{{ if $n }},{{ end }}{{ include "ollamesh.host" (dict "root" $ "name" "inference") }}:{{ $port }}{{ end }}
{{- else }}
OLLAMESH_AUTH_REPLICAS: 127.0.0.1:50051
OLLAMESH_AGENT_REPLICAS: 127.0.0.1:50052
OLLAMESH_INFERENCE_REPLICAS: 127.0.0.1:50053
{{- end }}
OLLAMESH_SANDBOX_REPLICAS: {{ include "ollamesh.sandboxReplicas" (dict "root" . "scheme" "") }}
{{- end }}

{{- define "ollamesh.settings.migrations" }}{{ end }}

{{- define "ollamesh.settings.backup" }}
OLLAMESH_BACKUP_FOLDER: /var/lib/ollamesh/backup/sealed
OLLAMESH_BACKUP_SPOOL: /var/lib/ollamesh/backup/spool
OLLAMESH_BACKUP_SECRETS: /run/ollamesh/secrets # Sealed along: without the two keys nobody reads the data.
OLLAMESH_BACKUP_METRICS_HOST: 0.0.0.0
OLLAMESH_BACKUP_METRICS_PORT: {{ include "ollamesh.metricsPort" "backup" | quote }}
{{- end }}
