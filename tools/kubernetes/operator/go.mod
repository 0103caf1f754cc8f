module github.com/ai-otel/ai-otel/tools/kubernetes/operator

go 1.26.0
