{{- define "patchbay.name" -}}
{{- $name := .Values.fullnameOverride }}
{{- if not $name }}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | replace "." "-" }}
{{- /* A Service's name begins with a letter, and is no longer than 63 with what comes behind it. */}}
{{- if regexMatch "^[0-9]" $name }}{{ $name = printf "p%s" $name }}{{ end }}
{{- if gt (len $name) 46 }}{{ $name = printf "%s-%s" (trunc 40 $name | trimSuffix "-") (sha256sum $name | trunc 5) }}{{ end }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "patchbay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "patchbay.labels" -}}
{{ include "patchbay.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | regexReplaceAll "[^A-Za-z0-9._-]" "-" | trunc 63 | trimAll "-._" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "patchbay.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "patchbay.secrets" -}}
{{ .Values.secrets.existingSecret | default (include "patchbay.name" .) }}
{{- end }}

{{/* Of the NATS and the PostgreSQL for trying out. Called with a dict of root and part. Not the selector of ours: its
policies are not theirs. */}}
{{- define "patchbay.trialSelector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}-trial
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "patchbay.trialLabels" -}}
{{ include "patchbay.trialSelector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What values.schema.json cannot say. */}}
{{- define "patchbay.check" -}}
{{- if lt (int .Values.gateway.terminationGracePeriodSeconds) (add (int .Values.gateway.drainSecs) 25 | int) }}
{{- fail (printf "gateway.terminationGracePeriodSeconds is %d: a pod that drains for gateway.drainSecs (%d) needs at least %d" (int .Values.gateway.terminationGracePeriodSeconds) (int .Values.gateway.drainSecs) (add (int .Values.gateway.drainSecs) 25)) }}
{{- end }}
{{- range $role := list "gateway" "worker" }}
{{- $scale := (index $.Values $role).autoscaling }}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas is %d, more than maxReplicas (%d)" $role (int $scale.minReplicas) (int $scale.maxReplicas)) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled .Values.httpRoute.enabled }}
{{- fail "ingress.enabled and httpRoute.enabled: only one of them can lead to the gateways" }}
{{- end }}
{{- if and .Values.gateway.tlsSecret .Values.httpRoute.enabled }}
{{- fail "gateway.tlsSecret with httpRoute.enabled: a route speaks plain HTTP to its backend; let the Gateway end TLS" }}
{{- end }}
{{- if and .Values.bus.tlsClientCertificate (not .Values.bus.tlsSecret) }}
{{- fail "bus.tlsClientCertificate is set and bus.tlsSecret, which would have it, is not" }}
{{- end }}
{{- if and .Values.gateway.autoscaling.enabled (eq .Values.gateway.autoscaling.metric "cpu") (not (dig "requests" "cpu" "" .Values.gateway.resources)) }}
{{- fail "gateway.autoscaling.metric is cpu: that needs gateway.resources.requests.cpu" }}
{{- end }}
{{- range $what := list .Values.database.existingSecret .Values.bus.existingSecret .Values.secrets.existingSecret }}
{{- if eq $what (include "patchbay.name" $) }}
{{- fail (printf "the chart makes a Secret %q itself: give yours another name, or set fullnameOverride" $what) }}
{{- end }}
{{- end }}
{{- if and .Values.trial.enabled (or .Values.database.tlsSecret .Values.bus.tlsSecret .Values.bus.credentialsSecret) }}
{{- fail "trial.enabled brings a database and a bus without TLS and credentials files: database.tlsSecret, bus.tlsSecret and bus.credentialsSecret must be empty" }}
{{- end }}
{{- if and .Values.trial.enabled (or .Values.database.existingSecret .Values.bus.existingSecret) }}
{{- fail "trial.enabled brings its own database and bus: database.existingSecret and bus.existingSecret must be empty" }}
{{- end }}
{{- $given := .Values.secrets.secret }}
{{- if and $given (lt (len $given) 32) }}
{{- fail (printf "secrets.secret has %d bytes: at least 32 are needed, for example from: openssl rand -hex 32" (len $given)) }}
{{- end }}
{{- $password := .Values.secrets.adminPassword }}
{{- if and $password (or (lt (len $password) 12) (gt (len $password) 71)) }}
{{- fail (printf "secrets.adminPassword has %d bytes: 12 to 71 are needed" (len $password)) }}
{{- end }}
{{- end }}

{{- define "patchbay.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.podSecurity.userId }}
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
fsGroup: {{ . | int64 }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "patchbay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The database's URL. Of a trial: the password that the release's Secret has, or one for all time of this rendering. */}}
{{- define "patchbay.databaseUrl" -}}
{{- if .Values.trial.enabled }}
{{- printf "postgres://patchbay:%s@%s-trial-postgresql:5432/postgres" (include "patchbay.trialPassword" .) (include "patchbay.name" .) }}
{{- else }}
{{- .Values.database.url }}
{{- end }}
{{- end }}

{{- define "patchbay.trialPassword" -}}
{{- if not (hasKey .Values.trial "generated") }}
{{- $kept := (lookup "v1" "Secret" .Release.Namespace (include "patchbay.name" .) | default dict).data | default dict }}
{{- $_ := set .Values.trial "generated" (index $kept "trial-password" | default "" | b64dec | default (randAlphaNum 24)) }}
{{- end }}
{{- .Values.trial.generated }}
{{- end }}

{{/* What reaches the database. Called with a dict of root and the name of the chart's own secret. */}}
{{- define "patchbay.databaseEnv" -}}
{{- $database := .root.Values.database -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret | default .secret }}
      key: {{ ternary $database.existingSecretKey "database-url" (ne $database.existingSecret "") }}
- {name: PATCHBAY_DATA_DIR, value: /var/lib/patchbay}
- {name: PATCHBAY_DB_CONNECTIONS, value: {{ $database.connections | quote }}}
{{- end }}

{{/* What every process of the release is told. */}}
{{- define "patchbay.env" -}}
{{ include "patchbay.databaseEnv" (dict "root" . "secret" (include "patchbay.name" .)) }}
- name: PATCHBAY_BUS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.bus.existingSecret | default (include "patchbay.name" .) }}
      key: {{ ternary .Values.bus.existingSecretKey "bus-url" (ne .Values.bus.existingSecret "") }}
- name: PATCHBAY_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "patchbay.secrets" . }}, key: secret}}
- name: PATCHBAY_ADMIN_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "patchbay.secrets" . }}, key: admin-password}}
- {name: PATCHBAY_BUS_PREFIX, value: {{ .Values.bus.prefix | quote }}}
{{- if .Values.bus.credentialsSecret }}
{{- if eq .Values.bus.credentialsKind "nkey" }}
- {name: PATCHBAY_BUS_NKEY_FILE, value: /etc/patchbay/bus/nkey}
{{- else }}
- {name: PATCHBAY_BUS_CREDENTIALS_FILE, value: /etc/patchbay/bus/credentials}
{{- end }}
{{- end }}
{{- if .Values.bus.tlsSecret }}
- {name: PATCHBAY_BUS_TLS_CA, value: /etc/patchbay/bus-tls/ca.crt}
{{- if .Values.bus.tlsClientCertificate }}
- {name: PATCHBAY_BUS_TLS_CERT, value: /etc/patchbay/bus-tls/tls.crt}
- {name: PATCHBAY_BUS_TLS_KEY, value: /etc/patchbay/bus-tls/tls.key}
{{- end }}
{{- end }}
- {name: RUST_LOG, value: {{ .Values.logLevel | quote }}}
{{- end }}

{{/* Where a long-running process listens, and what it says of itself in traces. */}}
{{- define "patchbay.serverEnv" -}}
- {name: PATCHBAY_INTERNAL_LISTEN, value: "0.0.0.0:3002"}
{{- if .Values.telemetry.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .Values.telemetry.endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: http/protobuf}
- {name: OTEL_TRACES_SAMPLER, value: {{ .Values.telemetry.sampler | quote }}}
{{- if .Values.telemetry.samplerArg }}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .Values.telemetry.samplerArg | quote }}}
{{- end }}
- {name: K8S_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: K8S_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: K8S_POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: K8S_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(K8S_NAMESPACE),k8s.pod.name=$(K8S_POD),k8s.pod.uid=$(K8S_POD_UID),k8s.node.name=$(K8S_NODE)
{{- end }}
{{- end }}

{{- define "patchbay.gatewayEnv" -}}
{{- $own := .Values.gateway -}}
- {name: PATCHBAY_LISTEN, value: "0.0.0.0:3001"}
- {name: PATCHBAY_DRAIN_SECS, value: {{ $own.drainSecs | quote }}}
- {name: PATCHBAY_MAX_CONNECTIONS, value: {{ $own.maxConnections | int64 | quote }}}
- {name: PATCHBAY_TRUSTED_PROXIES, value: {{ join "," $own.trustedProxies | quote }}}
{{- if $own.publicUrl }}
- {name: PATCHBAY_PUBLIC_URL, value: {{ $own.publicUrl | quote }}}
{{- end }}
{{- if $own.tlsSecret }}
- {name: PATCHBAY_TLS_CERT, value: /etc/patchbay/tls/tls.crt}
- {name: PATCHBAY_TLS_KEY, value: /etc/patchbay/tls/tls.key}
{{- end }}
{{- end }}

{{/* Variables of ours, but those that extraEnv says in another way. Called with a dict of ours and theirs. */}}
{{- define "patchbay.mergedEnv" -}}
{{- $said := dict }}
{{- range .theirs }}{{ $_ := set $said .name true }}{{ end }}
{{- $all := list }}
{{- range .ours }}{{ if not (hasKey $said .name) }}{{ $all = append $all . }}{{ end }}{{ end }}
{{- toYaml (concat $all .theirs) }}
{{- end }}

{{/* The port that is reached: as it is set, or as the URL has it, or the scheme's. Called with a dict of port, url and default. */}}
{{- define "patchbay.port" -}}
{{- $in := regexFind ":[0-9]+$" (urlParse (.url | default "")).host | trimPrefix ":" }}
{{- .port | default $in | default .default }}
{{- end }}

{{- define "patchbay.databasePort" -}}
{{- if .Values.trial.enabled }}5432{{ else }}{{ include "patchbay.port" (dict "port" .Values.database.port "url" (ternary "" .Values.database.url (ne .Values.database.existingSecret "")) "default" 5432) }}{{ end }}
{{- end }}

{{- define "patchbay.busPort" -}}
{{- if .Values.trial.enabled }}4222{{ else }}{{ include "patchbay.port" (dict "port" .Values.bus.port "url" (ternary "" .Values.bus.url (ne .Values.bus.existingSecret "")) "default" 4222) }}{{ end }}
{{- end }}

{{- define "patchbay.mounts" -}}
- {name: data, mountPath: /var/lib/patchbay}
{{- if .Values.database.tlsSecret }}
- {name: database-tls, mountPath: /etc/patchbay/database, readOnly: true}
{{- end }}
{{- if .Values.bus.credentialsSecret }}
- {name: bus, mountPath: /etc/patchbay/bus, readOnly: true}
{{- end }}
{{- if .Values.bus.tlsSecret }}
- {name: bus-tls, mountPath: /etc/patchbay/bus-tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "patchbay.volumes" -}}
- {name: data, emptyDir: {sizeLimit: 16Mi}}
{{- if .Values.database.tlsSecret }}
- {name: database-tls, secret: {secretName: {{ .Values.database.tlsSecret }}, defaultMode: 0440}}
{{- end }}
{{- if .Values.bus.credentialsSecret }}
- {name: bus, secret: {secretName: {{ .Values.bus.credentialsSecret }}, defaultMode: 0440}}
{{- end }}
{{- if .Values.bus.tlsSecret }}
- {name: bus-tls, secret: {secretName: {{ .Values.bus.tlsSecret }}, defaultMode: 0440}}
{{- end }}
{{- end }}

{{/* The pod of what runs once. Called with a dict of root, name, command and env. */}}
{{- define "patchbay.oncePod" -}}
{{- $root := .root }}
restartPolicy: Never
# Not the release's own account: before the first sync of some tools it does not exist.
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "patchbay.podSecurity" $root | nindent 2 }}
{{- include "patchbay.pullSecrets" $root }}
containers:
  - name: {{ .name }}
    image: {{ include "patchbay.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: {{ toJson .command }}
    env: {{- .env | nindent 6 }}
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
    securityContext: {{- include "patchbay.containerSecurity" $root | nindent 6 }}
    volumeMounts: {{- include "patchbay.mounts" $root | nindent 6 }}
volumes: {{- include "patchbay.volumes" $root | nindent 2 }}
{{- end }}

{{- define "patchbay.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . }}}
  {{- end }}
{{- end }}
{{- end }}

{{/* A role's Deployment. Called with a dict of root and role. */}}
{{- define "patchbay.deployment" -}}
{{- $root := .root }}{{ $role := .role }}{{ $own := index $root.Values $role }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "patchbay.name" $root }}-{{ $role }}
  labels: {{- include "patchbay.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $role }}
spec:
  {{- if not $own.autoscaling.enabled }}
  replicas: {{ $own.replicas }}
  {{- else }}
  {{- /* As many as there are: without a number Helm would set one, until the autoscaler looks again. */}}
  {{- with lookup "apps/v1" "Deployment" $root.Release.Namespace (printf "%s-%s" (include "patchbay.name" $root) $role) }}
  replicas: {{ .spec.replicas }}
  {{- end }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels: {{- include "patchbay.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ $role }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels: {{- include "patchbay.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $role }}
      # Pods are replaced when what they were told has changed; what is generated stays as it is. Whoever reads the checksum
      # has to try out guesses of a password by scrypt.
      {{- $told := derivePassword 1 "maximum" (toJson (list $root.Values.database $root.Values.bus $root.Values.secrets)) $root.Release.Name $root.Release.Namespace }}
      annotations: {{- toYaml (merge (dict "checksum/secret" (sha256sum $told | trunc 16)) $own.podAnnotations) | nindent 8 }}
    spec:
      serviceAccountName: {{ include "patchbay.name" $root }}
      automountServiceAccountToken: false
      # Kubernetes would put PATCHBAY_PORT=tcp://… into the environment.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ $own.terminationGracePeriodSeconds }}
      securityContext: {{- include "patchbay.podSecurity" $root | nindent 8 }}
      {{- include "patchbay.pullSecrets" $root | indent 6 }}
      {{- with $own.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $own.topologySpread }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "patchbay.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ $role }}
      {{- end }}
      containers:
        - name: {{ $role }}
          image: {{ include "patchbay.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [/patchbay, {{ $role }}]
          {{- $ours := concat (include "patchbay.env" $root | fromYamlArray) (include "patchbay.serverEnv" $root | fromYamlArray) }}
          {{- if eq $role "gateway" }}{{ $ours = concat $ours (include "patchbay.gatewayEnv" $root | fromYamlArray) }}{{ end }}
          env: {{- include "patchbay.mergedEnv" (dict "ours" $ours "theirs" $own.extraEnv) | nindent 12 }}
          ports:
            {{- if eq $role "gateway" }}
            - {name: public, containerPort: 3001}
            {{- end }}
            - {name: internal, containerPort: 3002}
          # The start waits 10 s each for the database and the bus, and may migrate: as long as the Job may.
          startupProbe: {httpGet: {path: /livez, port: internal}, periodSeconds: 2, failureThreshold: 300}
          # Neither NATS nor PostgreSQL has a say in it: a restart would not bring them back.
          livenessProbe: {httpGet: {path: /livez, port: internal}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
          readinessProbe: {httpGet: {path: /readyz, port: internal}, periodSeconds: 3, timeoutSeconds: 2}
          lifecycle:
            preStop: {exec: {command: [/patchbay, drain]}}
          resources: {{- toYaml $own.resources | nindent 12 }}
          securityContext: {{- include "patchbay.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            {{- include "patchbay.mounts" $root | nindent 12 }}
            {{- if and (eq $role "gateway") $own.tlsSecret }}
            - {name: tls, mountPath: /etc/patchbay/tls, readOnly: true}
            {{- end }}
      volumes:
        {{- include "patchbay.volumes" $root | nindent 8 }}
        {{- if and (eq $role "gateway") $own.tlsSecret }}
        - {name: tls, secret: {secretName: {{ $own.tlsSecret }}, defaultMode: 0440}}
        {{- end }}
{{- end }}

{{/* The way to DNS and to the database. */}}
{{- define "patchbay.toDatabase" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports: [{port: {{ include "patchbay.databasePort" . }}}]
  {{- with .Values.networkPolicy.databaseTo }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
