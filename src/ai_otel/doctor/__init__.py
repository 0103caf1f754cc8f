"""What `ai-otel doctor` looks at: one module a question, each yields findings."""
