"""The checks of `ai-otel doctor`: one module for each subject. Each check yields findings."""
