{{- define "kvcluster.fullname" -}}
{{- .Values.fullnameOverride | default (printf "%s-kv-controller" .Release.Name | trunc 50 | trimSuffix "-") -}}
{{- end -}}

{{- define "kvcluster.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
