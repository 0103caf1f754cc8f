{{/* What each component may ask the API server. tests/kubernetes/rights/test_used.py asks a real one whether it is enough, and not too much. */}}

{{- define "ai-otel.agentRules" -}}
# Pods to read, and whose they are: a Deployment's name stands in its pods' owner.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# The kubelet's statistics. Not nodes/proxy, which is as good as a shell on the node.
- apiGroups: [""]
  resources: [nodes/stats]
  verbs: [get]
{{- end }}

{{- define "ai-otel.clusterRules" -}}
# What the k8s_cluster receiver counts.
- apiGroups: [""]
  resources: [nodes, namespaces, pods, services, replicationcontrollers, resourcequotas]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments, daemonsets, replicasets, statefulsets]
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [jobs, cronjobs]
  verbs: [list, watch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
{{- end }}

{{- define "ai-otel.gpuAgentRules" -}}
# Which device a claim of dynamic resource allocation means.
- apiGroups: [resource.k8s.io]
  resources: [resourceslices]
  verbs: [list]
{{- end }}
