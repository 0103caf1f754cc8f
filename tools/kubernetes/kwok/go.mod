module github.com/ai-otel/ai-otel/tools/kubernetes/kwok

go 1.26.0
