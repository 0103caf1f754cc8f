module github.com/ai-otel/ai-otel/tools/kubernetes/etcd

go 1.26.0
