module github.com/ai-otel/ai-otel/tools/kubernetes/kubeconform

go 1.26.0
