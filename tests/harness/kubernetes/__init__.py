"""A real Kubernetes on loopback: its control plane, charts, pods, kubelet and operator."""
