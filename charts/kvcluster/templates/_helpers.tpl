{{- define "kvcluster.fullname" -}}
{{- .Values.fullnameOverride | default (printf "%s-kv-controller" .Release.Name | trunc 50 | trimSuffix "-") -}}
{{- end -}}

{{- define "kvcluster.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* The service account of the operator. */}}
{{- define "kvcluster.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "kvcluster.fullname" .) }}
{{- end }}

{{/* The labels of the operator's pods: those of the values, and those of the chart, which win. */}}
{{- define "kvcluster.podLabels" -}}
{{- $own := dict "app.kubernetes.io/name" "kv-controller" "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml (merge $own .Values.podLabels) }}
{{- end }}

{{/* The labels of an object for Prometheus or Grafana: those given beside the context, and those of the chart, which win. */}}
{{- define "kvcluster.monitoringLabels" -}}
{{- $context := index . 0 }}
{{- $own := dict "app.kubernetes.io/name" "kv-controller" "app.kubernetes.io/instance" $context.Release.Name "app.kubernetes.io/managed-by" $context.Release.Service }}
{{- toYaml (merge $own (index . 1)) }}
{{- end }}

{{/* The release that a CRD in the cluster belongs to, where that is another one. */}}
{{- define "kvcluster.foreignCrd" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "kvclusters.kvcluster.io" | default dict -}}
{{- $annotations := dig "metadata" "annotations" dict $crd | default dict -}}
{{- $owner := printf "%s/%s" (get $annotations "meta.helm.sh/release-namespace") (get $annotations "meta.helm.sh/release-name") -}}
{{- if and $crd (ne $owner (printf "%s/%s" .Release.Namespace .Release.Name)) -}}
{{- $owner -}}
{{- end -}}
{{- end -}}
