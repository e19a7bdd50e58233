{{- define "emostream.name" -}}
{{- if contains "emostream" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-emostream" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "emostream.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "emostream.selector" -}}
app.kubernetes.io/name: emostream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "emostream.labels" -}}
{{ include "emostream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Where the streams of a cluster are; {cluster} stands in it. */}}
{{- define "emostream.streamUrl" -}}
{{- if .Values.ingress.enabled -}}
{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.streamHost }}
{{- else -}}
http://{{ include "emostream.name" . }}-streams-{cluster}.{{ .Release.Namespace }}.svc:7101
{{- end }}
{{- end }}

{{/* Names in ALLOWED_HOSTS: the Services by which pods reach each other, and those that viewers use. */}}
{{- define "emostream.allowedHosts" -}}
{{- $name := include "emostream.name" . -}}
{{- $app := printf "%s-app" $name -}}
{{- $hosts := list $app (printf "%s.%s" $app .Release.Namespace) (printf "%s.%s.svc" $app .Release.Namespace) (printf ".%s-subscribers.%s.svc" $name .Release.Namespace) -}}
{{- range $cluster := untilStep 1 (add1 .Values.clusters | int) 1 -}}
{{- $hosts = append $hosts (printf "%s-streams-%d.%s.svc" $name $cluster $.Release.Namespace) -}}
{{- if $.Values.ingress.enabled -}}
{{- $hosts = append $hosts ($.Values.ingress.streamHost | replace "{cluster}" ($cluster | toString)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}{{- $hosts = append $hosts .Values.ingress.host -}}{{- end -}}
{{- concat $hosts .Values.allowedHosts | join "," -}}
{{- end }}

{{/* The settings of every process. What `settings` names wins. Secrets are files, so that no pod shows them. */}}
{{- define "emostream.env" -}}
{{- $name := include "emostream.name" . -}}
{{- $kafka := .Values.kafka -}}
{{- $env := dict
  "KAFKA_BOOTSTRAP_SERVERS" (required "kafka.bootstrapServers: expected host:port of a Kafka broker" $kafka.bootstrapServers)
  "KAFKA_SECURITY_PROTOCOL" $kafka.securityProtocol
  "CLUSTERS" .Values.clusters
  "SUBSCRIBERS" 1
  "SUBSCRIBER_PORT" 7001
  "STREAM_PORT" 7101
  "ADVERTISED_URL" (printf "http://%s-subscriber-{cluster}-{subscriber}.%s-subscribers.%s.svc:7001" $name $name .Release.Namespace)
  "ADVERTISED_STREAM_URL" (include "emostream.streamUrl" .)
  "ALLOWED_HOSTS" (include "emostream.allowedHosts" .)
-}}
{{- with $kafka.saslMechanism }}{{ $_ := set $env "KAFKA_SASL_MECHANISM" . }}{{ end -}}
{{- with $kafka.saslUsername }}{{ $_ := set $env "KAFKA_SASL_USERNAME" . }}{{ end -}}
{{- if $kafka.password.secret }}{{ $_ := set $env "KAFKA_SASL_PASSWORD_FILE" "/etc/emostream/kafka-password/value" }}{{ end -}}
{{- if $kafka.ca.secret }}{{ $_ := set $env "KAFKA_SSL_CA" "/etc/emostream/kafka-ca/value" }}{{ end -}}
{{- if $kafka.certificate.secret -}}
{{- $_ := set $env "KAFKA_SSL_CERTIFICATE" "/etc/emostream/kafka-certificate/tls.crt" -}}
{{- $_ := set $env "KAFKA_SSL_KEY" "/etc/emostream/kafka-certificate/tls.key" -}}
{{- end -}}
{{- if .Values.secrets.operatorKey.secret }}{{ $_ := set $env "OPERATOR_KEY_FILE" "/etc/emostream/operator-key/value" }}{{ end -}}
{{- if .Values.secrets.apiKey.secret }}{{ $_ := set $env "API_KEY_FILE" "/etc/emostream/api-key/value" }}{{ end -}}
{{- if .Values.secrets.pushSecret.secret }}{{ $_ := set $env "PUSH_SECRET_FILE" "/etc/emostream/push-secret/value" }}{{ end -}}
{{- if .Values.ingress.trustedProxies }}{{ $_ := set $env "TRUSTED_PROXIES" (join "," .Values.ingress.trustedProxies) }}{{ end -}}
{{- $env = mustMergeOverwrite $env .Values.settings -}}
{{- range $key := keys $env | sortAlpha }}
- {name: {{ $key }}, value: {{ get $env $key | toString | quote }}}
{{- end }}
{{- end }}

{{/* Secrets by the name of their folder: the secret, and which of its keys is which file. */}}
{{- define "emostream.secretFiles" -}}
{{- $kafka := .Values.kafka -}}
{{- $certificate := dict "tls.crt" $kafka.certificate.key "tls.key" $kafka.certificate.privateKey -}}
{{- dict
  "kafka-password" (dict "secret" $kafka.password.secret "files" (dict "value" $kafka.password.key))
  "kafka-ca" (dict "secret" $kafka.ca.secret "files" (dict "value" $kafka.ca.key))
  "kafka-certificate" (dict "secret" $kafka.certificate.secret "files" $certificate)
  "operator-key" (dict "secret" .Values.secrets.operatorKey.secret "files" (dict "value" .Values.secrets.operatorKey.key))
  "api-key" (dict "secret" .Values.secrets.apiKey.secret "files" (dict "value" .Values.secrets.apiKey.key))
  "push-secret" (dict "secret" .Values.secrets.pushSecret.secret "files" (dict "value" .Values.secrets.pushSecret.key))
| toYaml }}
{{- end }}

{{/* What every container has. The root is read-only; what a process writes need not survive. */}}
{{- define "emostream.container" -}}
image: {{ include "emostream.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: run, mountPath: /data/run}
  - {name: spark, mountPath: /data/spark}
{{- range $folder, $from := include "emostream.secretFiles" . | fromYaml }}
{{- if $from.secret }}
  - {name: {{ $folder }}, mountPath: /etc/emostream/{{ $folder }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{/* What every pod has. Kubernetes' own variables, such as APP_PORT for a Service `app`, would be taken for settings. */}}
{{- define "emostream.pod" -}}
enableServiceLinks: false
terminationGracePeriodSeconds: 45
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pods.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
  - {name: run, emptyDir: {sizeLimit: 64Mi}}
  - {name: spark, emptyDir: {sizeLimit: 2Gi}}
{{- range $folder, $from := include "emostream.secretFiles" . | fromYaml }}
{{- if $from.secret }}
  - name: {{ $folder }}
    secret:
      secretName: {{ $from.secret }}
      defaultMode: 0440
      items:
{{- range $file, $key := $from.files }}
        - {key: {{ $key }}, path: {{ $file }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Tolerations of a process that is alone: it moves 30 s after its node is gone, and not after five minutes. */}}
{{- define "emostream.aloneTolerations" -}}
tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
{{- with .Values.pods.tolerations }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{/* Where the pods of one kind are: on different nodes, where that is possible. Call it with (list $ labels). */}}
{{- define "emostream.placing" -}}
{{- with (index . 0).Values.pods.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "emostream.selector" (index . 0) | nindent 8 }}
{{ index . 1 | toYaml | indent 8 }}
{{- end }}
