//go:build tools

// Package tools names the two programs that are built from this module, so that its go.mod pins them.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
