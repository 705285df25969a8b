{{/* Names and labels. Pods are named FULLNAME-0 …, and so are nodes. */}}
{{- define "bongsu.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "bongsu.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "bongsu.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bongsu.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bongsu.selector" -}}
app.kubernetes.io/name: {{ include "bongsu.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bongsu.labels" -}}
{{ include "bongsu.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "bongsu.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The peer address of a pod: bongsu.peer (list $ index) */}}
{{- define "bongsu.peer" -}}
{{- $ := index . 0 -}}
{{- $full := include "bongsu.fullname" $ -}}
{{ $full }}-{{ index . 1 }}.{{ $full }}-peers.{{ $.Release.Namespace }}.svc:7400
{{- end -}}

{{/* "true" if nodes speak to each other: always but for one node without certificates. */}}
{{- define "bongsu.clustered" -}}
{{- if or .Values.certs.secret .Values.certs.certManager.enabled -}}
true
{{- else if gt (int .Values.replicas) 1 -}}
{{- fail "more than one node needs certificates: set certs.secret or certs.certManager" -}}
{{- end -}}
{{- end -}}

{{/* The settings of one pod, as TOML: bongsu.config (list $ index) */}}
{{- define "bongsu.config" -}}
{{- $ := index . 0 -}}
{{- $i := index . 1 -}}
{{- $full := include "bongsu.fullname" $ -}}
{{- $pod := printf "%s-%d" $full $i -}}
{{- $others := list -}}
{{- range $j := until (int $.Values.replicas) -}}
{{- if ne $j $i }}{{ $others = append $others (include "bongsu.peer" (list $ $j)) }}{{ end -}}
{{- end -}}
[serve]
data = "/var/lib/bongsu"
listen = "0.0.0.0:8080"
log_format = "json"
shards = {{ int $.Values.shards }}
drain_timeout = "{{ $.Values.drainSeconds }}s"
{{- with $.Values.origins }}
origin = {{ toJson . }}
{{- end }}
{{- if $.Values.tls.secret }}
tls_cert = "/etc/bongsu/tls/tls.crt"
tls_key = "/etc/bongsu/tls/tls.key"
{{- end }}
{{- if include "bongsu.clustered" $ }}
node = {{ $pod | quote }}
certs = "/etc/bongsu/certs/{{ $pod }}"
peer_listen = "0.0.0.0:7400"
peer_address = {{ include "bongsu.peer" (list $ $i) | quote }}
{{- if and $others (or (gt $i 0) (not $.Values.cluster.bootstrap)) }}
join = {{ toJson $others }}
{{- end }}
{{- end }}
{{- range $key, $value := $.Values.serve }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{ end -}}

{{/* The pods' certificates, a folder for each. All pods see all of them: a
     secret that is mounted by a subpath would not be renewed. */}}
{{- define "bongsu.certs" -}}
{{- $full := include "bongsu.fullname" . -}}
projected:
  defaultMode: 0440
  sources:
    {{- range $i := until (int .Values.replicas) }}
    {{- $pod := printf "%s-%d" $full $i }}
    {{- if $.Values.certs.certManager.enabled }}
    - secret:
        name: {{ $pod }}-cert
        items:
          - {key: ca.crt, path: {{ $pod }}/authority.pem}
          - {key: tls.crt, path: {{ $pod }}/node.pem}
          - {key: tls.key, path: {{ $pod }}/node.key}
    {{- else }}
    - secret:
        name: {{ $.Values.certs.secret }}
        items:
          - {key: authority.pem, path: {{ $pod }}/authority.pem}
          - {key: {{ $pod }}.node.pem, path: {{ $pod }}/node.pem}
          - {key: {{ $pod }}.node.key, path: {{ $pod }}/node.key}
    {{- end }}
    {{- end }}
{{- end -}}

{{- define "bongsu.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "bongsu.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
