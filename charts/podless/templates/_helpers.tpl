{{/* Labels of every object of the chart. */}}
{{- define "podless.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: podless
app.kubernetes.io/name: podless
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels by which the pods of a component are selected. In: a dict of root and component. */}}
{{- define "podless.selector" -}}
app.kubernetes.io/name: podless
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The reference of an image. In: a dict of root and image. */}}
{{- define "podless.image" -}}
{{- $registry := required "image.registry is required: no images are published yet; build them with `make image` and push them to a registry of yours" .root.Values.image.registry -}}
{{- if .image.digest -}}
{{ $registry }}/{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ $registry }}/{{ .image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What Pod Security `restricted` asks of a pod. */}}
{{- define "podless.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What Pod Security `restricted` asks of a container, and a root file system that nobody writes. */}}
{{- define "podless.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Bytes of a quantity. In: a quantity, as in 2Gi. */}}
{{- define "podless.bytes" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1000 "Ki" 1024 "M" 1000000 "Mi" 1048576 "G" 1000000000 "Gi" 1073741824 "T" 1000000000000 "Ti" 1099511627776 -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[a-zA-Z]*$" $text -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $units $unit) | int64 -}}
{{- end }}
